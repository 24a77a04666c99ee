"use strict";
// The state of the page, its table and its filters. Every text comes from documents nobody vouches for, so elements are
// made with textContent and attributes only; nothing here parses HTML.

let data = null;
const state = { measure: 0, mode: 0, collection: "", change: "all", text: "", query: -1, left: 0, right: 0 };
let shown = [];  // indices of the queries that pass the filters, by falling gain

const byId = (id) => document.getElementById(id);
const SHAPES = ["M6 1a5 5 0 1 0 .01 0z", "M1.5 1.5h9v9h-9z", "M6 .8 11.4 11H.6z", "M6 .3 11.7 6 6 11.7.3 6z", "M4 1h4v3h3v4H8v3H4V8H1V4h3z"];

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "color") node.style.color = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, props, ...children) => fill(document.createElement(tag), props, children);
const svg = (tag, props, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
const modeColor = (mode) => `var(--mode-${mode % 6})`;
const modeMark = (mode) => svg("svg", { class: "mark", viewBox: "0 0 12 12", color: modeColor(mode), "aria-hidden": "true" },
  svg("path", { d: SHAPES[mode % SHAPES.length] }));

const known = (value) => value !== null && value !== undefined;
const decimal = (value, digits = 3) => (known(value) ? value.toFixed(digits) : "–");
const signed = (value, digits = 3) => (known(value) ? (value < 0 ? "−" : value > 0 ? "+" : "±") + Math.abs(value).toFixed(digits) : "–");
const average = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
const probability = (p) => (known(p) ? p.toPrecision(2) : "unknown");
const stars = (p) => (!known(p) ? "" : p < 0.001 ? "***" : p < 0.01 ? "**" : p < 0.05 ? "*" : "");

function valueOf(query, mode) {
  const result = query.results[mode];
  return result ? result.measures[state.measure] : null;
}
function gainOf(query) {
  const [before, after] = [valueOf(query, 0), valueOf(query, state.mode)];
  return known(before) && known(after) ? after - before : null;
}
function meanOf(mode, collection) {
  return data.means[mode]?.[collection]?.[state.measure] ?? null;
}
function overall(mode) {
  return average(data.collections.map((_, index) => meanOf(mode, index)).filter(known));
}
// A mean over fewer collections than there are is of other queries: it is marked, and compared with no other.
const numCovered = (mode) => data.collections.filter((_, index) => known(meanOf(mode, index))).length;
const coversAll = (mode) => numCovered(mode) === data.collections.length;
const coverText = (mode) => (coversAll(mode) || numCovered(mode) === 0 ? null : `${numCovered(mode)} of ${data.collections.length} collections`);
function comparisonOf(mode, collection) {
  return data.comparisons.find((c) => c.mode === mode && c.baseline === 0 && c.collection === collection && c.measure === state.measure);
}

function drawSegments(box, names, chosen, choose, mark) {
  box.replaceChildren(...names.map(([index, name]) => el("button",
    { type: "button", "aria-pressed": String(index === chosen), onclick: () => { choose(index); box.querySelector("[aria-pressed=true]")?.focus(); } },
    mark ? modeMark(index) : null, name)));
}

function cell(mode, collection, best) {
  const value = collection === null ? overall(mode) : meanOf(mode, collection);
  const change = mode === 0 ? null : changeText(mode, collection, value);
  const covers = collection === null ? coverText(mode) : null;
  return el("td", { class: known(value) && value === best && !covers ? "best" : null, title: change?.title }, el("span", { class: "value" }, decimal(value)),
    covers ? el("span", { class: "covers" }, covers) : null, mode === 0 ? null : " ", mode === 0 ? null : el("span", { class: "change" }, change.text));
}
function changeText(mode, collection, value) {
  const first = collection === null ? overall(0) : meanOf(0, collection);
  const test = comparisonOf(mode, collection === null ? -1 : collection);
  const comparable = collection !== null || (coversAll(0) && coversAll(mode));
  if (!known(value) || !known(first) || !comparable) return { text: "", title: null };
  const title = test ? `${test.better} queries gained and ${test.worse} lost, of ${test.num_queries}; p = ${probability(test.p_value)}, corrected ${probability(test.corrected_p_value)}` : null;
  return { text: signed(value - first) + " " + stars(test?.corrected_p_value), title };
}

function drawTable() {
  const modes = data.modes.map((_, mode) => mode);
  const rowOf = (heading, collection, kind) => {
    const rivals = collection === null ? modes.filter(coversAll) : modes;
    const values = rivals.map((mode) => (collection === null ? overall(mode) : meanOf(mode, collection))).filter(known);
    const best = values.length ? Math.max(...values) : null;
    return el("tr", { class: kind }, el("th", { scope: "row" }, heading), ...modes.map((mode) => cell(mode, collection, best)));
  };
  const rows = data.collections.map((name, index) => rowOf(
    el("button", { type: "button", title: "Show the queries of this collection only", onclick: () => { byId("collection").value = name; readFilters(); } }, name), index, null));
  if (rows.length > 1) rows.push(rowOf("Mean over collections", null, "total"));
  const head = el("tr", null, el("th", { scope: "col" }, "Collection"), ...modes.map((mode) => el("th", { scope: "col" }, modeMark(mode), data.modes[mode])));
  byId("table").replaceChildren(el("caption", { hidden: "" }, data.measures[state.measure]), el("thead", null, head), el("tbody", null, ...rows));
  byId("table-note").textContent = `${data.measures[state.measure]}, mean over the queries; the best in each row is bold. Small figures: difference from ${data.modes[0]}. `
    + "Two-sided paired test over queries: * p < 0.05, ** p < 0.01, *** p < 0.001; in the last row over the queries of all collections together. Corrected by Holm for the number of comparisons.";
  byId("cards").replaceChildren(...modes.map((mode) => {
    const change = mode === 0 ? "the baseline" : changeText(mode, data.collections.length > 1 ? null : 0, overall(mode)).text;
    const card = el("div", { class: "card" }, modeMark(mode), data.modes[mode], el("b", null, decimal(overall(mode))), el("small", null, [coverText(mode), change].filter(Boolean).join(", ")));
    card.style.borderTopColor = modeColor(mode);
    return card;
  }));
}

function passes(query, words) {
  if (state.collection && data.collections[query.collection] !== state.collection) return false;
  const gain = gainOf(query);
  const kind = !known(gain) ? "none" : gain > 1e-9 ? "gain" : gain < -1e-9 ? "loss" : "same";
  if (state.change === "fallback" ? !query.results.some((result) => result?.fell_back) : state.change !== "all" && state.change !== kind) return false;
  return words.every((word) => query.haystack.includes(word));
}

function update() {
  const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
  shown = data.queries.map((_, index) => index).filter((index) => passes(data.queries[index], words));
  const gains = new Map(shown.map((index) => [index, gainOf(data.queries[index]) ?? -2]));
  shown.sort((a, b) => gains.get(b) - gains.get(a) || a - b);
  byId("count").textContent = `${shown.length.toLocaleString("en")} of ${data.queries.length.toLocaleString("en")} queries`;
  drawSegments(byId("measures"), data.measures.map((name, index) => [index, name]), state.measure, (index) => { state.measure = index; update(); }, false);
  const others = data.modes.map((name, index) => [index, name]).slice(1);
  drawSegments(byId("modes"), others, state.mode, (index) => { state.mode = index; state.left = 0; state.right = index; update(); }, true);
  drawTable();
  drawPlots();
  drawList();
  drawQuery();
}

function readFilters() {
  for (const name of ["collection", "change", "text"]) state[name] = byId(name).value;
  byId("list").scrollTop = 0;
  update();
}

async function load() {
  const packed = Uint8Array.from(atob(byId("data").textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  data = JSON.parse(await new Response(stream).text());
  for (const query of data.queries) {
    const said = query.results.map((result) => (result ? data.texts[result.trajectory] : "")).join(" ");
    query.haystack = `${query.id} ${query.text} ${said}`.toLowerCase();
  }
}

async function start() {
  await load();
  const collections = byId("collection");
  collections.append(el("option", { value: "" }, "all"), ...data.collections.map((name) => el("option", { value: name }, name)));
  const means = data.modes.map((_, mode) => (overall(mode) ?? -1) - (coversAll(mode) ? 0 : 1));
  state.mode = data.modes.length > 1 ? means.indexOf(Math.max(...means.slice(1)), 1) : 0;
  state.right = state.mode;
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", readFilters);
  addEventListener("resize", () => { drawPlots(); drawList(); });
  followList();
  followAddress();
  update();
  byId("main").setAttribute("aria-busy", "false");
}
