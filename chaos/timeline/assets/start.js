// The rest of the page, and the first picture.
const listItems = (list, items) => list.replaceChildren(...items.map((item) => {
  const li = document.createElement("li");
  if (typeof item === "string") li.textContent = item; else li.append(item);
  return li;
}));

const fillHeader = () => {
  byId("title").textContent = data.title;
  byId("subtitle").textContent = data.subtitle;
  const verdict = byId("verdict"), count = data.violations.length;
  const [name, label] = !data.judged && !count ? ["none", "not judged"] : count ? ["violated", `${count} violated`] : ["held", "held"];
  verdict.classList.add(name);
  verdict.textContent = label;
  if (data.replay) {
    const line = byId("replay");
    line.hidden = false;
    line.querySelector("code").textContent = data.replay;
    line.querySelector("button").addEventListener("click", () => {
      if (navigator.clipboard) navigator.clipboard.writeText(data.replay);
    });
  }
  listItems(byId("violations"), data.violations.map(([t, what]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${showExact(t)}  ${what}`;
    button.addEventListener("click", () => choose({ t, lane: -1, kind: "violation", what, line: 0 }, 4e9));
    return button;
  }));
  listItems(byId("notes"), data.notes);
};

const fillLayers = () => {
  byId("layers").replaceChildren(...Object.keys(layers).map((name) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = layers[name];
    box.addEventListener("change", () => { layers[name] = box.checked; schedule(); });
    label.append(box, name);
    return label;
  }));
};

const fillLegend = () => {
  const entry = (label, paint) => {
    const span = document.createElement("span"), sample = document.createElement("canvas");
    const c = sized(sample, 26, 12);
    paint(c);
    span.append(sample, label);
    return span;
  };
  const bar = (state, path) => (c) => linkBar(c, 0, 0, 26, 12, state, path);
  const block = (name) => (c) => { c.fillStyle = colours[name]; c.fillRect(0, 2, 26, 8); };
  const glyph = (kind) => (c) => { c.fillStyle = colours[GLYPHS[kind][1]]; c.font = '11px "DejaVu Sans", sans-serif'; c.textAlign = "center"; c.fillText(GLYPHS[kind][0], 13, 10); };
  byId("legend").replaceChildren(
    entry("idle", bar("idle")), entry("signaling", bar("signaling")), entry("connecting", bar("connecting")),
    entry("up, direct", bar("up", "direct")), entry("up, relay", bar("up", "relay")), entry("down", bar("down")),
    entry("stream or flow, hollow: silence", (c) => { block("flow")(c); c.fillStyle = colours.gap; c.fillRect(10, 3, 9, 6); }),
    entry("not complete", block("flow-bad")), entry("message: dashed when probable", (c) => { c.strokeStyle = colours.soft; c.beginPath(); c.moveTo(0, 3); c.lineTo(26, 3); c.stroke(); c.setLineDash([5, 3]); c.beginPath(); c.moveTo(0, 9); c.lineTo(26, 9); c.stroke(); c.setLineDash([]); }),
    entry("sent", block("tx")), entry("arrived", block("rx")),
    entry("fault", (c) => { block("fault-soft")(c); c.fillStyle = colours.fault; c.fillRect(0, 1, 26, 2); }),
    entry("violation", (c) => { c.fillStyle = colours.bad; c.fillRect(12, 0, 2, 12); }),
    entry("ERROR", glyph("error")), entry("process", glyph("process")), entry("link event", glyph("link")),
    entry("refused", glyph("refused")), entry("output", glyph("output")), entry("input", glyph("input")));
};

// For those who cannot see the picture, and for tools.
const fillSummary = () => {
  const lanes = data.lanes.map((lane, n) => {
    const item = document.createElement("div"), title = document.createElement("h3"), list = document.createElement("ul");
    item.className = "lane";
    title.textContent = lane.server ? `${lane.name} (server)` : lane.name;
    const links = linksOf[n].map((link) => {
      const states = link.spans.slice(0, 40).map(([from, , state, path]) => `${showExact(from)} ${text(state)}${text(state) === "up" && text(path) ? " · " + text(path) : ""}`);
      const more = link.spans.length > 40 ? `, and ${link.spans.length - 40} more` : "";
      return `link to ${link.peer}: ${states.join(", ")}${more}`;
    });
    const [tx, rx] = data.density[n].map((parts) => parts.reduce((sum, count) => sum + count, 0));
    listItems(list, [...links, `${tx} messages sent, ${rx} arrived`]);
    item.append(title, list);
    return item;
  });
  byId("summary").replaceChildren(...lanes);
  canvas.setAttribute("aria-label", `Timeline of ${data.lanes.length} lanes over ${showLength(endNs)}. The table below lists what is in sight.`);
};

const fillMarks = () => {
  const marks = Object.entries(data.marks);
  if (!marks.length) return;
  byId("marks").hidden = false;
  listItems(byId("marks").querySelector("ul"), marks.map(([name, count]) => `${count} × ${name}`));
};

const repaint = () => { readColours(); fillLegend(); schedule(); };
byId("in").addEventListener("click", () => zoom(0.5));
byId("out").addEventListener("click", () => zoom(2));
byId("fit").addEventListener("click", fit);
byId("next").addEventListener("click", () => goTo(1));
byId("previous").addEventListener("click", () => goTo(-1));
byId("filter").addEventListener("input", (event) => { setFilter(event.target.value); schedule(); });
window.addEventListener("resize", schedule);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
// An observer tells the same in better words; a flight recorder has nothing but outputs.
layers.outputs = !events.kind.some((kind) => data.kinds[kind] === "link");
readColours();
fillHeader();
fillLayers();
fillLegend();
fillSummary();
fillMarks();
window.addEventListener("hashchange", viewOfAddress);
viewOfAddress();
// At once: a page in the background gets no frames.
drawAll();
