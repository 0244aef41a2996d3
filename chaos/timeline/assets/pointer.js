// Wheel, mouse, touch and keys.
const tip = byId("tip");
const placeOf = (event, element) => {
  const box = element.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};

// What is under the pointer: the nearest event or message, else a bar.
const NEAR = 7;
const nearest = (times, x, accepts) => {
  let best = -1, distance = NEAR;
  const last = firstAt(times, nsOf(x + NEAR));
  for (let n = firstAt(times, nsOf(x - NEAR)); n < last; n++) {
    const away = Math.abs(xOf(times[n]) - x);
    if (away < distance && accepts(n)) { best = n; distance = away; }
  }
  return best;
};
const under = ({ x, y }) => {
  if (x < GUTTER) return null;
  const lane = layout.findIndex((place) => y >= place.top && y <= place.bottom);
  if (lane >= 0 && y < layout[lane].events + 14) {
    const n = nearest(events.t, x, (m) => events.lane[m] === lane && eventShown(m));
    if (n >= 0) return { entry: eventRow(n) };
  }
  if (lane >= 0 && layers.messages && y >= layout[lane].messages) {
    const tx = y < layout[lane].messages + 15 ? 1 : 0;
    const n = nearest(packets.t, x, (m) => packets.lane[m] === lane && packets.tx[m] === tx && packetPasses[m]);
    if (n >= 0) return { entry: packetRow(n) };
  }
  const hit = hits.findLast((h) => x >= h.x - 1 && x <= h.x + h.w + 1 && y >= h.y && y <= h.y + h.h);
  return hit ? { what: hit.what } : null;
};

const showTip = (place) => {
  const found = under(place);
  tip.hidden = !found;
  if (!found) return;
  const entry = found.entry;
  tip.textContent = entry ? `${showExact(entry.t)}  ${laneName(entry.lane)}  ${entry.kind}\n${entry.what}` : found.what;
  const wide = tip.offsetWidth;
  tip.style.left = Math.max(0, Math.min(place.x + 14, width - wide - 4)) + "px";
  tip.style.top = place.y + 16 + "px";
};

let drag = null;
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const sideways = event.shiftKey ? event.deltaY : event.deltaX;
  if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) return pan(sideways / 1500);
  const { x } = placeOf(event, canvas);
  zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY)) / 400), nsOf(Math.max(x, GUTTER)));
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => {
  const place = placeOf(event, canvas);
  drag = { x: place.x, from: view.from, to: view.to, selects: event.shiftKey, moved: false, start: nsOf(place.x) };
  canvas.setPointerCapture(event.pointerId);
  canvas.classList.add("dragging");
});
canvas.addEventListener("pointermove", (event) => {
  const place = placeOf(event, canvas);
  if (!drag) return showTip(place);
  if (Math.abs(place.x - drag.x) > 3) drag.moved = true;
  if (!drag.moved) return;
  tip.hidden = true;
  if (drag.selects) { hovered = nsOf(place.x); return selection(place.x); }
  const by = ((drag.x - place.x) / (width - GUTTER)) * (drag.to - drag.from);
  setView(drag.from + by, drag.to + by);
});
const selection = (x) => {
  drawPicture();
  const c = canvas.getContext("2d");
  c.fillStyle = colours.shade;
  c.fillRect(Math.min(drag.x, x), AXIS, Math.abs(x - drag.x), height);
};
canvas.addEventListener("pointerup", (event) => {
  const place = placeOf(event, canvas);
  const was = drag;
  drag = null;
  canvas.classList.remove("dragging");
  if (was && was.selects && was.moved) {
    const other = nsOf(place.x);
    return setView(Math.min(was.start, other), Math.max(was.start, other));
  }
  if (was && !was.moved) {
    const found = under(place);
    choose(found && found.entry ? found.entry : found ? { t: nsOf(place.x), lane: -1, kind: "bar", what: found.what, line: 0 } : null);
  }
});
canvas.addEventListener("pointercancel", () => { drag = null; canvas.classList.remove("dragging"); });
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("dblclick", (event) => zoom(0.25, nsOf(placeOf(event, canvas).x)));

let overviewDrag = false;
const overviewTo = (event) => {
  const at = overviewNs(placeOf(event, overview).x), half = (view.to - view.from) / 2;
  setView(at - half, at + half);
};
overview.addEventListener("pointerdown", (event) => { overviewDrag = true; overview.setPointerCapture(event.pointerId); overviewTo(event); });
overview.addEventListener("pointermove", (event) => { if (overviewDrag) overviewTo(event); });
overview.addEventListener("pointerup", () => { overviewDrag = false; });
overview.addEventListener("pointercancel", () => { overviewDrag = false; });

const keys = {
  ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6),
  0: fit, Home: () => setView(-margin, view.to - view.from - margin), End: () => setView(endNs - (view.to - view.from), endNs + margin),
  n: () => goTo(1), p: () => goTo(-1), "/": () => byId("filter").focus(), Escape: () => choose(null),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches && event.target.matches("input[type=search]");
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (typing) { if (event.key === "Escape") canvas.focus(); return; }
  const act = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (!act) return;
  event.preventDefault();
  act();
});
