// The stores with their maps, and the list of regions. Elements are kept and only what changed is touched, so that a few
// hundred regions stay quick.

import { bytes, count, h, percent, range, setText, spaced, stateOf } from "./words.js";

const cards = new Map();
const rows = new Map();
let selectedId = null;
let onSelect = () => {};
let onWarmthChanged = () => {};

const list = document.getElementById("regions");
const filter = document.getElementById("filter");
const empty = document.getElementById("regions-empty");

/** `select(id)` when a region is chosen; `warmthChanged(region, peer, state)` when a replica becomes warm, cold, …. */
export function setUpRegions({ select, warmthChanged }) {
  onSelect = select;
  onWarmthChanged = warmthChanged;
  filter.addEventListener("input", applyFilter);
  // One stop for the tab key; arrows go on from there.
  list.addEventListener("keydown", (event) => {
    const shown = [...rows.values()].map((row) => row.item).filter((item) => !item.hidden).sort(inPageOrder);
    const at = shown.findIndex((item) => item.contains(document.activeElement));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1, PageDown: at + 10, PageUp: at - 10 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const target = shown[Math.max(0, Math.min(shown.length - 1, to))];
    target.firstElementChild.focus();
  });
  list.addEventListener("focusin", (event) => {
    const item = event.target.closest("li");
    if (item) setTabStop(item);
  });
  list.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (item) onSelect(Number(item.dataset.id));
  });
}

const inPageOrder = (a, b) => (a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1);

function setTabStop(item) {
  for (const { item: other } of rows.values()) other.firstElementChild.tabIndex = other === item ? 0 : -1;
}

export function markSelected(id) {
  selectedId = id;
  for (const [other, row] of rows) {
    if (other === id) row.item.firstElementChild.setAttribute("aria-current", "true");
    else row.item.firstElementChild.removeAttribute("aria-current");
  }
  for (const { marks } of cards.values()) for (const [other, mark] of marks) mark.classList.toggle("selected", other === id);
}

export function focusRegion(id) {
  rows.get(id)?.item.firstElementChild.focus();
}

/** Shows the answers to `/status` and `/regions`. */
export function showRegions(status, regions) {
  const storeIds = status.stores.map((store) => store.store_id);
  document.documentElement.style.setProperty("--stores", storeIds.length);
  showHead(storeIds);
  showList(regions, storeIds);
  for (const store of status.stores) showStore(store, regions);
  for (const [storeId, card] of cards) {
    if (storeIds.includes(storeId)) continue;
    card.root.remove();
    cards.delete(storeId);
  }
}

function showHead(storeIds) {
  const head = document.getElementById("regions-head");
  const text = storeIds.join();
  if (head.dataset.stores === text) return;
  head.dataset.stores = text;
  head.replaceChildren(h("span", {}, "Region"), ...storeIds.map((id) => h("span", {}, `Store ${id}`)));
}

function showList(regions, storeIds) {
  const seen = new Set();
  let next = list.firstElementChild;
  for (const region of regions) {
    seen.add(region.id);
    let row = rows.get(region.id);
    if (!row) {
      row = newRow(region);
      rows.set(region.id, row);
    }
    updateRow(row, region, storeIds);
    if (row.item === next) next = next.nextElementSibling;
    else list.insertBefore(row.item, next);
  }
  for (const [id, row] of rows) {
    if (seen.has(id)) continue;
    const hadFocus = row.item.contains(document.activeElement);
    row.item.remove();
    rows.delete(id);
    if (hadFocus) document.getElementById("regions-title").focus();
  }
  if (rows.size && !list.querySelector('[tabindex="0"]')) setTabStop(list.firstElementChild);
  setText(document.getElementById("regions-count"), regions.length.toLocaleString("en"));
  applyFilter();
}

function newRow(region) {
  const [name, keys, pin] = [h("b"), h("span", { class: "range" }), h("span", { class: "tag pin", hidden: true }, "pinned")];
  const button = h("button", { type: "button", class: "region-name", tabindex: "-1" }, h("span", { class: "id" }, name, pin), keys);
  return { item: h("li", { class: "region-row", "data-id": region.id }, button), button, name, keys, pin, replicas: new Map(), signature: "" };
}

function updateRow(row, region, storeIds) {
  const peers = new Map(region.peers.map((peer) => [peer.store_id, peer]));
  const states = storeIds.map((storeId) => (peers.has(storeId) ? stateOf(peers.get(storeId)) : null));
  const signature = JSON.stringify([region.start_key, region.end_key, region.leader?.store_id, region.pinned, storeIds, states, region.peers.map((peer) => peer.role)]);
  if (row.signature === signature) return;
  row.signature = signature;
  setText(row.name, String(region.id));
  setText(row.keys, range(region));
  row.pin.hidden = !region.pinned;
  const told = [`Region ${region.id}`, region.leader ? `led by store ${region.leader.store_id}` : "no leader"];
  if (region.pinned) told.push("pinned");
  storeIds.forEach((storeId, place) => {
    let cell = row.replicas.get(storeId);
    if (!cell) {
      cell = newCell(storeId);
      row.replicas.set(storeId, cell);
    }
    const peer = peers.get(storeId) ?? null;
    updateCell(cell, region, peer, states[place]);
    if (row.item.children[place + 1] !== cell.root) row.item.insertBefore(cell.root, row.item.children[place + 1] ?? null);
    if (peer) told.push(`store ${storeId} ${states[place].word}${states[place].note ? `, ${states[place].note}` : ""}`);
  });
  for (const [storeId, cell] of row.replicas) {
    if (storeIds.includes(storeId)) continue;
    cell.root.remove();
    row.replicas.delete(storeId);
  }
  row.words = `${region.id} ${told.join(" ")}`.toLowerCase();
  row.button.setAttribute("aria-label", told.join("; "));
  if (region.id === selectedId) row.button.setAttribute("aria-current", "true");
}

function newCell(storeId) {
  const parts = { mark: h("span", { class: "mark" }), word: h("span", { class: "word" }), lead: h("span", { class: "tag lead", hidden: true }, "leader"), note: h("small") };
  const root = h("div", { class: "replica", "data-store": storeId, "aria-hidden": "true" }, h("span", { class: "line-1" }, parts.mark, parts.word, parts.lead), parts.note);
  return { root, ...parts, warmth: null };
}

function updateCell(cell, region, peer, state) {
  const leads = peer !== null && region.leader?.store_id === peer.store_id;
  cell.root.classList.toggle("absent", !peer);
  mark(cell.mark, state, leads);
  setText(cell.word, state?.word ?? "no replica");
  cell.lead.hidden = !leads;
  setText(cell.note, [peer?.role === "learner" ? "learner" : "", state?.note ?? ""].filter(Boolean).join(", "));
  const warmth = state?.warmth ?? "none";
  cell.root.dataset.warmth = warmth;
  if (cell.warmth !== null && cell.warmth !== warmth) {
    cell.root.classList.remove("changed");
    // Reading a size restarts the animation.
    void cell.root.offsetWidth;
    cell.root.classList.add("changed");
    if (peer) onWarmthChanged(region, peer, state);
  }
  cell.warmth = warmth;
}

export function mark(element, state, leads) {
  element.dataset.warmth = state?.warmth ?? "none";
  element.toggleAttribute("data-waits", Boolean(state?.waits));
  element.toggleAttribute("data-leads", Boolean(leads));
}

function applyFilter() {
  const wanted = filter.value.trim().toLowerCase();
  let shown = 0;
  for (const [id, row] of rows) {
    row.item.hidden = wanted !== "" && !(/^\d+$/.test(wanted) ? String(id).startsWith(wanted) : row.words.includes(wanted));
    if (!row.item.hidden) shown += 1;
  }
  empty.hidden = shown > 0;
  setText(empty, wanted && rows.size ? `No region matches “${filter.value.trim()}”.` : "There are no regions yet.");
}

function newCard(storeId) {
  const parts = { state: h("span", { class: "tag", hidden: true }), facts: h("p", { class: "quiet facts" }), waiting: h("p", { class: "waiting", hidden: true }), used: h("span", { class: "used" }), evict: h("i", { class: "tick" }), load: h("i", { class: "tick" }), memory: h("p", { class: "quiet memory" }), map: h("div", { class: "map", "aria-hidden": "true" }) };
  parts.gauge = h("div", { class: "gauge", role: "meter", "aria-label": `Cache memory of store ${storeId}`, "aria-valuemin": 0 }, parts.used, parts.load, parts.evict);
  const root = h("article", { class: "card store", "data-store": storeId, "aria-labelledby": `store-${storeId}` }, h("h3", { id: `store-${storeId}` }, `Store ${storeId}`, parts.state), parts.facts, parts.map, parts.waiting, parts.gauge, parts.memory);
  parts.map.addEventListener("click", (event) => {
    const id = Number(event.target.dataset.id);
    if (id) onSelect(id);
  });
  document.getElementById("stores").append(root);
  return { root, ...parts, marks: new Map() };
}

function showStore(store, regions) {
  let card = cards.get(store.store_id);
  if (!card) {
    card = newCard(store.store_id);
    cards.set(store.store_id, card);
  }
  card.root.dataset.state = store.state;
  card.state.hidden = store.state === "up";
  setText(card.state, store.state === "up" ? "" : spaced(store.state));
  const { cache, preload } = store;
  setText(card.facts, `${count(store.regions, "region")}, leads ${store.leaders}, ${cache.regions_active} warm`);
  const waiting = [];
  if (preload?.parked_requests) waiting.push(`${count(preload.parked_requests, "request")} parked`);
  if (store.uninitialized) waiting.push(`${store.uninitialized} uninitialized`);
  if (store.applying_snapshots) waiting.push(`${count(store.applying_snapshots, "snapshot")} being applied`);
  if (cache.regions_loading) waiting.push(`${cache.regions_loading} loading`);
  card.waiting.hidden = waiting.length === 0;
  setText(card.waiting, waiting.join(", "));
  showGauge(card, cache);

  const seen = new Set();
  let place = 0;
  for (const region of regions) {
    const peer = region.peers.find((candidate) => candidate.store_id === store.store_id);
    if (!peer) continue;
    seen.add(region.id);
    let dot = card.marks.get(region.id);
    if (!dot) {
      dot = h("span", { class: "mark", "data-id": region.id });
      dot.classList.toggle("selected", region.id === selectedId);
      card.marks.set(region.id, dot);
    }
    const state = stateOf(peer);
    const leads = region.leader?.store_id === store.store_id;
    const title = `region ${region.id}: ${state.word}${leads ? ", leads" : ""}${state.note ? `, ${state.note}` : ""}`;
    if (dot.title !== title) {
      dot.title = title;
      mark(dot, state, leads);
    }
    if (card.map.children[place] !== dot) card.map.insertBefore(dot, card.map.children[place] ?? null);
    place += 1;
  }
  for (const [id, dot] of card.marks) {
    if (seen.has(id)) continue;
    dot.remove();
    card.marks.delete(id);
  }
}

function showGauge(card, cache) {
  const share = (number) => `${Math.min(100, (100 * number) / (cache.capacity_bytes || 1)).toFixed(2)}%`;
  card.gauge.hidden = !cache.enabled;
  card.used.style.width = share(cache.used_bytes);
  card.load.style.left = share(cache.stop_load_threshold_bytes);
  card.evict.style.left = share(cache.evict_threshold_bytes);
  card.load.title = `nothing is loaded above ${bytes(cache.stop_load_threshold_bytes)}`;
  card.evict.title = `regions are evicted above ${bytes(cache.evict_threshold_bytes)}`;
  card.gauge.dataset.level = cache.used_bytes > cache.evict_threshold_bytes ? "evict" : cache.used_bytes > cache.stop_load_threshold_bytes ? "full" : "room";
  card.gauge.setAttribute("aria-valuemax", cache.capacity_bytes);
  card.gauge.setAttribute("aria-valuenow", cache.used_bytes);
  card.gauge.setAttribute("aria-valuetext", `${bytes(cache.used_bytes)} of ${bytes(cache.capacity_bytes)}`);
  const level = { evict: ", evicting", full: ", too full to load", room: "" }[card.gauge.dataset.level];
  const reads = cache.hits + cache.misses;
  setText(card.memory, cache.enabled ? `${bytes(cache.used_bytes)} of ${bytes(cache.capacity_bytes)}${level}${reads ? `; ${percent(cache.hits / reads)} of reads from memory` : ""}` : "cache is disabled");
}
