// Small line charts. One line per store: a colour and a dash pattern each, and a text that says the same.

import { bytes, millis, percent } from "./words.js";

const WIDTH = 300;
const HEIGHT = 84;
const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * `lines`: per store its id and an array of numbers or nulls, all of one length. `limits`: names and values of horizontal
 * lines. A null leaves a gap, and a single point between gaps is a dot.
 */
function draw(container, { lines, limits = [], max, label, format, seconds }) {
  const top = Math.max(max ?? 0, ...limits.map((limit) => limit.value), ...lines.flatMap((line) => line.values.map((value) => value ?? 0)), 1e-9);
  const length = Math.max(2, ...lines.map((line) => line.values.length));
  const x = (index) => ((WIDTH - 2) * index) / (length - 1) + 1;
  const y = (value) => HEIGHT - 3 - ((HEIGHT - 8) * value) / top;

  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  chart.append(svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT - 2, y2: HEIGHT - 2 }));
  for (const limit of limits) {
    chart.append(svg("line", { class: "limit", x1: 0, x2: WIDTH, y1: y(limit.value), y2: y(limit.value) }, svg("title", {}, `${limit.name}: ${format(limit.value)}`)));
  }
  lines.forEach((line, place) => {
    let path = "";
    let isDown = false;
    line.values.forEach((value, index) => {
      if (value === null || value === undefined) {
        isDown = false;
        return;
      }
      const point = `${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      // A line to itself: a lone point is drawn by its round cap.
      path += isDown ? `L${point}` : `M${point}l0 0`;
      isDown = true;
    });
    chart.append(svg("path", { class: `line line-${place % 6}`, d: path || "M0 0" }, svg("title", {}, `store ${line.storeId}`)));
  });
  const scale = document.createElement("div");
  scale.className = "scale";
  const ago = seconds >= 90 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds)} s ago`;
  const height = top > 1e-9 ? `0 to ${format(top)}` : "nothing yet";
  scale.append(span(ago), span(limits.length ? `${height}; dotted: its limits` : height), span("now"));
  container.replaceChildren(chart, scale);
}

function span(text, name = "") {
  const element = document.createElement("span");
  element.className = name;
  element.textContent = text;
  return element;
}

function key(container, lines, format) {
  container.replaceChildren(
    ...lines.map((line, place) => {
      const entry = span("", "key");
      const sample = svg("svg", { viewBox: "0 0 18 6", width: 18, height: 6, "aria-hidden": "true" }, svg("path", { class: `line line-${place % 6}`, d: "M0 3L18 3" }));
      entry.append(sample, `${line.storeId}: ${format(line.last)}`);
      return entry;
    }),
  );
}

const lastOf = (values) => values.findLast((value) => value !== null && value !== undefined) ?? null;

/** Draws all three from the answer to `/history` and the limits of `/status`. */
export function drawHistory(history, stores) {
  const points = history.points.slice(-300);
  const seconds = Math.max(0, points.length - 1) * (history.interval_seconds ?? 1);
  const storeIds = stores.map((store) => store.store_id);
  const of = (point, storeId) => point.stores.find((store) => store.store_id === storeId);
  const show = (name, values, options) => {
    const lines = storeIds.map((storeId) => {
      const line = values(storeId);
      return { storeId, values: line, last: lastOf(line) };
    });
    const told = lines.map((line) => `store ${line.storeId} ${options.format(line.last)}`).join(", ");
    draw(document.getElementById(`${name}-chart`), { ...options, lines, seconds, label: `${options.label}: ${told}` });
    key(document.getElementById(`${name}-now`), lines, options.format);
  };

  const limits = stores[0]?.cache ?? {};
  show("memory", (storeId) => points.map((point) => of(point, storeId)?.cache_used_bytes ?? null), {
    label: "Cache memory",
    format: bytes,
    limits: [
      { name: "capacity", value: limits.capacity_bytes },
      { name: "evicts above", value: limits.evict_threshold_bytes },
      { name: "loads until", value: limits.stop_load_threshold_bytes },
    ].filter((limit) => limit.value > 0),
  });
  // Of the reads of ten points, since there may be few of them.
  const ratio = (storeId) =>
    points.map((point, index) => {
      const [now, before] = [of(point, storeId), of(points[Math.max(0, index - 10)], storeId)];
      if (!now || !before) return null;
      const [hits, misses] = [now.hits - before.hits, now.misses - before.misses];
      return hits >= 0 && hits + misses > 0 ? hits / (hits + misses) : null;
    });
  show("hits", ratio, { label: "Share of reads served from memory", format: percent, max: 1 });
  show("warm", (storeId) => points.map((point) => of(point, storeId)?.warm_p50_ms ?? null), { label: "Time to warm, median", format: millis });
}
