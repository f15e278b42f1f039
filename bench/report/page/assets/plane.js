// Memory against time, and which strategy is fastest within a budget.
const plane = { shown: null, budget: 0, traces: [], at: -1 };
const allowed = () => (byId("exact-only").checked ? plane.shown.points.filter((one) => one.exact) : plane.shown.points);
const kindOf = () => (plane.shown.modelled ? "modelled" : "measured");

function choosePlane(index) {
  plane.shown = data.planes[index];
  plane.at = -1;
  byId("plane-facts").textContent = plane.shown.facts;
  const peaks = plane.shown.points.map((one) => one.peak_bytes);
  const [least, most] = [Math.min(...peaks), Math.max(...peaks)];
  [plane.unit, , plane.words] = unitOf(most);
  const range = byId("budget-range");
  const step = Math.max(1, Math.round((most - least) / 200));
  Object.assign(range, { min: least - step, max: most + step, step });
  range.value = least + 0.4 * (most - least);
  setBudget();
  return chart("plane", makePlane);
}

function setBudget() {
  const range = byId("budget-range");
  plane.budget = Number(range.value);
  byId("budget-value").textContent = sized(plane.budget);
  range.setAttribute("aria-valuetext", sized(plane.budget));
  byId("answer").replaceChildren(...answer());
  if (window.Plotly && byId("plane").layout) Plotly.relayout("plane", { shapes: planeShapes() });
}

// The fastest of those that fit, what is as fast as far as rounds tell, and what more memory buys.
function answer() {
  const fitting = allowed().filter((one) => one.peak_bytes <= plane.budget).sort((a, b) => a.ratio - b.ratio);
  if (!fitting.length) return [nothingFits()];
  const [best, ...others] = fitting;
  const equal = others.filter((one) => one.low !== null && best.high !== null && one.low <= best.high);
  const parts = [
    element("p", { class: "best" }, element("strong", {}, best.label), `: ${described(best)}`),
    ...(best.line ? [element("pre", {}, element("code", {}, best.line))] : []),
    element("p", {}, `Plan ${best.plan || "of a compiler"}.${best.gradients && ` Gradients: ${best.gradients}.`}`),
  ];
  if (equal.length) parts.push(element("p", { class: "hint" }, `No slower beyond noise: ${named(equal)}.`));
  const faster = allowed().filter((one) => one.peak_bytes > plane.budget && one.ratio < best.ratio);
  const next = faster.sort((a, b) => a.peak_bytes - b.peak_bytes)[0];
  if (next) parts.push(element("p", { class: "hint" }, `With ${sized(next.peak_bytes - plane.budget)} more: ${named([next])}.`));
  return parts;
}

function nothingFits() {
  const least = allowed().sort((a, b) => a.peak_bytes - b.peak_bytes)[0];
  const smallest = least ? ` The smallest need is ${named([least])}.` : "";
  return element("p", { class: "best" }, `Nothing that is stored here fits in ${sized(plane.budget)}.${smallest}`);
}

const described = (one) => `${kindOf()} peak ${sized(one.peak_bytes)}, step ${interval(one)} of none${plane.shown.modelled ? " (modelled)" : ""}`;
const named = (points) => points.slice(0, 4).map((one) => `${one.label} (${sized(one.peak_bytes)}, ${times(one.ratio)})`).join(", ");

function planeShapes() {
  const upright = (x, color, width, dash) => ({ type: "line", x0: x / plane.unit, x1: x / plane.unit, y0: 0, y1: 1, yref: "paper", layer: "below", line: { color, width, dash } });
  return [
    ...plane.shown.budgets.map((bytes) => upright(bytes, colour("rule"), 1, "dot")),
    upright(plane.budget, colour("accent"), 2, "solid"),
  ];
}

function hoverOf(one) {
  return lines(one.label, described(one), one.plan && `plan ${one.plan}`, one.gradients && `gradients: ${one.gradients}`);
}

// One trace a family, which its mark in the legend hides and shows; the front lies below.
function makePlane() {
  const { points, front, exact_front: exact } = plane.shown;
  const families = [...new Set(points.map((one) => one.family))].sort();
  const stairs = (indices, name, dash) => ({
    name, mode: "lines", hoverinfo: "skip", line: { shape: "hv", color: colour("quiet"), width: 1, dash },
    x: indices.map((index) => points[index].peak_bytes / plane.unit), y: indices.map((index) => points[index].ratio),
  });
  const fronts = [stairs(exact, "Pareto front, exact gradients", "solid")];
  if (String(front) !== String(exact)) fronts.unshift(stairs(front, "Pareto front", "dot"));
  plane.traces = families.map((family) => points.filter((one) => one.family === family));
  const traces = families.map((family, index) => familyTrace(family, plane.traces[index]));
  const marks = families.map(familyMark);
  const word = plane.shown.modelled ? "Modelled peak" : "Measured peak";
  return {
    traces: [...traces, ...marks, ...fronts],
    layout: {
      shapes: planeShapes(), annotations: frontNames(points, front),
      xaxis: { title: { text: `${word}, ${plane.words}` } },
      yaxis: { title: { text: plane.shown.modelled ? "Step × none, modelled" : "Step × none, 95 % interval" } },
    },
  };
}

const tintOf = (family) => (family in data.colours ? legible(data.colours[family]) : colour("text"));

// In the legend: a family's colour alone, for its points have several shapes.
function familyMark(family) {
  return { name: plain(family), legendgroup: family, mode: "markers", x: [null], y: [null], marker: { size: 11, color: tintOf(family) } };
}

function familyTrace(family, points) {
  const tint = tintOf(family);
  const ends = (pick) => points.map((one) => (one.low === null ? 0 : pick(one)));
  return {
    name: plain(family), legendgroup: family, showlegend: false, mode: "markers", hovertemplate: "%{text}<extra></extra>", text: points.map(hoverOf),
    x: points.map((one) => one.peak_bytes / plane.unit), y: points.map((one) => one.ratio),
    error_y: { type: "data", symmetric: false, array: ends((one) => one.high - one.ratio), arrayminus: ends((one) => one.ratio - one.low), color: tint, thickness: 1, width: 2 },
    marker: { size: 11, color: tint, line: { color: tint, width: 1.5 }, symbol: points.map((one) => (one.exact ? "circle" : "diamond") + (one.unstable ? "-open" : "")) },
  };
}

// Names on the front, as many as do not lie on each other; a narrow screen has no room for any.
function frontNames(points, front) {
  const width = byId("plane").clientWidth;
  if (width < 600) return [];
  const [right, up] = [scale(points.map((one) => one.peak_bytes), 0.9 * width), scale(points.map((one) => one.ratio), 280)];
  const placed = [];
  return front.map((index) => points[index]).filter((one) => {
    const box = { x: right(one.peak_bytes), y: up(one.ratio), width: 6.5 * shortened(one.label).length };
    const free = placed.every((other) => Math.abs(other.y - box.y) > 15 || Math.abs(other.x - box.x) > Math.max(other.width, box.width));
    if (free) placed.push(box);
    return free;
  }).map((one) => ({
    x: one.peak_bytes / plane.unit, y: one.ratio, text: plain(shortened(one.label)), font: { size: 11, color: colour("quiet") },
    showarrow: false, xanchor: "right", yanchor: "top", xshift: -6, yshift: -3,
  }));
}

const shortened = (label) => (label.length > 30 ? `${label.slice(0, 29)}…` : label);

// About where a value lies, in points of the screen.
function scale(values, length) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return (value) => (length * (value - least)) / (most - least || 1);
}

// From point to point, by peak; what is there is said and hovered.
function walk(step) {
  const { points } = plane.shown;
  plane.at = plane.at < 0 ? (step > 0 ? 0 : points.length - 1) : Math.min(points.length - 1, Math.max(0, plane.at + step));
  const one = points[plane.at];
  byId("plane-said").textContent = `${one.label}: ${described(one)}`;
  const curveNumber = plane.traces.findIndex((own) => own.includes(one));
  Plotly.Fx.hover("plane", [{ curveNumber, pointNumber: plane.traces[curveNumber].indexOf(one) }]);
}

function startPlane() {
  if (!data.planes.length) return;
  const texts = data.planes.map((one) => `${one.title}${one.modelled ? ", modelled" : ""} (${one.points.length} strategies)`);
  choice(byId("plane-choice"), texts, choosePlane);
  byId("budget-range").addEventListener("input", setBudget);
  byId("exact-only").addEventListener("change", setBudget);
  const node = byId("plane");
  const keys = { ArrowRight: () => walk(1), ArrowDown: () => walk(1), ArrowLeft: () => walk(-1), ArrowUp: () => walk(-1), Enter: () => lead(plane.shown.points[plane.at]) };
  node.addEventListener("keydown", (event) => {
    if (!keys[event.key] || !window.Plotly) return;
    event.preventDefault();
    keys[event.key]();
  });
  node.addEventListener("drawn", () => {
    node.removeAllListeners("plotly_click");
    node.on("plotly_click", ({ points: [hit] }) => lead(plane.traces[hit.curveNumber]?.[hit.pointNumber]));
  });
}

function lead(one) {
  if (one?.anchor) location.hash = one.anchor;
}
