// Bytes over one step, stacked by category, with its phases, its peak and the allocator's count.
const FAR = 2; // a limit further above the peak than this would flatten the picture

function makeTimeline(one) {
  const [unit, name] = unitOf(one.peak.bytes);
  const stacked = one.series.map(({ name: category, colour: tint, bytes }) => ({
    name: plain(category), stackgroup: "alive", mode: "lines", line: { shape: "hv", width: 0 }, fillcolor: legible(tint),
    x: one.positions, y: bytes.map((count) => count / unit), hovertemplate: `%{y:.3~g} ${name}`,
  }));
  const { positions, bytes } = one.allocated;
  if (positions.length) stacked.push({ name: "allocator, scratch included", mode: "lines", line: { shape: "hv", width: 1, color: colour("text") }, x: positions, y: bytes.map((count) => count / unit), hovertemplate: `%{y:.3~g} ${name}` });
  const peak = { x: one.peak.position, y: one.peak.bytes / unit, text: `peak ${sized(one.peak.bytes)}`, showarrow: true, arrowhead: 2, arrowcolor: colour("text"), ay: -24, ax: 0 };
  return {
    traces: stacked,
    layout: {
      shapes: timelineShapes(one, unit), annotations: [peak], hovermode: "x unified",
      xaxis: { title: { text: plain(one.axis) } },
      yaxis: { title: { text: `Alive, ${name}, ${one.modelled ? "modelled" : "measured"}` }, rangemode: "tozero" },
    },
  };
}

function timelineShapes(one, unit) {
  const bands = one.phases.map((phase) => ({ type: "rect", x0: phase.begin, x1: phase.end, y0: 0.985, y1: 1, yref: "paper", fillcolor: phase.colour, line: { width: 0 } }));
  const limit = one.limit_bytes;
  if (limit && limit <= FAR * one.peak.bytes) bands.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: limit / unit, y1: limit / unit, line: { color: colour("bad"), dash: "dash", width: 1.5 } });
  return bands;
}

function peakTable({ peak }) {
  const rows = peak.parts.map(({ name, bytes }) => element("tr", {}, element("th", { scope: "row" }, name),
    element("td", { "data-key": bytes, class: "number" }, sized(bytes)), element("td", { "data-key": bytes, class: "number" }, `${((100 * bytes) / peak.bytes).toFixed(1)} %`)));
  const heads = ["At the peak", "Bytes", "Share"].map((text, index) => element("th", index ? { scope: "col", class: "number" } : { scope: "col" }, text));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  sortable(table);
  return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "What the peak is made of" }, table);
}

function phaseKey(one) {
  const key = element("p", { class: "hint" }, "Strip above: ");
  for (const [name, tint] of new Map(one.phases.map((phase) => [phase.name, phase.colour]))) {
    const swatch = element("span", { style: `background: ${tint}; display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .8em` });
    key.append(element("span", { style: "display: inline-block" }, swatch, name));
  }
  return key;
}

function startTimelines() {
  if (!data.timelines.length) return;
  const texts = data.timelines.map((one) => `${one.title}${one.modelled ? ", modelled" : ""}`);
  choice(byId("timeline-choice"), texts, (index) => {
    const one = data.timelines[index];
    const limit = one.limit_bytes ? ` Device memory: ${sized(one.limit_bytes)}.` : "";
    byId("timeline-facts").textContent = `${one.facts} ${one.kept}.${limit} Peak: ${sized(one.peak.bytes)} at ${one.peak.where}.`;
    byId("timeline-peak").replaceChildren(phaseKey(one), peakTable(one));
    chart("timeline", () => makeTimeline(one));
  });
}
