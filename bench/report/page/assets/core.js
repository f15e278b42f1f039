// What everything else uses. Texts of records reach the page as text alone: never as HTML.
const byId = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const data = JSON.parse(byId("data").textContent);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Bytes as a person reads them, in powers of ten: as `display.sized` does.
function sized(bytes) {
  const [unit, name] = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([u]) => Math.abs(bytes) >= u) ?? [1, "B"];
  return `${(bytes / unit).toFixed(unit === 1 ? 0 : 1)} ${name}`;
}

// What an axis counts in, where most is that many bytes.
const unitOf = (bytes) => (bytes >= 1e10 ? [1e9, "GB", "GB (10⁹ bytes)"] : [1e6, "MB", "MB (10⁶ bytes)"]);

const times = (ratio) => `${ratio.toFixed(2)}×`;

function interval({ ratio, low, high, unstable }) {
  const ends = low === null ? "" : ` [${low.toFixed(2)}, ${high.toFixed(2)}]`;
  return times(ratio) + ends + (unstable ? " †" : "");
}

// Fills a choice with texts; `chosen` hears of the index, now and at each change.
function choice(select, texts, chosen) {
  select.replaceChildren(...texts.map((text, index) => element("option", { value: index }, text)));
  select.addEventListener("change", () => chosen(Number(select.value)));
  if (select.parentElement.hidden) select.parentElement.hidden = texts.length < 2;
  chosen(0);
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const onTheme = [];

function isDark() {
  const asked = document.documentElement.dataset.theme;
  return asked ? asked === "dark" : dark.matches;
}

function remembered(value) {
  try { // a browser may refuse to keep anything for a file
    if (value) localStorage.setItem("theme", value);
    return localStorage.getItem("theme");
  } catch {
    return null;
  }
}

function startTheme() {
  const button = byId("theme");
  const apply = () => {
    button.setAttribute("aria-pressed", String(isDark()));
    onTheme.forEach((react) => react());
  };
  const kept = remembered();
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  button.hidden = false;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    remembered(document.documentElement.dataset.theme);
    apply();
  });
  dark.addEventListener("change", apply);
  apply();
}
