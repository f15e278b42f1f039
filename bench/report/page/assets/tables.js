// Every table sorts by its headings; the table of cells filters; links open what they lead to.
const UNKNOWN = new Set(["", "—"]);
const collator = new Intl.Collator("en", { numeric: true });

// What moves as one: a row, or a body of rows where there are several bodies.
const unitsOf = (table) => (table.tBodies.length > 1 ? [...table.tBodies] : [...table.tBodies[0].rows]);

function keyOf(unit, column) {
  const cell = (unit.rows ? unit.rows[0] : unit).cells[column];
  return (cell.dataset.key ?? cell.textContent).trim();
}

// 1,234.5 MB, 1.31× [1.28, 1.35] and +74.9 % begin with their number.
function numberOf(text) {
  const found = /^[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/i.exec(text);
  return found ? Number(found[0].replaceAll(",", "")) : NaN;
}

// Numbers come before texts, and what is not known is last whichever way.
function compared(one, other, sign) {
  if (UNKNOWN.has(one) || UNKNOWN.has(other)) return UNKNOWN.has(one) - UNKNOWN.has(other);
  const [a, b] = [numberOf(one), numberOf(other)];
  if (Number.isNaN(a) || Number.isNaN(b)) {
    return sign * (Number.isNaN(a) - Number.isNaN(b) || collator.compare(one, other));
  }
  return sign * (a - b || collator.compare(one, other));
}

function sort(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyed = unitsOf(table).map((unit) => ({ unit, key: keyOf(unit, column) }));
  keyed.sort((one, other) => compared(one.key, other.key, down ? -1 : 1));
  keyed[0]?.unit.parentElement.append(...keyed.map(({ unit }) => unit));
}

function sortable(table) {
  if (!table.tHead || !table.tBodies.length || table.dataset.sortable) return;
  table.dataset.sortable = "yes";
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = element("button", { type: "button", title: "Sort" });
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, column));
    heading.append(button);
  });
}

// Details of a cell: open where scripts do not run, closed where they do, until they are asked for.
function open(button, wanted) {
  button.setAttribute("aria-expanded", String(wanted));
  byId(button.getAttribute("aria-controls")).hidden = !wanted;
}

function startFilters() {
  const table = byId("cell-table");
  if (!table) return;
  for (const button of all(".opens", table)) {
    open(button, false);
    button.addEventListener("click", () => open(button, button.getAttribute("aria-expanded") === "false"));
  }
  const rows = [...table.tBodies].map((row) => ({ row, text: row.textContent.toLowerCase() }));
  const choices = all("[data-filter]", byId("filters"));
  const find = byId("find");
  const show = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const asked = choices.filter(({ value }) => value);
    for (const { row, text } of rows) {
      const fits = asked.every(({ dataset, value }) => row.dataset[dataset.filter] === value);
      row.hidden = !fits || !words.every((word) => text.includes(word));
    }
    const count = rows.filter(({ row }) => !row.hidden).length;
    byId("shown").textContent = `${count} of ${rows.length} cells.`;
  };
  const clear = () => {
    find.value = "";
    for (const choice of choices) choice.value = "";
    show();
  };
  find.addEventListener("input", show);
  byId("filters").addEventListener("change", show);
  byId("clear").addEventListener("click", clear);
  show();
  return clear;
}

// A link to what is hidden shows it: filters are cleared, and details open.
function startLinks(clear) {
  const follow = () => {
    const target = location.hash.length > 1 && byId(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.hidden && clear) clear();
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
    const button = target.querySelector(":scope .opens");
    if (!target.matches("tbody") || !button) return;
    open(button, true);
    button.focus({ preventScroll: true });
    button.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", follow);
  follow();
}

function startVerdicts() {
  const group = byId("verdicts");
  if (!group) return;
  const claims = all(".claims > li");
  const names = ["all", ...new Set(claims.map(({ dataset }) => dataset.verdict))];
  const counted = (name) => claims.filter(({ dataset }) => name === "all" || dataset.verdict === name);
  const press = (name) => {
    for (const button of group.children) button.setAttribute("aria-pressed", String(button.value === name));
    const shown = new Set(counted(name));
    for (const claim of claims) claim.hidden = !shown.has(claim);
  };
  for (const name of names) {
    const button = element("button", { type: "button", value: name }, `${name} (${counted(name).length})`);
    button.addEventListener("click", () => press(name));
    group.append(button);
  }
  press("all");
}
