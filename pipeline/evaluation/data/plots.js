// The plots: plain SVG. A plot is one stop of the keyboard: arrows walk over its queries, Enter opens one.

const MARGIN = { top: 12, right: 14, bottom: 42, left: 68 };

function ticksOf(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) ticks.push(Math.abs(at) < step * 1e-6 ? 0 : at);
  return ticks;
}

function frameOf(box, height, x, y, label) {
  const width = Math.max(box.clientWidth, 260);
  const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
  const toX = (value) => MARGIN.left + ((value - x.low) / (x.high - x.low || 1)) * (right - MARGIN.left);
  const toY = (value) => bottom - ((value - y.low) / (y.high - y.low || 1)) * (bottom - MARGIN.top);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: "0", "aria-label": label });
  for (const tick of ticksOf(y.low, y.high, 5)) {
    picture.append(svg("line", { class: tick === 0 ? "zero" : "grid", x1: MARGIN.left, x2: right, y1: toY(tick), y2: toY(tick) }),
      svg("text", { x: MARGIN.left - 8, y: toY(tick) + 4, "text-anchor": "end" }, y.write(tick)));
  }
  for (const tick of ticksOf(x.low, x.high, width < 480 ? 4 : 7).filter((value) => x.whole !== true || Number.isInteger(value))) {
    picture.append(svg("text", { x: toX(tick), y: bottom + 17, "text-anchor": "middle" }, tick.toLocaleString("en")));
  }
  picture.append(svg("text", { x: (MARGIN.left + right) / 2, y: height - 4, "text-anchor": "middle" }, x.name),
    svg("text", { transform: `translate(12 ${(MARGIN.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, y.name));
  return { picture, toX, toY, width, height };
}

function tell(picture, point) {
  const tip = byId("tooltip");
  const query = data.queries[point.index];
  tip.replaceChildren(el("div", null, query.text.slice(0, 110) + (query.text.length > 110 ? "…" : "")),
    el("div", null, `${data.collections[query.collection]} · ${query.id}`),
    el("div", null, `${decimal(valueOf(query, 0))} → ${decimal(valueOf(query, state.mode))} (${signed(gainOf(query))})`),
    point.note ? el("div", null, point.note) : "");
  tip.hidden = false;
  const area = picture.getBoundingClientRect();
  const left = area.left + (point.x / picture.viewBox.baseVal.width) * area.width;
  tip.style.left = `${Math.max(8, Math.min(left + 12, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, area.top + point.y - tip.offsetHeight - 12)}px`;
}

function lead(frame, points, distance) {
  const { picture } = frame;
  if (!points.length) return;
  const ring = svg("circle", { class: "hover", r: 6, visibility: "hidden" });
  picture.append(ring);
  let at = -1;
  const show = (position) => {
    at = Math.max(0, Math.min(points.length - 1, position));
    fill(ring, { cx: points[at].x, cy: points[at].y, visibility: "visible" }, []);
    tell(picture, points[at]);
  };
  const hide = () => { byId("tooltip").hidden = true; ring.setAttribute("visibility", "hidden"); };
  const nearest = (event) => {
    const area = picture.getBoundingClientRect();
    const [x, y] = [((event.clientX - area.left) / area.width) * frame.width, ((event.clientY - area.top) / area.height) * frame.height];
    let best = 0;
    points.forEach((point, index) => { if (distance(point, x, y) < distance(points[best], x, y)) best = index; });
    return best;
  };
  fill(picture, {
    onpointermove: (event) => show(nearest(event)), onpointerleave: hide, onblur: hide,
    onclick: (event) => openQuery(points[nearest(event)].index),
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20 }[event.key];
      if (step) show(at + step);
      else if (event.key === "Enter" && at >= 0) openQuery(points[at].index);
      else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    },
  }, []);
}

function drawGain() {
  const [box, name, first] = [byId("gain-plot"), data.modes[state.mode], data.modes[0]];
  const queries = shown.filter((index) => known(gainOf(data.queries[index])));
  const gains = queries.map((index) => gainOf(data.queries[index]));
  const [up, down] = [gains.filter((gain) => gain > 1e-9).length, gains.filter((gain) => gain < -1e-9).length];
  byId("gain-title").textContent = data.modes.length < 2 ? "Gain per query needs two modes"
    : `Gain of ${name} over ${first}, query by query: ${up} gained, ${down} lost, ${gains.length - up - down} the same`;
  const reach = Math.max(0.1, ...gains.map(Math.abs));
  const frame = frameOf(box, 260, { low: 0, high: Math.max(1, gains.length), name: "queries, by gain", whole: true },
    { low: -reach, high: reach, name: `gain in ${data.measures[state.measure]}`, write: (value) => signed(value, 2) }, byId("gain-title").textContent);
  const space = frame.toX(1) - frame.toX(0);
  const width = Math.min(24, Math.max(0.6, space * 0.8));
  const points = queries.map((index, place) => ({ index, x: frame.toX(place + 0.5), y: frame.toY(gains[place]), note: "" }));
  points.forEach((point, place) => {
    const height = Math.max(1, Math.abs(point.y - frame.toY(0)));
    frame.picture.append(svg("rect", { class: gains[place] < 0 ? "point loss" : "point", "data-query": point.index, x: point.x - width / 2, width,
      y: Math.min(point.y, frame.toY(0)), height, fill: modeColor(state.mode) }));
  });
  lead(frame, points, (point, x) => Math.abs(point.x - x));
  box.replaceChildren(frame.picture);
}

function drawLength() {
  const box = byId("length-plot");
  const queries = shown.filter((index) => data.queries[index].results[state.mode]?.tokens > 0 && known(gainOf(data.queries[index])));
  byId("length-title").textContent = `Length of reasoning against gain, ${data.modes[state.mode] ?? ""}`;
  if (!queries.length) {
    box.replaceChildren(el("p", { class: "muted" }, `No query shown was reasoned about in ${data.modes[state.mode] ?? "any mode"}.`));
    return;
  }
  const tokens = queries.map((index) => data.queries[index].results[state.mode].tokens);
  const reach = Math.max(0.1, ...queries.map((index) => Math.abs(gainOf(data.queries[index]))));
  const frame = frameOf(box, 280, { low: 0, high: Math.max(...tokens) * 1.04, name: "tokens of reasoning" },
    { low: -reach, high: reach, name: `gain in ${data.measures[state.measure]}`, write: (value) => signed(value, 2) }, byId("length-title").textContent);
  const points = queries.map((index, place) => ({ index, x: frame.toX(tokens[place]), y: frame.toY(gainOf(data.queries[index])),
    note: `${tokens[place].toLocaleString("en")} tokens of reasoning` }));
  for (const point of points) {
    frame.picture.append(svg("path", { class: "point", d: SHAPES[state.mode % SHAPES.length], fill: modeColor(state.mode), opacity: 0.6,
      transform: `translate(${point.x - 4} ${point.y - 4}) scale(.67)` }));
  }
  points.sort((a, b) => a.x - b.x);
  lead(frame, points, (point, x, y) => (point.x - x) ** 2 + (point.y - y) ** 2);
  box.replaceChildren(frame.picture);
}

function drawCost() {
  const box = byId("cost-plot");
  const width = Math.max(box.clientWidth, 260);
  const results = data.modes.map((_, mode) => shown.map((index) => data.queries[index].results[mode]).filter(Boolean));
  const groups = [
    ["Search, milliseconds a query", (list) => average(list.map((result) => result.seconds * 1000)), (value) => value.toFixed(1)],
    ["Reasoning, tokens a query", (list) => average(list.map((result) => result.tokens)), (value) => Math.round(value).toLocaleString("en")],
    ["Fell back to the plain query, %", (list) => average(list.map((result) => (result.fell_back ? 100 : 0))), (value) => value.toFixed(1)],
  ];
  const [line, gap] = [18, 26];
  const height = groups.length * (data.modes.length * line + gap);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Cost of each mode" });
  const start = 8 + 8 * Math.max(...data.modes.map((mode) => mode.length));
  groups.forEach(([name, measure, write], group) => {
    const values = results.map((list) => measure(list) ?? 0);
    const top = group * (data.modes.length * line + gap);
    const scale = (width - start - 64) / (Math.max(...values) || 1);
    picture.append(svg("text", { class: "value", x: 0, y: top + 13 }, name));
    values.forEach((value, mode) => {
      const y = top + 20 + mode * line;
      picture.append(svg("text", { x: 0, y: y + 11 }, data.modes[mode]),
        svg("rect", { x: start, y: y + 2, width: Math.max(1, value * scale), height: 11, rx: 2, fill: modeColor(mode) }),
        svg("text", { class: "value", x: start + value * scale + 7, y: y + 12 }, write(value)));
    });
  });
  box.replaceChildren(picture);
}

function drawPlots() {
  byId("tooltip").hidden = true;
  drawGain();
  drawLength();
  drawCost();
}
