// Charts of studies: budgets, promises, solvers. Seconds of one machine are never beside another's.
const TINTS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"];

function bars(points, tint) {
  const ends = (pick) => points.map((one) => (one && one.low !== null ? pick(one) : 0));
  return { type: "data", symmetric: false, array: ends((one) => one.high - one.ratio), arrayminus: ends((one) => one.ratio - one.low), color: tint, thickness: 1, width: 3 };
}

function makeBudgets(one) {
  const [unit, , words] = unitOf(Math.max(...one.budgets));
  const x = one.budgets.map((bytes) => bytes / unit);
  const trace = (name, points, tint, symbol, said) => ({
    name, mode: "lines+markers", x, y: points.map((point) => point?.ratio ?? null), error_y: bars(points, tint),
    line: { color: tint, width: 1.5 }, marker: { symbol, size: 9, color: tint }, hovertemplate: "%{text}<extra></extra>",
    text: points.map((point, index) => (point ? lines(`${name}: ${interval({ ...point })}`, `budget ${sized(one.budgets[index])}`, said[index], `optimal against the rule: ${one.verdicts[index]}`) : "")),
  });
  const predicted = { name: "optimal, predicted", mode: "lines", x, y: one.predicted, line: { color: TINTS[0], dash: "dot", width: 1.5 }, hoverinfo: "skip" };
  return {
    traces: [trace("optimal", one.optimal, TINTS[0], "circle", one.plans), trace("best rule that fits", one.rule, TINTS[1], "diamond", one.rules), predicted],
    layout: { xaxis: { title: { text: `Budget, ${words}` } }, yaxis: { title: { text: "Step × none, 95 % interval" } } },
  };
}

function makePromises(points) {
  const loops = [...new Set(points.map(({ loop }) => loop))];
  const traces = loops.map((loop, index) => {
    const own = points.filter((one) => one.loop === loop);
    return {
      name: plain(loop), mode: "markers", x: own.map((one) => plain(one.model)), y: own.map((one) => 100 * one.used),
      marker: { size: 8, opacity: 0.75, color: TINTS[index], symbol: index ? "square" : "circle" }, hovertemplate: "%{text}<extra></extra>",
      text: own.map((one) => lines(one.model, `budget ${sized(one.budget_bytes)}, peak ${sized(one.peak_bytes)}`, `${(100 * one.used).toFixed(1)} % used, ${one.kept ? "kept" : "exceeded"}`)),
    };
  });
  const budget = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 100, y1: 100, line: { color: colour("quiet"), width: 1 } };
  return { traces, layout: { shapes: [budget], xaxis: { type: "category" }, yaxis: { title: { text: "Measured peak, % of the budget" } } } };
}

function makeSolvers(one) {
  const traces = one.lines.map(({ name, points }, index) => ({
    name: plain(name), mode: "lines+markers", x: points.map(({ blocks }) => blocks), y: points.map(({ median_s: middle }) => middle),
    error_y: { type: "data", symmetric: false, array: points.map((p) => p.high_s - p.median_s), arrayminus: points.map((p) => p.median_s - p.low_s), thickness: 1, width: 3 },
    line: { color: TINTS[index % TINTS.length], width: 1.5 }, marker: { size: 7 }, hovertemplate: "%{x} blocks: %{y:.3~g} s",
  }));
  return { traces, layout: { xaxis: { type: "log", title: { text: "Blocks in the chain" } }, yaxis: { type: "log", title: { text: "Seconds for one plan" } } } };
}

function startStudies() {
  const kinds = { budgets: makeBudgets, solvers: makeSolvers };
  for (const [name, make] of Object.entries(kinds)) {
    const studies = data[name];
    if (!studies.length) continue;
    choice(byId(`${name}-choice`), studies.map(({ title }) => title), (index) => {
      byId(`${name}-facts`).textContent = studies[index].facts;
      chart(`${name}-chart`, () => make(studies[index]));
    });
  }
  if (data.promises.length) chart("promises-chart", () => makePromises(data.promises));
}
