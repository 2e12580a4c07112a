// The page: what is asked for when, what is shown where, and what is said when the node does not answer.

import { Poll, forgetDecline, get, onTokenNeeded } from "./api.js";
import { drawHistory } from "./charts.js";
import { focusDetail, refreshAnswers, setUpDetail, showDetail, showNothing } from "./detail.js";
import { clearFeed, setUpFeed, showEvents } from "./feed.js";
import { focusRegion, markSelected, setUpRegions, showRegions } from "./regions.js";
import { clock, h, setText, uptime } from "./words.js";

const STATE_MS = 1000;
/** While something is loading or waits, so that one can watch it. */
const BUSY_MS = 250;
const HIDDEN_MS = 5000;
const HISTORY_MS = 3000;
const LONG_POLL_MS = 20_000;
const NOTE_MS = 8000;

const byId = (id) => document.getElementById(id);
let latest = null;
let selectedId = null;
let startedAt = null;
let nextSeq = 0;
let retryTimer = 0;

function announce(text) {
  // Cleared first: the same words twice in a row are said twice.
  byId("announcer").textContent = "";
  requestAnimationFrame(() => setText(byId("announcer"), text));
}

function note(text, isError) {
  const item = h("p", { class: "note", "data-error": isError }, h("span", {}, text), h("button", { type: "button", class: "small", "aria-label": "Dismiss", onclick: () => item.remove() }, "×"));
  byId("notes").append(item);
  if (!isError) setTimeout(() => item.remove(), NOTE_MS);
  while (byId("notes").children.length > 3) byId("notes").firstElementChild.remove();
}

function select(id, { moveFocus = true } = {}) {
  selectedId = id;
  markSelected(id);
  showSelected();
  if (moveFocus) focusDetail();
}

function deselect() {
  const id = selectedId;
  selectedId = null;
  markSelected(null);
  showNothing();
  focusRegion(id);
}

function showSelected() {
  if (selectedId === null || !latest) return;
  const region = latest.regions.find((candidate) => candidate.id === selectedId) ?? null;
  showDetail(selectedId, region, latest.status.stores.map((store) => store.store_id));
}

async function pollState() {
  const [status, { regions }] = await Promise.all([get("status"), get("regions")]);
  if (startedAt !== status.started_at) {
    // Another process: what it has told so far begins anew.
    if (startedAt !== null) {
      clearFeed();
      note("The node has been restarted.", false);
    }
    nextSeq = 0;
    startedAt = status.started_at;
  }
  latest = { status, regions };
  const more = status.features?.length ? ` · ${status.features.join(", ")}` : "";
  setText(byId("node"), `${status.version} · ${status.engine}${more} · cluster ${status.cluster_id} · up ${uptime(status.uptime_seconds)}`);
  showRegions(status, regions);
  showSelected();
  const isMoving = regions.some((region) => region.peers.some((peer) => peer.lifecycle !== "initialized" || ["loading", "pending"].includes(peer.cache.state) || peer.preload?.waiting_requests));
  return document.hidden ? HIDDEN_MS : isMoving ? BUSY_MS : STATE_MS;
}

async function pollHistory() {
  const history = await get("history");
  if (latest && !document.hidden) drawHistory(history, latest.status.stores);
  return latest ? HISTORY_MS : BUSY_MS;
}

async function pollPreloads() {
  const seq = nextSeq;
  const answer = await get(`preloads?since=${seq}&wait_ms=${seq === 0 ? 0 : LONG_POLL_MS}`, { timeoutMs: LONG_POLL_MS + 10_000 });
  // The node was restarted while this waited.
  if (nextSeq !== seq) return 0;
  nextSeq = answer.next;
  if (answer.lost && seq !== 0) note("Some preload requests are missing in the list: they came faster than they were fetched.", false);
  showEvents(answer.events);
  if (answer.events.some((event) => event.region_id === selectedId)) refreshAnswers(selectedId);
  // What has happened shows in the regions as well, now.
  if (answer.events.length) state.run();
  return answer.events.length || seq !== 0 ? 50 : STATE_MS;
}

function lost(error, wait) {
  document.body.dataset.connection = "lost";
  byId("connection").dataset.state = "lost";
  setText(byId("connection-text"), error.code === "unreachable" ? "Not connected" : "Not answering");
  const isLoopback = ["127.0.0.1", "localhost", "[::1]"].includes(location.hostname);
  const advice = {
    unreachable: isLoopback
      ? "Is the node still running? It is started with “preload-node serve”; if it has stopped, the last lines of its log say why."
      : `Is the node still running, and does it listen on ${location.host}? The last lines of its log say why it has stopped.`,
    unauthorized: "Press the button to enter it. It is in the file that server.token-file names.",
    unavailable: "The node is starting or stopping.",
  }[error.code] ?? "The page and the node may be of different versions. Reload the page.";
  setText(byId("lost-title"), error.message);
  setText(byId("lost-help"), `${advice}${latest ? ` What is shown is of ${clock(latest.at)}.` : ""}`);
  byId("lost").hidden = false;
  clearInterval(retryTimer);
  let seconds = Math.ceil(wait / 1000);
  const tick = () => setText(byId("retry"), seconds > 0 ? `Try now (again in ${seconds--} s)` : "Trying…");
  tick();
  retryTimer = setInterval(tick, 1000);
}

function found() {
  latest.at = new Date();
  if (document.body.dataset.connection === "live") return;
  const wasLost = document.body.dataset.connection === "lost";
  clearInterval(retryTimer);
  document.body.dataset.connection = "live";
  byId("connection").dataset.state = "live";
  setText(byId("connection-text"), "Live");
  byId("lost").hidden = true;
  if (wasLost) {
    announce("Connected again");
    preloads.run();
    history.run();
  }
}

function askForToken(wasRefused) {
  const dialog = byId("token-dialog");
  byId("token-error").hidden = !wasRefused;
  setText(byId("token-error"), wasRefused ? "The node did not accept this token." : "");
  byId("token").value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const close = (token) => {
      dialog.close();
      resolve(token);
    };
    byId("token-form").onsubmit = () => close(byId("token").value.trim() || null);
    byId("token-cancel").onclick = () => close(null);
    dialog.oncancel = () => close(null);
  });
}

const state = new Poll(pollState, { onLost: lost, onFound: found });
// These two say nothing when they fail: the first does.
const history = new Poll(pollHistory, {});
const preloads = new Poll(pollPreloads, {});

setUpRegions({
  select,
  warmthChanged: (region, peer, { word }) => {
    if (region.id === selectedId) announce(`Region ${region.id}, store ${peer.store_id}: ${word}`);
  },
});
setUpDetail({ close: deselect, done: () => { showSelected(); state.run(); }, note });
setUpFeed({ region: select });
onTokenNeeded(askForToken);
byId("retry").addEventListener("click", () => {
  forgetDecline();
  state.run();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  state.run();
  history.run();
});
state.run();
history.run();
preloads.run();
