// The picture.
let colours = {};
const readColours = () => {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "panel", "ink", "soft", "line", "band", "accent", "bad", "fault", "fault-soft", "idle", "signaling", "connecting", "down", "direct", "relay", "up", "flow", "flow-bad", "gap", "tx", "rx", "arrow", "shade", "on-bar", "on-light-bar"];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
};
const FONT = '11px ui-monospace, "DejaVu Sans Mono", monospace', SMALL = '10px system-ui, "DejaVu Sans", sans-serif';
// Above these, single marks are no longer legible: columns are drawn instead.
const TICKS_MAX = 4000, ARROWS_MAX = 900, HEADS_MAX = 400;
let hits = [];

const sized = (element, w, h) => {
  const scale = window.devicePixelRatio || 1;
  element.width = Math.round(w * scale);
  element.height = Math.round(h * scale);
  const context = element.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, w, h);
  return context;
};

const colourOfLink = (state, path) => state === "up" ? colours[path === "direct" || path === "relay" ? path : "up"] : colours[state] || colours.idle;

// A bar of a link's state. Colour is not alone: down is hatched, relayed has a line, and there is text.
const linkBar = (c, x, y, w, h, state, path) => {
  c.fillStyle = colourOfLink(state, path);
  c.fillRect(x, y, w, h);
  c.save();
  c.beginPath();
  c.rect(x, y, w, h);
  c.clip();
  if (state === "down") {
    c.strokeStyle = colours.panel;
    c.lineWidth = 1.4;
    c.beginPath();
    for (let at = Math.max(x, GUTTER * 0) - h; at < x + w && at - x < 4000; at += 6) { c.moveTo(at, y + h); c.lineTo(at + h, y); }
    c.stroke();
  } else if (state === "up" && path === "relay") {
    c.fillStyle = colours["on-bar"];
    c.globalAlpha = 0.55;
    for (let at = x + 3; at < x + w && at - x < 4000; at += 7) c.fillRect(at, y + h - 3, 4, 1.5);
  } else if (state === "connecting" || state === "signaling") {
    c.fillStyle = colours.panel;
    c.globalAlpha = 0.5;
    for (let at = x + 2; at < x + w && at - x < 4000; at += 5) c.fillRect(at, y + h / 2 - 0.75, state === "connecting" ? 3 : 1, 1.5);
  }
  c.restore();
};

const barText = (c, label, x, y, w, colour, back) => {
  const left = Math.max(x, GUTTER) + 4, room = Math.min(x + w, width) - left - 2;
  if (room < 22) return;
  c.font = SMALL;
  const wide = c.measureText(label).width;
  if (wide > room) return;
  if (back) {
    c.fillStyle = back;
    c.fillRect(left - 3, y + 1, wide + 6, BAR - 2);
  }
  c.fillStyle = colour;
  c.fillText(label, left, y + BAR - 4);
};

const STEPS = [1, 2, 5];
const tickStep = (length, room) => {
  const rough = length / Math.max(2, room / 110);
  const power = 10 ** Math.floor(Math.log10(rough));
  return (STEPS.find((s) => s * power >= rough) || 10) * power;
};

const drawAxis = (c) => {
  const step = tickStep(view.to - view.from, width - GUTTER);
  c.font = FONT;
  c.lineWidth = 1;
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
    const x = Math.round(xOf(at)) + 0.5;
    c.strokeStyle = colours.line;
    c.globalAlpha = 0.7;
    c.beginPath();
    c.moveTo(x, AXIS - 6);
    c.lineTo(x, height);
    c.stroke();
    c.globalAlpha = 1;
    if (at < -step / 2) continue;
    c.fillStyle = colours.soft;
    c.textAlign = "center";
    c.fillText(showTime(Math.abs(at), step), Math.max(x, GUTTER + 22), 14);
  }
  c.textAlign = "left";
};

// Faults lie over all lanes: spans shaded, single ones as lines with a flag.
const drawFaults = (c) => {
  let lastLabel = -Infinity;
  const flag = (x, label) => {
    if (x < lastLabel + 6 || x < GUTTER - 1) return;
    c.font = SMALL;
    c.fillStyle = colours.fault;
    const short = label.length > 34 ? label.slice(0, 33) + "…" : label;
    c.fillText(short, x + 3, AXIS + 9);
    lastLabel = x + c.measureText(short).width;
  };
  for (const [from, to, label] of data.spans) {
    if (to < view.from || from > view.to) continue;
    const x = Math.max(xOf(from), GUTTER), w = Math.max(Math.min(xOf(to), width) - x, 1.5);
    c.fillStyle = colours["fault-soft"];
    c.fillRect(x, AXIS, w, height - AXIS);
    c.fillStyle = colours.fault;
    c.fillRect(x, AXIS, w, 2);
    hits.push({ x, y: AXIS - 2, w, h: 14, what: `fault: ${label}\n${showExact(from)} to ${showExact(to)}, ${showLength(to - from)}` });
    flag(x, label);
  }
  c.setLineDash([3, 3]);
  for (const [at, label, isFault] of data.steps) {
    if (!isFault || at < view.from || at > view.to) continue;
    const x = xOf(at);
    c.strokeStyle = colours.fault;
    c.globalAlpha = 0.75;
    c.beginPath();
    c.moveTo(x, AXIS);
    c.lineTo(x, height);
    c.stroke();
    c.globalAlpha = 1;
    hits.push({ x: x - 3, y: AXIS - 2, w: 6, h: 14, what: `fault: ${label}\n${showExact(at)}` });
    if (!data.spans.some(([from]) => from === at)) flag(x, label);
  }
  c.setLineDash([]);
};

const drawViolations = (c) => {
  for (const [at, label] of data.violations) {
    if (at < view.from || at > view.to) continue;
    const x = xOf(at);
    c.fillStyle = colours.bad;
    c.fillRect(x - 1, AXIS - 8, 2, height - AXIS + 8);
    c.beginPath();
    c.moveTo(x - 6, AXIS - 10); c.lineTo(x + 6, AXIS - 10); c.lineTo(x, AXIS); c.fill();
    hits.push({ x: x - 6, y: AXIS - 10, w: 12, h: 14, what: `VIOLATED at ${showExact(at)}\n${label}` });
  }
};

const drawLinks = (c, lane) => {
  linksOf[lane].forEach((link, row) => {
    const y = layout[lane].links + row * (BAR + 2);
    for (const [from, to, stateNumber, classNumber, why] of link.spans) {
      if (to < view.from || from > view.to) continue;
      const state = text(stateNumber), path = text(classNumber);
      const x = Math.max(xOf(from), GUTTER), w = Math.max(Math.min(xOf(to), width) - x, 1);
      linkBar(c, x, y, w, BAR, state, path);
      const plain = state === "signaling" || state === "connecting" || state === "idle" || state === "down";
      const label = state === "up" && path ? `${link.peer} up · ${path}` : `${link.peer} ${state}`;
      barText(c, label, x, y, w, plain ? colours.ink : colours["on-bar"], plain ? colours.panel : null);
      hits.push({ x, y, w, h: BAR, what: `${laneName(lane)} → ${link.peer}: ${state}${state === "up" && path ? " · " + path : ""}\n${showExact(from)} to ${showExact(to)}, ${showLength(to - from)}${text(why) ? "\n" + text(why) : ""}` });
    }
  });
};

const drawFlows = (c) => {
  for (const flow of packed.flows) {
    if (flow.to < view.from || flow.from > view.to) continue;
    const y = layout[flow.lane].flows + flow.row * 9;
    const x = Math.max(xOf(flow.from), GUTTER), w = Math.max(Math.min(xOf(flow.to), width) - x, 2);
    c.fillStyle = flow.ok ? colours.flow : colours["flow-bad"];
    c.globalAlpha = 0.85;
    c.fillRect(x, y, w, 7);
    c.globalAlpha = 1;
    if (flow.gap) {
      const g = Math.max(xOf(flow.gap[0]), x), gw = Math.min(xOf(flow.gap[0] + flow.gap[1]), x + w) - g;
      if (gw > 1) { c.fillStyle = colours.gap; c.fillRect(g, y + 1, gw, 5); }
    }
    const gap = flow.gap ? `\nlongest silence ${showLength(flow.gap[1])} from ${showExact(flow.gap[0])}` : "";
    hits.push({ x, y, w, h: 8, what: `${laneName(flow.lane)}: ${flow.detail}\n${showExact(flow.from)} to ${showExact(flow.to)}${gap}` });
  }
};

const tick = (c, n, colour) => {
  const lane = packets.lane[n], x = xOf(packets.t[n]);
  const y = packets.tx[n] ? txLine(lane) : rxLine(lane);
  c.fillStyle = colour;
  c.fillRect(x - 0.5, y - 4, 1.4, 8);
};

// What is left out leaves no hole: the counts of all messages are behind the single marks.
const drawAllCounts = (c) => {
  const parts = data.density[0][0].length, partNs = endNs / parts;
  const most = Math.max(1, ...data.density.flat().map((counts) => Math.max(...counts)));
  const scale = 13 / Math.log2(1 + most);
  c.globalAlpha = 0.28;
  data.density.forEach((both, lane) => both.forEach((counts, arrived) => {
    const middle = layout[lane].messages + 15;
    c.fillStyle = arrived ? colours.rx : colours.tx;
    counts.forEach((count, n) => {
      const x = Math.max(xOf(n * partNs), GUTTER), end = Math.min(xOf((n + 1) * partNs), width);
      if (!count || end <= x) return;
      const h = Math.max(1, Math.log2(1 + count) * scale);
      c.fillRect(x, arrived ? middle + 1 : middle - h, end - x, h);
    });
  }));
  c.globalAlpha = 1;
};

const drawColumns = (c, first, last) => {
  const columns = Math.ceil(width - GUTTER);
  const counts = data.lanes.map(() => [new Float64Array(columns), new Float64Array(columns)]);
  let most = 1;
  for (let n = first; n < last; n++) {
    if (!packetPasses[n]) continue;
    const column = Math.floor(xOf(packets.t[n]) - GUTTER);
    if (column < 0 || column >= columns) continue;
    const now = (counts[packets.lane[n]][packets.tx[n] ? 0 : 1][column] += packets.count[n]);
    if (now > most) most = now;
  }
  const scale = 13 / Math.log2(1 + most);
  counts.forEach(([tx, rx], lane) => {
    const middle = layout[lane].messages + 15;
    for (let x = 0; x < columns; x++) {
      if (tx[x]) { const h = Math.max(1, Math.log2(1 + tx[x]) * scale); c.fillStyle = colours.tx; c.fillRect(GUTTER + x, middle - h, 1, h); }
      if (rx[x]) { const h = Math.max(1, Math.log2(1 + rx[x]) * scale); c.fillStyle = colours.rx; c.fillRect(GUTTER + x, middle + 1, 1, h); }
    }
  });
};

const arrow = (c, from, to, head) => {
  const x1 = xOf(packets.t[from]), y1 = txLine(packets.lane[from]), x2 = xOf(packets.t[to]), y2 = rxLine(packets.lane[to]);
  c.beginPath();
  c.moveTo(x1, y1);
  c.lineTo(x2, y2);
  c.setLineDash(guesses.has(from) ? [5, 3] : []);
  c.stroke();
  c.setLineDash([]);
  if (!head) return;
  const angle = Math.atan2(y2 - y1, x2 - x1);
  c.beginPath();
  c.moveTo(x2, y2);
  c.lineTo(x2 - 7 * Math.cos(angle - 0.3), y2 - 7 * Math.sin(angle - 0.3));
  c.lineTo(x2 - 7 * Math.cos(angle + 0.3), y2 - 7 * Math.sin(angle + 0.3));
  c.fill();
};

const drawMessages = (c) => {
  const first = firstAt(packets.t, view.from), last = firstAt(packets.t, view.to + 1);
  const count = last - first;
  if (data.thinned) drawAllCounts(c);
  if (count > TICKS_MAX) { drawColumns(c, first, last); return `${count} messages in sight, as columns: zoom in for single ones`; }
  if (layers.arrows && count <= ARROWS_MAX) {
    c.strokeStyle = colours.arrow;
    c.fillStyle = colours.arrow;
    c.lineWidth = 1;
    c.globalAlpha = count > HEADS_MAX ? 0.55 : 1;
    for (let n = first; n < last; n++) {
      const to = packets.arrived[n] ? n + packets.arrived[n] : -1;
      if (to >= 0 && (packetPasses[n] || packetPasses[to])) arrow(c, n, to, count <= HEADS_MAX);
      // One that was sent before the window.
      if (sentBy[n] >= 0 && sentBy[n] < first && packetPasses[n]) arrow(c, sentBy[n], n, count <= HEADS_MAX);
    }
    c.globalAlpha = 1;
  }
  for (let n = first; n < last; n++) if (packetPasses[n]) tick(c, n, packets.tx[n] ? colours.tx : colours.rx);
  return count > ARROWS_MAX ? `${count} messages in sight: zoom in for arrows` : "";
};

const GLYPHS = { error: ["▲", "bad"], process: ["●", "ink"], link: ["◆", "accent"], step: ["▼", "fault"], refused: ["✕", "bad"], seen: ["•", "soft"], output: ["▸", "soft"], input: ["◂", "soft"], deadline: ["·", "soft"] };
const drawEvents = (c) => {
  const first = firstAt(events.t, view.from), last = firstAt(events.t, view.to + 1);
  // One glyph for each place: the most important one, which has the lowest number.
  const taken = new Map();
  for (let n = first; n < last; n++) {
    if (events.lane[n] < 0 || !eventShown(n)) continue;
    const key = events.lane[n] * 1e5 + Math.round(xOf(events.t[n]) / 4);
    const there = taken.get(key);
    if (there === undefined || events.kind[n] < events.kind[there]) taken.set(key, n);
  }
  c.textAlign = "center";
  c.font = '10px "DejaVu Sans", system-ui, sans-serif';
  for (const n of [...taken.values()].sort((a, b) => events.kind[b] - events.kind[a])) {
    const [glyph, colour] = GLYPHS[kindOf(n)], x = xOf(events.t[n]);
    c.fillStyle = colours[colour];
    c.fillText(glyph, x, layout[events.lane[n]].events + 9);
  }
  c.textAlign = "left";
};

const drawLanes = (c) => {
  data.lanes.forEach((lane, n) => {
    const place = layout[n];
    c.fillStyle = n % 2 ? colours.panel : colours.band;
    c.fillRect(0, place.top, width, place.bottom - place.top);
  });
};

const drawGutter = (c) => {
  c.fillStyle = colours.panel;
  c.fillRect(0, 0, GUTTER, height);
  data.lanes.forEach((lane, n) => {
    const place = layout[n];
    c.fillStyle = n % 2 ? colours.panel : colours.band;
    c.fillRect(0, place.top, GUTTER, place.bottom - place.top);
    c.save();
    c.beginPath();
    c.rect(0, place.top, GUTTER - 4, place.bottom - place.top);
    c.clip();
    c.fillStyle = colours.ink;
    c.font = "600 13px system-ui, sans-serif";
    c.fillText(lane.name, 10, place.top + 15);
    const wide = c.measureText(lane.name).width;
    c.font = SMALL;
    c.fillStyle = colours.soft;
    if (lane.server) c.fillText("server", 16 + wide, place.top + 15);
    if (layers.links) linksOf[n].forEach((link, row) => c.fillText("→ " + link.peer, 22, place.links + row * (BAR + 2) + BAR - 3));
    if (layers.streams && packed.rows[n]) c.fillText("streams", 22, place.flows + 7);
    if (layers.messages && hasPackets[n]) { c.fillText("sent", 22, place.messages + 11); c.fillText("arrived", 22, place.messages + 26); }
    c.restore();
  });
  c.fillStyle = colours.line;
  c.fillRect(GUTTER - 1, 0, 1, height);
};

const drawChosen = (c) => {
  if (!chosen || chosen.t < view.from || chosen.t > view.to) return;
  c.fillStyle = colours.accent;
  c.fillRect(xOf(chosen.t) - 0.75, AXIS - 4, 1.5, height);
};

const drawPicture = () => {
  width = canvas.parentElement.clientWidth;
  arrange();
  canvas.style.height = height + "px";
  const c = sized(canvas, width, height);
  hits = [];
  drawLanes(c);
  drawFaults(c);
  drawAxis(c);
  data.lanes.forEach((_, lane) => { if (layers.links) drawLinks(c, lane); });
  if (layers.streams) drawFlows(c);
  const note = layers.messages ? drawMessages(c) : "";
  drawEvents(c);
  drawViolations(c);
  drawChosen(c);
  drawGutter(c);
  byId("range").textContent = `${showExact(Math.max(view.from, 0))} to ${showExact(Math.min(view.to, endNs))} (${showLength(view.to - view.from)})${note ? " · " + note : ""}`;
};

// The whole run, how busy it was, and which part of it is shown.
const drawOverview = () => {
  const w = overview.clientWidth, h = 34, c = sized(overview, w, h);
  const all = endNs + 2 * margin, at = (ns) => GUTTER + ((ns + margin) / all) * (w - GUTTER);
  const parts = data.density.length ? data.density[0][0].length : 0;
  const totals = Array.from({ length: parts }, (_, n) => data.density.reduce((sum, [tx, rx]) => sum + tx[n] + rx[n], 0));
  const most = Math.log2(1 + Math.max(1, ...totals));
  for (const [from, to] of data.spans) { c.fillStyle = colours["fault-soft"]; c.fillRect(at(from), 0, Math.max(1, at(to) - at(from)), h); }
  c.fillStyle = colours.soft;
  totals.forEach((total, n) => {
    const x = at((n / parts) * endNs), bar = (Math.log2(1 + total) / most) * (h - 8);
    if (total) c.fillRect(x, h - bar, Math.max(1, (w - GUTTER) / parts - 0.3), bar);
  });
  for (const [from, , isFault] of data.steps) if (isFault) { c.fillStyle = colours.fault; c.fillRect(at(from), 0, 1, 6); }
  for (const [when] of data.violations) { c.fillStyle = colours.bad; c.fillRect(at(when) - 1, 0, 2, h); }
  c.fillStyle = colours.shade;
  c.fillRect(at(view.from), 0, at(view.to) - at(view.from), h);
  c.strokeStyle = colours.accent;
  c.strokeRect(at(view.from) + 0.5, 0.5, Math.max(2, at(view.to) - at(view.from) - 1), h - 1);
  c.font = SMALL;
  c.fillStyle = colours.soft;
  c.fillText("all of it", 10, 20);
};
const overviewNs = (x) => ((x - GUTTER) / (overview.clientWidth - GUTTER)) * (endNs + 2 * margin) - margin;

const drawAll = () => {
  drawPicture();
  drawOverview();
  fillTable();
};

let scheduled = false;
const schedule = () => {
  if (scheduled) return;
  scheduled = true;
  rememberView();
  requestAnimationFrame(() => {
    scheduled = false;
    drawAll();
  });
};
