// Which part of the run is shown, and where everything is on the canvas.
const GUTTER = 118, AXIS = 26, BAR = 14, PACKED_ROWS_MAX = 6;
const view = { from: 0, to: endNs };
const SHORTEST_NS = 2000;
const canvas = byId("timeline"), overview = byId("overview");
let width = 800, chosen = null, hovered = null;

const xOf = (ns) => GUTTER + ((ns - view.from) / (view.to - view.from)) * (width - GUTTER);
const nsOf = (x) => view.from + ((x - GUTTER) / (width - GUTTER)) * (view.to - view.from);

const margin = endNs * 0.02;
const setView = (from, to) => {
  const longest = endNs + 2 * margin;
  const length = Math.min(Math.max(to - from, SHORTEST_NS), longest);
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(middle - length / 2, -margin), endNs + margin - length);
  view.to = view.from + length;
  schedule();
};
const fit = () => setView(-margin, endNs + margin);
const zoom = (factor, around) => {
  const at = around === undefined ? (view.from + view.to) / 2 : around;
  const left = at - view.from, right = view.to - at;
  const longest = endNs + 2 * margin;
  if ((left + right) * factor >= longest) return fit();
  const length = Math.max((left + right) * factor, SHORTEST_NS);
  const share = left / (left + right);
  setView(at - length * share, at + length * (1 - share));
};
const pan = (share) => {
  const by = (view.to - view.from) * share;
  setView(view.from + by, view.to + by);
};
// Bring a moment into sight; from afar, also nearer.
const show = (ns, nearNs) => {
  const length = Math.min(view.to - view.from, nearNs || Infinity);
  if (length < view.to - view.from || ns < view.from || ns > view.to) setView(ns - length / 2, ns + length / 2);
  else schedule();
};

// Conversations side by side: each in the first row that is free.
const packFlows = () => {
  const rows = data.lanes.map(() => []);
  const flows = data.flows.map(([lane, label, from, to, ok, gap, detail]) => ({ lane, label: text(label), from, to, ok, gap, detail: text(detail), row: 0 }));
  flows.sort((a, b) => a.from - b.from);
  for (const flow of flows) {
    const ends = rows[flow.lane];
    let row = ends.findIndex((end) => end < flow.from);
    if (row < 0) row = Math.min(ends.length, PACKED_ROWS_MAX - 1);
    ends[row] = Math.max(ends[row] || 0, flow.to);
    flow.row = row;
  }
  return { flows, rows: rows.map((ends) => ends.length) };
};
const packed = packFlows();
const linksOf = data.lanes.map((_, lane) => data.links.filter((link) => link.lane === lane));
const hasPackets = data.density.map(([tx, rx]) => tx.some((n) => n) || rx.some((n) => n));

// From top to bottom in a lane: events, links, streams, messages.
let layout = [], height = 0;
const arrange = () => {
  let y = AXIS + 14;
  layout = data.lanes.map((lane, n) => {
    const top = y;
    const place = { top, events: top + 5, links: top + 20, flows: 0, messages: 0, bottom: 0 };
    y = place.links + (layers.links ? linksOf[n].length * (BAR + 2) : 0);
    place.flows = y + 1;
    y += layers.streams ? packed.rows[n] * 9 + 2 : 0;
    place.messages = y + 3;
    y += layers.messages && hasPackets[n] ? 34 : 2;
    place.bottom = y + 4;
    y += 10;
    return place;
  });
  height = Math.max(y, 120);
};
const txLine = (lane) => layout[lane].messages + 8;
const rxLine = (lane) => layout[lane].messages + 22;

// The part that is shown is in the address, in seconds, so that it can be sent to somebody.
const viewOfAddress = () => {
  const found = /^#(-?[0-9.]+)-([0-9.]+)$/.exec(location.hash);
  const [from, to] = found ? [found[1], found[2]].map((s) => Number(s) * 1e9) : [NaN, NaN];
  if (from < to) setView(from, to); else fit();
};
let remembering = 0;
const rememberView = () => {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const isAll = view.to - view.from >= endNs + 2 * margin - 1;
    const part = isAll ? "#" : `#${(view.from / 1e9).toFixed(6)}-${(view.to / 1e9).toFixed(6)}`;
    if (location.hash !== part && !(isAll && !location.hash)) history.replaceState(null, "", part);
  }, 400);
};
