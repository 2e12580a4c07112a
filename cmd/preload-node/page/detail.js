// One region in full, and what can be done with it.

import { get, post, remove } from "./api.js";
import { mark } from "./regions.js";
import { WANTED, bytes, clock, eventWords, h, range, setText, spaced, stateOf, verdictTone } from "./words.js";

const root = document.getElementById("detail");
let shown = { id: null, signature: "" };
let answers = [];
/** The operations that are under way, by region. */
const busy = new Map();
let hooks = { close: () => {}, done: () => {}, note: () => {} };

/** `close()` when the region is left; `done()` after an operation; `note(text, isError)` says how it went. */
export function setUpDetail(given) {
  hooks = given;
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.key === "close") hooks.close();
    else if (button.getAttribute("aria-disabled") !== "true") act(button);
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hooks.close();
  });
  showNothing();
}

export function focusDetail() {
  root.focus({ preventScroll: true });
  root.scrollIntoView({ block: "nearest" });
}

export function showNothing() {
  shown = { id: null, signature: "" };
  root.replaceChildren(
    h("h2", { id: "detail-title" }, "Watch a warm-up"),
    h(
      "ol",
      { class: "quiet steps" },
      h("li", {}, "Choose a region in the list."),
      h("li", {}, "Press ", h("em", {}, "Evict"), " on a store that does not lead it."),
      h("li", {}, "Press ", h("em", {}, "Preload"), " there: the leader asks, the store answers, loads, and answers again."),
      h("li", {}, "Press ", h("em", {}, "Make leader"), ": it arrives warm."),
    ),
  );
}

export async function refreshAnswers(id) {
  try {
    const region = await get(`regions/${id}`);
    if (shown.id !== id) return;
    answers = region.answers;
    showAnswers();
  } catch {
    // The region may be gone, or the node: both are said elsewhere.
  }
}

/** Shows `region`, or what has become of it if it is null. Keeps the focus where it is. */
export function showDetail(id, region, storeIds) {
  if (shown.id !== id) {
    answers = [];
    shown = { id, signature: "" };
    refreshAnswers(id);
  }
  if (!region) {
    const signature = `gone ${id}`;
    if (shown.signature === signature) return;
    shown.signature = signature;
    render(heading(id, false), h("p", { class: "quiet" }, "This region is gone: it was merged into another one, or removed from all stores."));
    return;
  }
  const states = region.peers.map((peer) => [peer.store_id, peer.peer_id, peer.role, peer.raft_role, peer.pending, stateOf(peer), peer.preload?.wanted]);
  const signature = JSON.stringify([region.start_key, region.end_key, region.epoch, region.leader?.store_id, region.pinned, storeIds, states, [...(busy.get(id) ?? [])]]);
  if (shown.signature !== signature) {
    shown.signature = signature;
    renderRegion(region, storeIds);
    showAnswers();
  }
  for (const peer of region.peers) {
    const numbers = root.querySelector(`[data-numbers="${peer.store_id}"]`);
    if (numbers) setText(numbers, numbersOf(peer));
  }
}

function numbersOf(peer) {
  const parts = [`term ${peer.term}`, `applied ${peer.applied_index}${peer.commit_index > peer.applied_index ? ` of ${peer.commit_index}` : ""}`];
  if (peer.cache.bytes) parts.unshift(bytes(peer.cache.bytes));
  return parts.join(" · ");
}

const heading = (id, isPinned) =>
  h("div", { class: "head" }, h("h2", { id: "detail-title" }, `Region ${id}`, isPinned ? h("span", { class: "tag pin" }, "pinned") : null), h("button", { type: "button", class: "small", "data-key": "close", "aria-label": `Close region ${id}` }, "Close"));

/** Replaces what is shown, and gives the focus to the button that had it. */
function render(...children) {
  const key = root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  root.replaceChildren(...children);
  if (key !== undefined) (root.querySelector(`[data-key="${CSS.escape(key)}"]`) ?? root).focus();
}

function renderRegion(region, storeIds) {
  const { id } = region;
  const leader = region.leader?.store_id ?? null;
  const replicas = storeIds.map((storeId) => {
    const peer = region.peers.find((candidate) => candidate.store_id === storeId);
    return peer ? replica(region, peer, leader) : h("li", { class: "absent" }, h("div", { class: "who" }, h("span", { class: "mark", "data-warmth": "none" }), h("b", {}, `Store ${storeId}`), " no replica"), h("div", { class: "actions" }, button(id, "add-peer", storeId, "Add replica")));
  });
  render(
    heading(id, region.pinned),
    h("p", { class: "quiet" }, h("span", { class: "range" }, range(region)), ` · epoch ${region.epoch.conf_ver}.${region.epoch.version} · `, leader === null ? "no leader" : `led by store ${leader}`),
    h("ul", { class: "replicas" }, replicas),
    h("div", { class: "actions" }, button(id, "split", null, "Split in the middle"), region.pinned ? button(id, "unpin", null, "Unpin") : button(id, "pin", null, "Pin")),
    h("h3", {}, "Last answers"),
    h("ol", { class: "answers" }),
  );
}

function replica(region, peer, leader) {
  const state = stateOf(peer);
  const leads = peer.store_id === leader;
  const dot = h("span", { class: "mark" });
  mark(dot, state, leads);
  const notes = [state.note, peer.preload?.wanted ? (WANTED[peer.preload.wanted] ?? spaced(peer.preload.wanted)) : "", peer.role === "learner" ? "learner" : "", peer.pending ? "behind" : "", peer.raft_role.endsWith("candidate") ? "campaigns" : ""];
  const isInitialized = peer.lifecycle !== "uninitialized";
  return h(
    "li",
    { "data-store": peer.store_id, "data-warmth": state.warmth },
    h("div", { class: "who" }, dot, h("b", {}, `Store ${peer.store_id}`), h("span", { class: "word" }, state.word), leads ? h("span", { class: "tag lead" }, "leader") : null),
    h("p", { class: "quiet" }, h("span", { "data-numbers": peer.store_id }, numbersOf(peer)), notes.some(Boolean) ? ` · ${notes.filter(Boolean).join(", ")}` : ""),
    h(
      "div",
      { class: "actions" },
      leads ? null : button(region.id, "preload", peer.store_id, "Preload"),
      leads ? null : button(region.id, "transfer-leader", peer.store_id, "Make leader", isInitialized && peer.role === "voter" ? null : "only an initialized voter can lead"),
      button(region.id, "evict", peer.store_id, "Evict", state.warmth === "cold" ? "nothing is cached" : null),
      button(region.id, "remove-peer", peer.store_id, "Remove"),
    ),
  );
}

function button(id, what, storeId, text, whyNot = null) {
  const key = `${what}-${storeId ?? ""}`;
  const isBusy = busy.get(id)?.has(key) ?? false;
  const where = storeId === null ? `region ${id}` : `region ${id}, store ${storeId}`;
  return h("button", { type: "button", class: "small", "data-key": key, "data-what": what, "data-store": storeId, "aria-label": `${text}: ${where}${whyNot ? `, ${whyNot}` : ""}`, "aria-disabled": isBusy || whyNot ? "true" : null, "aria-busy": isBusy ? "true" : null, title: whyNot }, isBusy ? `${text}…` : text);
}

const SENT = {
  split: (id) => [post, `regions/${id}/split`, {}, (answer) => `Region ${id} is split; new: ${answer.new_regions.join(", ")}`],
  "transfer-leader": (id, store) => [post, `regions/${id}/transfer-leader`, { store }, () => `Store ${store} leads region ${id}`],
  "add-peer": (id, store) => [post, `regions/${id}/add-peer`, { store }, () => `Region ${id} has a replica on store ${store}`],
  "remove-peer": (id, store) => [post, `regions/${id}/remove-peer`, { store }, () => `Region ${id} has no replica on store ${store} any more`],
  preload: (id, store) => [post, `regions/${id}/preload`, { store }, () => `Store ${store} is asked to warm region ${id} up`],
  evict: (id, store) => [post, `regions/${id}/evict`, { store }, () => `Region ${id} is evicted from the cache of store ${store}`],
  pin: (id) => [post, "pins", { region: id }, () => `Region ${id} is pinned: it is kept warm on the store that leads it`],
  unpin: (id) => [remove, "pins", { region: id }, () => `Region ${id} is not pinned any more`],
};

async function act(pressed) {
  const { what, key } = pressed.dataset;
  const id = shown.id;
  const storeId = pressed.dataset.store === undefined ? null : Number(pressed.dataset.store);
  const name = pressed.textContent;
  const [send, path, body, done] = SENT[what](id, storeId);
  const operations = busy.get(id) ?? new Set();
  busy.set(id, operations.add(key));
  hooks.done();
  try {
    hooks.note(done(await send(path, body, { timeoutMs: 60_000 })), false);
  } catch (error) {
    hooks.note(`${name}, region ${id}${storeId === null ? "" : `, store ${storeId}`}: ${error.message}`, true);
  }
  operations.delete(key);
  hooks.done();
}

function showAnswers() {
  const listed = root.querySelector(".answers");
  if (!listed) return;
  const items = [...answers].reverse().map((event) => h("li", {}, h("time", {}, clock(event.time)), ` store ${event.store_id} ${eventWords(event)}`, event.verdict ? [" ", h("span", { class: "tag", "data-tone": verdictTone(event.verdict) }, spaced(event.verdict))] : null));
  listed.replaceChildren(...(items.length ? items : [h("li", { class: "quiet" }, "none yet")]));
}
