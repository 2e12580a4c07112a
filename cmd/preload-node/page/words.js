// What the node's answers are called on the page, and how numbers are written. No DOM but the helper that makes elements.

/** An element. `props` are attributes, `on…` listeners and properties; children are text or elements. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets text only when it is another: what did not change is neither drawn nor read out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const WAITS_FOR = {
  initialization: "to be initialized",
  snapshot: "for its snapshot",
  epoch: "for a newer epoch",
  load: "for its load",
  room: "for room in the cache",
  merge: "for a merge to end",
  metadata: "for metadata that makes sense",
};

/** How far a replica is: a class for its mark, a word for it, and what it waits for. */
export function stateOf(peer) {
  const { cache, preload } = peer;
  let warmth = "cold";
  let word = "Cold";
  if (peer.lifecycle === "uninitialized") [warmth, word] = ["uninitialized", "Uninitialized"];
  else if (peer.lifecycle === "applying_snapshot") [warmth, word] = ["uninitialized", "Applying snapshot"];
  else if (cache.state === "active") [warmth, word] = ["warm", "Warm"];
  else if (cache.state === "loading") [warmth, word] = ["loading", "Loading"];
  else if (cache.state === "pending") [warmth, word] = ["loading", "Queued to load"];
  else if (cache.state === "evicting") [warmth, word] = ["cold", "Evicting"];
  if (peer.lifecycle === "merging") word += ", merging";

  if (cache.state === "loading" && cache.loaded_bytes) word += `, ${bytes(cache.loaded_bytes)}`;
  const waiting = preload?.waiting_requests ?? 0;
  const waitsFor = preload?.waits_for ?? null;
  const notes = [];
  if (waitsFor && waitsFor !== "load") notes.push(`${waiting ? "parked, waits" : "waits"} ${WAITS_FOR[waitsFor] ?? `for ${spaced(waitsFor)}`}`);
  else if (waiting) notes.push(`${count(waiting, "request")} waiting`);
  if (preload?.ack_held) notes.push("holds a transfer back");
  return { warmth, word, waits: Boolean(notes.length && (waitsFor !== "load" || waiting)), note: notes.join(", ") };
}

/** What the plugin wants of a replica, in words. */
export const WANTED = { request: "wanted by a request", pinned: "pinned", transfer: "wanted for a transfer" };

export const spaced = (name) => name.replaceAll("_", " ");

export const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (number >= size) return `${trimmed(number / size)} ${unit}`;
  }
  return `${number} B`;
}

export function millis(number) {
  if (number === null || number === undefined) return "–";
  return number >= 1000 ? `${trimmed(number / 1000)} s` : `${trimmed(number)} ms`;
}

export const percent = (share) => (share === null ? "–" : `${(share * 100).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`);

export function uptime(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

function trimmed(number) {
  return number >= 100 ? number.toFixed(0) : number >= 10 ? number.toFixed(1).replace(/\.0$/, "") : number.toFixed(2).replace(/\.?0+$/, "");
}

/** A key range as mathematicians write it. A redacted key is `?`. */
export function range(region) {
  if (region.start_key === "?" && region.end_key === "?") return "keys are redacted";
  const key = (hex, none) => (hex === "" ? none : shortKey(hex));
  return `${key(region.start_key, "−∞")} … ${key(region.end_key, "+∞")}`;
}

function shortKey(hex) {
  if (hex === "?") return "?";
  const codes = hex.match(/../g)?.map((pair) => parseInt(pair, 16)) ?? [];
  const text = printable(userKey(codes) ?? codes) ?? hex;
  return text.length > 16 ? `${text.slice(0, 15)}…` : text;
}

/** The user's key in the memcomparable encoding of region metadata: groups of eight bytes, each followed by 255 minus its padding. */
function userKey(codes) {
  if (codes.length % 9 !== 0) return null;
  const key = [];
  for (let at = 0; at < codes.length; at += 9) {
    const padding = 255 - codes[at + 8];
    const isLast = at + 9 === codes.length;
    if (padding > 8 || isLast !== padding > 0) return null;
    key.push(...codes.slice(at, at + 8 - padding));
  }
  return key;
}

/** Keys that are text are shown as text. */
const printable = (codes) => (codes.every((code) => code > 0x20 && code < 0x7f) ? `“${String.fromCharCode(...codes)}”` : null);

const EVENTS = {
  request_received: (event) => `is asked by ${store(event)} to warm up`,
  request_finished: () => "is done with a request",
  request_sent: (event) => `asks ${store(event)} to warm up`,
  request_expired: (event) => `gives up on ${store(event)}`,
  answer_sent: (event) => `answers ${store(event)}`,
  answer_received: (event) => `is answered by ${store(event)}`,
  load_started: () => "begins to load",
  load_lost: () => "has lost a load",
  loaded: () => "has it in memory",
  evicted: () => "evicts it",
  transfer_warm: (event) => `hands over to ${store(event)}, which is warm`,
  transfer_cold: (event) => `hands over to ${store(event)}, which is cold`,
  ack_held: () => "holds leadership off until it is warm",
  ack_warm: () => "takes leadership, warm",
  ack_cold: () => "takes leadership, cold",
  snapshot_void: () => "waits no longer for a snapshot",
  uninitialized_destroyed: () => "destroys an uninitialized peer",
  malformed: () => "got something malformed",
};

const store = (event) => (event.peer_store_id === null || event.peer_store_id === undefined ? "another store" : `store ${event.peer_store_id}`);

export const eventWords = (event) => (EVENTS[event.kind] ?? (() => spaced(event.kind)))(event);

/** How a verdict is to be taken: it is good, it is on its way, or it came to nothing. */
export function verdictTone(verdict) {
  if (verdict === "warm") return "good";
  if (verdict === "accepted" || verdict === "parked") return "wait";
  return "bad";
}

export const clock = (time) => {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? time : date.toLocaleTimeString("en-GB", { hour12: false });
};
