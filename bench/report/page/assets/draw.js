// Drawing by plotly, which travels packed and is unpacked here. Tables do without it.
const charts = new Map(); // by id: what draws it

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function loadDrawing() {
  const script = document.createElement("script");
  script.textContent = await unpacked(byId("drawing").textContent); // its hash is in the policy
  document.head.append(script);
  if (!window.Plotly) throw new Error("the drawing library did not start");
}

// plotly reads some HTML in texts; this shows it as it is written.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const lines = (...texts) => texts.filter(Boolean).map(plain).join("<br>");

// The value that a colour has in the theme of now.
function colour(name) {
  const probe = element("span", { style: `color: var(--${name})` });
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

function layout(changes) {
  const axis = { gridcolor: colour("rule"), zerolinecolor: colour("rule"), linecolor: colour("rule"), automargin: true };
  const coarse = matchMedia("(pointer: coarse)").matches;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), size: 13, family: getComputedStyle(document.body).fontFamily },
    hoverlabel: { align: "left", bgcolor: colour("raised"), bordercolor: colour("rule"), font: { color: colour("text") } },
    margin: { l: 60, r: 20, t: 20, b: 50 },
    legend: { orientation: "h", y: -0.2, yanchor: "top" },
    dragmode: coarse ? false : "zoom", // a finger scrolls the page
    ...changes,
    xaxis: { ...axis, ...changes.xaxis },
    yaxis: { ...axis, ...changes.yaxis },
  };
}

const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "toImage"] };

// Draws a chart now, if the library is there, and again whenever colours change.
function chart(id, make) {
  charts.set(id, make);
  return redraw(id);
}

async function redraw(id) {
  if (!window.Plotly) return;
  const { traces, layout: changes } = charts.get(id)();
  const node = byId(id);
  await Plotly.react(node, traces, layout(changes), CONFIG);
  node.dataset.drawn = Number(node.dataset.drawn ?? 0) + 1;
  node.dispatchEvent(new Event("drawn"));
}

async function startDrawing() {
  try {
    await loadDrawing();
    for (const id of charts.keys()) await redraw(id);
    onTheme.push(() => [...charts.keys()].forEach(redraw));
  } catch (error) {
    const said = byId("undrawn");
    said.textContent = `Nothing is drawn in this browser (${error.message}); the tables hold every figure.`;
    said.hidden = false;
  }
}
