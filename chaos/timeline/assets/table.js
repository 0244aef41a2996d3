// The table of what is in sight, which is also the picture in words.
const ROWS_MAX = 300;
const eventRow = (n) => ({ t: events.t[n], lane: events.lane[n], kind: kindOf(n), what: text(events.text[n]), line: events.line[n] });
const packetRow = (n) => {
  const other = packets.arrived[n] ? n + packets.arrived[n] : sentBy[n];
  const lane = packets.lane[n];
  let what = packetText(n);
  const probably = guesses.has(packets.tx[n] ? n : other) ? "probably " : "";
  if (other >= 0 && packets.tx[n]) what += `; ${probably}arrived at ${laneName(packets.lane[other])} after ${showLength(packets.t[other] - packets.t[n])}`;
  else if (other >= 0) what += `; ${probably}sent by ${laneName(packets.lane[other])} ${showLength(packets.t[n] - packets.t[other])} before`;
  return { t: packets.t[n], lane, kind: packets.tx[n] ? "tx" : "rx", what, line: packets.line[n] };
};
const isSame = (a, b) => a && b && a.line === b.line && a.t === b.t && a.what === b.what;

const inSight = (times, passes) => {
  const found = [];
  const last = firstAt(times, view.to + 1);
  for (let n = firstAt(times, view.from); n < last; n++) if (passes(n)) found.push(n);
  return found;
};

const cell = (row, content) => {
  const td = document.createElement("td");
  td.textContent = content;
  row.append(td);
};

const fillTable = () => {
  const shownEvents = inSight(events.t, eventShown);
  const shownPackets = layers.messages ? inSight(packets.t, (n) => packetPasses[n]) : [];
  // Messages join only when all of them fit, or nothing but them would be there.
  const withPackets = shownEvents.length + shownPackets.length <= ROWS_MAX || (words.length && !shownEvents.length);
  let rows = shownEvents.slice(0, ROWS_MAX).map(eventRow);
  if (withPackets) rows = rows.concat(shownPackets.slice(0, ROWS_MAX).map(packetRow));
  for (const [t, what] of data.violations) if (t >= view.from && t <= view.to) rows.push({ t, lane: -1, kind: "violation", what, line: 0 });
  rows.sort((a, b) => a.t - b.t || a.line - b.line);
  rows.length = Math.min(rows.length, ROWS_MAX);
  const body = byId("rows");
  body.replaceChildren(...rows.map((entry) => {
    const row = document.createElement("tr");
    row.tabIndex = 0;
    row.className = entry.what.startsWith("fault: ") ? "fault" : entry.kind === "error" || entry.kind === "violation" ? entry.kind : "";
    if (isSame(entry, chosen)) row.classList.add("chosen");
    cell(row, showExact(entry.t));
    cell(row, laneName(entry.lane));
    cell(row, entry.kind);
    cell(row, entry.what);
    cell(row, entry.line || "");
    row.addEventListener("click", () => choose(entry));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") choose(entry); });
    return row;
  }));
  const left = shownEvents.length - Math.min(shownEvents.length, ROWS_MAX);
  const silent = withPackets ? Math.max(0, shownPackets.length - ROWS_MAX) : shownPackets.length;
  byId("count").textContent = `${rows.length} of what is in sight${words.length ? " and passes the filter" : ""}` +
    (left ? `; ${left} more events: zoom in or filter` : "") + (silent ? `; ${silent} messages are not in the table: zoom in or filter` : "") + ".";
};

// Choose an event: marked in the picture, explained below it.
const choose = (entry, nearNs) => {
  chosen = entry;
  const detail = byId("detail");
  detail.hidden = !entry;
  if (!entry) { schedule(); return; }
  const line = entry.line ? `, line ${entry.line} of the trace` : "";
  detail.textContent = `${showExact(entry.t)}  ${laneName(entry.lane)}  ${entry.kind}${line}\n${entry.what}`;
  show(entry.t, nearNs);
};

const goTo = (direction) => {
  const from = chosen ? chosen.t : direction > 0 ? view.from - 1 : view.to + 1;
  let n = direction > 0 ? firstAt(events.t, from) : firstAt(events.t, from + 1) - 1;
  for (; n >= 0 && n < events.t.length; n += direction) {
    if (!eventShown(n)) continue;
    const entry = eventRow(n);
    const isBeyond = direction > 0 ? entry.t > from || (chosen && entry.t === from && entry.line > chosen.line) : entry.t < from || (chosen && entry.t === from && entry.line < chosen.line);
    if (isBeyond) return choose(entry);
  }
};
