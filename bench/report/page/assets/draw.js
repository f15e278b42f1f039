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

// On a dark ground what is nearly black is lightened, so that it can be seen.
function legible(tint) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(tint.slice(at, at + 2), 16));
  const light = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return isDark() && light < 90 ? `rgb(${[red, green, blue].map((part) => Math.round((part + 255) / 2)).join(",")})` : tint;
}

function layout(changes) {
  const axis = { gridcolor: colour("rule"), zerolinecolor: colour("rule"), linecolor: colour("rule"), automargin: true };
  const coarse = matchMedia("(pointer: coarse)").matches;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("text"), size: 13, family: getComputedStyle(document.body).fontFamily },
    hoverlabel: { align: "left", bgcolor: colour("raised"), bordercolor: colour("rule"), font: { color: colour("text") } },
    margin: { l: 60, r: 20, t: 36, b: 50 },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("quiet"), activecolor: colour("accent") },
    dragmode: coarse ? false : "zoom", // a finger scrolls the page
    ...changes,
    xaxis: { ...axis, ...changes.xaxis },
    yaxis: { ...axis, ...changes.yaxis },
  };
}

const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]] };

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
