// The list of queries, of which only the rows in sight exist, and the query that is open.

const ROW = 56;  // pixels, as in the style sheet

function drawList() {
  const list = byId("list");
  byId("list-space").style.height = `${shown.length * ROW}px`;
  const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const rows = shown.slice(from, from + Math.ceil(list.clientHeight / ROW) + 8).map((index, offset) => {
    const query = data.queries[index];
    const row = el("div", { class: "row", role: "option", id: `row-${index}`, "aria-selected": String(index === state.query),
      "aria-posinset": from + offset + 1, "aria-setsize": shown.length, onclick: () => openQuery(index, false) },
    el("span", null, query.text), el("b", null, signed(gainOf(query))),
    el("small", null, `${data.collections[query.collection]} · ${query.id}`),
    el("small", null, query.results.some((result) => result?.fell_back) ? "fell back" : ""));
    row.style.top = `${(from + offset) * ROW}px`;
    return row;
  });
  byId("list-space").replaceChildren(...rows);
  list.setAttribute("aria-activedescendant", state.query >= 0 ? `row-${state.query}` : "");
}

function openQuery(index, scroll = true) {
  state.query = index;
  const place = shown.indexOf(index);
  const list = byId("list");
  if (place >= 0 && (place * ROW < list.scrollTop || (place + 1) * ROW > list.scrollTop + list.clientHeight)) {
    list.scrollTop = place * ROW - list.clientHeight / 2;
  }
  const query = data.queries[index];
  history.replaceState(null, "", "#" + encodeURIComponent(data.collections[query.collection]) + "/" + encodeURIComponent(query.id));
  drawList();
  drawQuery();
  if (scroll) byId(matchMedia("(max-width: 800px)").matches ? "query" : "queries").scrollIntoView({ block: "start" });
}

function followList() {
  const list = byId("list");
  list.addEventListener("scroll", () => requestAnimationFrame(drawList));
  list.addEventListener("keydown", (event) => {
    const place = shown.indexOf(state.query);
    const next = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: shown.length - 1, PageDown: place + 8, PageUp: place - 8 }[event.key];
    if (next === undefined || !shown.length) return;
    event.preventDefault();
    openQuery(shown[Math.max(0, Math.min(shown.length - 1, next))], false);
  });
}

function followAddress() {
  let parts = [];
  try { parts = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { /* a damaged address opens nothing */ }
  state.query = data.queries.findIndex((query) => data.collections[query.collection] === parts[0] && query.id === parts[1]);
}

function movementOf(hit, rank, others, otherMode) {
  if (!others) return "";
  const before = others.findIndex((other) => other.id === hit.id) + 1;
  if (!before) return `not among ${data.modes[otherMode]}'s ${others.length}`;
  return before === rank ? `= same rank in ${data.modes[otherMode]}` : `${before > rank ? "▲" : "▼"} ${Math.abs(before - rank)}, rank ${before} in ${data.modes[otherMode]}`;
}

function showHit(hit, rank, others, otherMode) {
  const relevant = known(hit.relevance) && hit.relevance > 0;
  const node = el("li", { class: relevant ? "hit relevant" : "hit", "data-doc": hit.id },
    el("div", { class: "hit-head" }, el("b", null, String(rank)),
      relevant ? el("span", { class: "badge" }, `✓ relevant${hit.relevance > 1 ? " (" + hit.relevance + ")" : ""}`)
        : known(hit.relevance) ? el("span", null, "judged not relevant") : null,
      el("span", { class: "move" }, movementOf(hit, rank, others, otherMode)), el("span", { title: "score" }, decimal(hit.score))),
    el("strong", null, data.texts[hit.title] || hit.id), data.texts[hit.title] ? el("small", { class: "muted" }, hit.id) : null,
    el("p", null, data.texts[hit.text]));
  const twins = (on) => document.querySelectorAll(".hit").forEach((other) => other.classList.toggle("twin", on && other.dataset.doc === hit.id));
  fill(node, { onpointerenter: () => twins(true), onpointerleave: () => twins(false) }, []);
  if (data.texts[hit.text].length > 160) {
    const more = el("button", { type: "button", "aria-expanded": "false", onclick: () => {
      more.setAttribute("aria-expanded", String(node.classList.toggle("open")));
      more.textContent = node.classList.contains("open") ? "less" : "more";
    } }, "more");
    node.append(more);
  }
  return node;
}

function showSide(query, side, other) {
  const [mode, otherMode] = [state[side], state[other]];
  const [hits, others] = [query.results[mode]?.hits ?? [], query.results[otherMode]?.hits];
  const choice = el("select", { "aria-label": `Mode on the ${side}`, id: `mode-${side}`,
    onchange: (event) => { state[side] = Number(event.target.value); drawQuery(); byId(`mode-${side}`).focus(); } },
  ...data.modes.map((name, index) => el("option", { value: index, selected: index === mode ? "" : null }, name)));
  const head = el("div", { class: "side-head" }, modeMark(mode), choice, el("span", { class: "muted" }, `${data.measures[state.measure]} ${decimal(valueOf(query, mode))}`));
  head.style.borderBottomColor = modeColor(mode);
  const items = hits.map((hit, place) => showHit(hit, place + 1, mode === otherMode ? null : others, otherMode));
  return el("div", { class: "side", "data-side": side }, head,
    items.length ? el("ol", { class: "hits" }, ...items) : el("p", { class: "muted" }, "No hits were kept."));
}

function showMeasures(query) {
  const head = el("tr", null, el("th", { scope: "col" }, "Mode"), ...data.measures.map((name) => el("th", { scope: "col" }, name)),
    el("th", { scope: "col" }, "search"), el("th", { scope: "col" }, "reasoning"));
  const rows = data.modes.map((name, mode) => {
    const result = query.results[mode];
    const reasoning = !result ? "–" : result.fell_back ? "fell back" : result.tokens ? `${result.tokens.toLocaleString("en")} tokens` : "–";
    return el("tr", null, el("th", { scope: "row" }, modeMark(mode), name), ...data.measures.map((_, index) => el("td", null, decimal(result?.measures[index]))),
      el("td", null, result ? `${(result.seconds * 1000).toFixed(1)} ms` : "–"), el("td", null, reasoning));
  });
  return el("div", { class: "scroll" }, el("table", null, el("thead", null, head), el("tbody", null, ...rows)));
}

function drawQuery() {
  const query = data.queries[state.query];
  if (!query) return;
  const trajectories = [...new Set(query.results.filter(Boolean).map((result) => result.trajectory))].filter((text) => data.texts[text]);
  const thoughts = trajectories.map((text) => {
    const modes = data.modes.filter((_, mode) => query.results[mode]?.trajectory === text);
    return el("details", { open: "" }, el("summary", null, `Trajectory of ${modes.join(" and ")}`), el("p", { class: "trajectory" }, data.texts[text]));
  });
  byId("query").replaceChildren(el("small", { class: "muted" }, `${data.collections[query.collection]} · ${query.id}`), el("h3", null, query.text),
    showMeasures(query), ...thoughts, el("div", { class: "sides" }, showSide(query, "left", "right"), showSide(query, "right", "left")));
}

start();
