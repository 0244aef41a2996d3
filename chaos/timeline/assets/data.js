// The data, decoded. Everything in it is hostile: it becomes text and numbers, never markup.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const sums = (deltas) => {
  const out = new Float64Array(deltas.length);
  let sum = 0;
  for (let n = 0; n < deltas.length; n++) out[n] = sum += deltas[n];
  return out;
};
const text = (n) => data.texts[n];
const packets = data.packets;
packets.t = sums(packets.t);
packets.line = sums(packets.line);
const events = data.events;
events.t = sums(events.t);
events.line = sums(events.line);
const endNs = data.end;
// The other end of each arrow, for messages that arrived.
const sentBy = new Int32Array(packets.t.length).fill(-1);
packets.arrived.forEach((behind, n) => { if (behind) sentBy[n + behind] = n; });

const guesses = new Set(packets.guesses);

const laneName = (lane) => (lane < 0 ? "all" : data.lanes[lane].name);
const kindOf = (n) => data.kinds[events.kind[n]];

// The first position whose time is not before t.
const firstAt = (times, t) => {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < t) low = middle + 1; else high = middle;
  }
  return low;
};

// A time in the unit that its resolution asks for.
const showTime = (ns, step) => {
  if (step >= 1e8) return (ns / 1e9).toFixed(step >= 1e9 ? 0 : 1) + " s";
  if (step >= 1e6) return (ns / 1e9).toFixed(3) + " s";
  return (ns / 1e6).toFixed(step >= 1e5 ? 1 : step >= 1e4 ? 2 : 3) + " ms";
};
const showExact = (ns) => (ns / 1e9).toFixed(6) + " s";
const showLength = (ns) => {
  if (ns >= 1e9) return (ns / 1e9).toFixed(2) + " s";
  if (ns >= 1e6) return (ns / 1e6).toFixed(ns >= 1e8 ? 0 : 1) + " ms";
  return (ns / 1e3).toFixed(0) + " µs";
};

const packetText = (n) => {
  const count = packets.count[n];
  const many = count > 1 ? `, ${count} datagrams` : "";
  return `${packets.tx[n] ? "to" : "from"} ${text(packets.address[n])}, ${packets.len[n]} bytes${many}`;
};

// What is shown, and which of it the filter lets through.
const layers = { links: true, streams: true, messages: true, arrows: true, observations: true, outputs: true, inputs: false, deadlines: false };
const layerOf = (kind) => ({ output: "outputs", input: "inputs", deadline: "deadlines" }[kind] || "observations");
const eventPasses = new Uint8Array(events.t.length).fill(1);
const packetPasses = new Uint8Array(packets.t.length).fill(1);
let words = [];
const setFilter = (wanted) => {
  words = wanted.toLowerCase().split(/\s+/).filter((word) => word).slice(0, 8);
  const known = new Map();
  const passes = (key, full) => {
    let answer = known.get(key);
    if (answer === undefined) {
      const lower = full().toLowerCase();
      answer = words.every((word) => lower.includes(word)) ? 1 : 0;
      known.set(key, answer);
    }
    return answer;
  };
  for (let n = 0; n < events.t.length; n++) {
    const lane = events.lane[n], kind = kindOf(n), what = events.text[n];
    eventPasses[n] = passes(`${lane} ${kind} ${what}`, () => `${laneName(lane)} ${kind} ${text(what)}`);
  }
  for (let n = 0; n < packets.t.length; n++) {
    const lane = packets.lane[n], tx = packets.tx[n], address = packets.address[n];
    packetPasses[n] = passes(`m${lane} ${tx} ${address}`, () =>
      `${laneName(lane)} ${tx ? "tx to" : "rx from"} ${text(address)}`);
  }
};
const eventShown = (n) => eventPasses[n] && layers[layerOf(kindOf(n))];
