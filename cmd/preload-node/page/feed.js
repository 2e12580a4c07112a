// The live list of preload requests and of what becomes of them, newest first.

import { clock, eventWords, h, millis, setText, spaced, verdictTone } from "./words.js";

/** More than one looks through; older ones are in /preloads. */
const LINES_MAX = 200;

const list = document.getElementById("feed");
const empty = document.getElementById("feed-empty");
const pause = document.getElementById("feed-pause");
let held = [];
let onRegion = () => {};

/** `region(id)` when a region is chosen in the list. */
export function setUpFeed({ region }) {
  onRegion = region;
  pause.addEventListener("click", () => {
    const isPaused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(isPaused));
    if (!isPaused) {
      const events = held;
      held = [];
      add(events);
    }
    showPause();
  });
  list.addEventListener("click", (event) => {
    const id = Number(event.target.closest("button")?.dataset.id);
    if (id) onRegion(id);
  });
}

function showPause() {
  const isPaused = pause.getAttribute("aria-pressed") === "true";
  setText(pause, isPaused ? (held.length ? `Go on (${held.length} new)` : "Go on") : "Pause");
}

export function clearFeed() {
  held = [];
  list.replaceChildren();
  empty.hidden = false;
}

export function showEvents(events) {
  if (pause.getAttribute("aria-pressed") === "true") {
    held = held.concat(events).slice(-LINES_MAX);
    showPause();
    return;
  }
  add(events);
}

function add(events) {
  if (events.length === 0) return;
  empty.hidden = true;
  const lines = events.slice(-LINES_MAX).reverse().map(line);
  list.prepend(...lines);
  while (list.children.length > LINES_MAX) list.lastElementChild.remove();
}

function line(event) {
  const verdict = event.verdict ? h("span", { class: "tag", "data-tone": verdictTone(event.verdict) }, spaced(event.verdict)) : null;
  const told = [event.reason && event.reason !== event.verdict ? spaced(event.reason) : "", event.elapsed_ms !== null && event.elapsed_ms !== undefined ? `after ${millis(event.elapsed_ms)}` : ""].filter(Boolean);
  return h(
    "li",
    { "data-kind": event.kind, "data-region": event.region_id, "data-verdict": event.verdict },
    h("time", { datetime: event.time }, clock(event.time)),
    h("span", { class: "what" }, h("button", { type: "button", class: "link", "data-id": event.region_id, tabindex: "-1" }, `Region ${event.region_id}`), `, store ${event.store_id} `, eventWords(event)),
    verdict,
    told.length ? h("small", {}, told.join(", ")) : null,
  );
}
