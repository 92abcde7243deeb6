// The table of all models of all runs: filters, sorting by each column, up to four picked for a comparison.
const rowsShown = 100,
  mostPicked = 4,
  collator = new Intl.Collator("en", { numeric: true });

// {name, title, unit, value: what is sorted by, cell: what is shown}; ascending first where less is better.
const runColumns = [
  {
    name: "started_at",
    title: "run",
    value: model => -model.run.index,
    cell: ({ run }) => ({
      text: runLink(run),
      second: [run.recipe, run.failed > 0 && el("span.bad", ` · ${run.failed} failed`)],
    }),
  },
  {
    name: "name",
    title: "model",
    ascending: true,
    value: model => model.name,
    cell: model => ({
      text: [cut(model.name, 40), taken(model)],
      second: methodOf(model) + (model.version ? " · version " + model.version : ""),
      title: model.name,
    }),
  },
  {
    name: "verdict",
    title: "policy",
    unit: "all limits",
    ascending: true,
    value: verdictOf,
    cell: model => ({ text: badge(verdictOf(model)), title: model.failure }),
  },
  {
    name: "kept_low",
    title: "kept, worst category",
    unit: "share of the baseline's",
    value: model => model.kept_low ?? model.kept,
    cell: ({ kept, kept_low: low, kept_high: high, worst_category: worst }) => ({
      text: ratio(kept),
      second: kept != null && joined([between(low, high), worst && cut(worst, 24)]),
    }),
  },
  ...the("runs").map(one => ({
    ...one,
    ascending: !one.more,
    cell: model => ({ text: one.text(model), second: one.second?.(model) }),
  })),
  {
    name: "worse",
    title: "became worse",
    value: model => worseOf(model).length,
    cell: model => {
      const worse = worseOf(model);
      return !worse.length
        ? ""
        : { text: el("span.bad", "▼ " + worse.length), title: worse.map(one => one.text).join("\n") };
    },
  },
];

const filters = {
  text: (model, asked) => model.words.includes(asked.toLowerCase()),
  method: (model, asked) => model.method === asked,
  verdict: (model, asked) => (verdictOf(model) ?? "unjudged") === asked,
  series: (model, asked) => model.run.series === asked,
  since: (model, asked) => model.run.started_at.slice(0, 10) >= asked,
  until: (model, asked) => model.run.started_at.slice(0, 10) <= asked,
  rows: (model, asked) =>
    asked === "recommended"
      ? model.recommended
      : asked === "artifacts"
        ? model.method !== "none"
        : worseOf(model).length > 0,
};

// What passes the filters, sorted; what is not known comes last.
function found() {
  const active = Object.entries(filters)
      .map(([name, holds]) => [holds, state.get(name)])
      .filter(([, asked]) => asked),
    sort = state.get("sort") ?? "",
    column = runColumns.find(one => one.name === sort.replace("-", ""));
  const passed = models.filter(model => active.every(([holds, asked]) => holds(model, asked)));
  if (!column) return passed;
  const sign = sort.startsWith("-") ? -1 : 1,
    rows = passed.map((model, place) => ({ model, place, by: column.value(model) })),
    order = (a, b) => (typeof a === "string" ? collator.compare(a, b) : a - b);
  return [
    ...rows.filter(row => row.by != null).sort((a, b) => sign * order(a.by, b.by) || a.place - b.place),
    ...rows.filter(row => row.by == null),
  ].map(row => row.model);
}

function filterControls() {
  const input = (id, text, type) =>
    labelled(
      text,
      el("input", {
        id,
        type,
        value: state.get(id) ?? "",
        placeholder: type === "search" ? "run, recipe, model, source" : null,
        oninput: event => event.isComposing || set({ [id]: event.target.value, page: null }),
      }),
    );
  const pick = (id, text, ...options) => choose(id, text, options, state.get(id) ?? "", { page: null });
  return controls(
    [
      input("text", "search", "search"),
      pick(
        "rows",
        "show",
        ["", "all models"],
        ["recommended", "recommended only"],
        ["artifacts", "artifacts only"],
        ["worse", "became worse"],
      ),
      pick("method", "method", ["", "all methods"], ...distinct(models.map(model => model.method)).sort()),
      pick("verdict", "policy", ["", "all outcomes"], "pass", "fail", "inconclusive", ["unjudged", "not judged"]),
      series.length > 1 && pick("series", "series", ["", "all series"], ...[...series].sort()),
      input("since", "from", "date"),
      input("until", "to", "date"),
    ],
    { role: "search" },
  );
}

// A column's head sorts by it, then the other way round, then no more.
function sortable({ name, title, unit, ascending }) {
  const sort = state.get("sort") ?? "",
    down = sort.startsWith("-"),
    by = sort.replace("-", "") === name,
    begins = ascending ? name : "-" + name,
    turned = ascending ? "-" + name : name;
  const next = !by ? begins : sort === begins ? turned : null;
  return {
    unit,
    sorted: by ? (down ? "descending" : "ascending") : null,
    title: button(title + (by ? (down ? " ↓" : " ↑") : ""), () => set({ sort: next, page: null }), {
      id: "sort-" + name,
      class: "sort",
    }),
  };
}

function picker({ key, index, name, run }, picked) {
  const is = picked.includes(key);
  const box = el("input", {
    type: "checkbox",
    id: "pick-" + index,
    checked: is,
    disabled: !is && picked.length >= mostPicked,
    "aria-label": `compare ${name} of ${run.id}`,
    onchange: () => set({ pick: is ? picked.filter(one => one !== key) : [...picked, key] }),
  });
  return el("td.pick", box);
}

function pickedBar(picked) {
  if (!picked.length) return quiet("Tick two to four models to compare them.");
  const named = picked
    .map(modelOf)
    .filter(Boolean)
    .map(model => `${model.name} of ${when(model.run.started_at)}`);
  return el(
    "p.picked",
    el("strong", whole(picked.length), " picked: "),
    named.join("; ") + " ",
    picked.length > 1
      ? link("Compare", place({ view: "compare", pick: picked }), { class: "do", id: "compare" })
      : aside("tick one more"),
    " ",
    button("Clear", () => set({ pick: null })),
  );
}

function pages(page, most) {
  const count = whole(most) + (most === 1 ? " model" : " models"),
    end = Math.min((page + 1) * rowsShown, most);
  if (most <= rowsShown) return el("p.quiet", { role: "status" }, count);
  const turn = (id, text, to, able) => button(text, () => set({ page: to || null }), { id, disabled: !able });
  return el(
    "p.pages",
    { role: "status" },
    turn("back", "‹ Newer", page - 1, page > 0),
    ` ${whole(page * rowsShown + 1)} to ${whole(end)} of ${count} `,
    turn("on", "Older ›", page + 1, end < most),
  );
}

function foundRows() {
  const all = found(),
    picked = state.all("pick"),
    last = Math.max(0, Math.ceil(all.length / rowsShown) - 1),
    page = Math.min(Math.max(0, +state.get("page") || 0), last);
  if (!all.length)
    return [
      pickedBar(picked),
      empty("No model passes these filters."),
      el("p", link("Show all", place({ view: "runs", pick: picked }))),
    ];
  const shown = all.slice(page * rowsShown, (page + 1) * rowsShown),
    together = !state.get("sort"); // then the rows of a run follow each other, and it is named once
  const cell = (column, model, row) =>
    tableCell(
      together && column.name === "started_at" && model.run === shown[row - 1]?.run ? "" : column.cell(model),
      column.name === "name" ? "th" : "td",
      column.name,
    );
  const rows = shown.map((model, row) =>
    el(
      "tr",
      picker(model, picked),
      runColumns.map(column => cell(column, model, row)),
    ),
  );
  const columns = [{ title: hidden("compare") }, ...runColumns.map(sortable)];
  return [pickedBar(picked), grid(columns, rows, "models", ".runs"), pages(page, all.length)];
}

views.runs = {
  title: "Runs",
  always: true,
  draw: () =>
    runs.length
      ? [filterControls(), foundRows()]
      : empty(
          "No run is here yet. `quantbench run configs/recipes/demo.yaml` makes one; then ask for this page again.",
        ),
  again(main) {
    const form = main.querySelector("form");
    if (!form?.contains(document.activeElement)) return false;
    while (form.nextSibling) form.nextSibling.remove();
    return fill(main, foundRows());
  },
};
