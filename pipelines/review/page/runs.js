// The table of all models of all runs: filters, sorting by each column, up to four picked for a comparison.
const rowsShown = 100,
  mostPicked = 4;

// What was lost is one of the policy's limits; runs of before there was a policy have a verdict on that alone.
const verdictOf = model => model.policy ?? model.verdict;
const worseOf = model => model.regressions.filter(one => one.change === "worse");
const madeUp = model => (model.run.price?.made_up ? "MADE UP" : null);
const limitOf = share => (share == null ? null : percent(share) + " of limit");

// {name, title, unit, value: what is sorted by, cell: what is shown}; ascending first where less is better.
const runColumns = [
  {
    name: "started_at",
    title: "run",
    value: model => -model.run.index,
    cell: model => ({
      text: runLink(model.run, when(model.run.started_at)),
      second: [
        model.run.recipe,
        model.run.failed ? el("span", { class: "bad" }, ` · ${model.run.failed} failed`) : null,
      ],
    }),
  },
  {
    name: "name",
    title: "model",
    ascending: true,
    value: model => model.name,
    cell: model => ({
      text: [cut(model.name, 40), model.recommended ? el("span", { class: "good taken" }, "recommended") : null],
      second:
        (model.method === "none" ? "baseline" : model.method) + (model.version ? " · version " + model.version : ""),
      title: model.name,
    }),
  },
  {
    name: "verdict",
    title: "policy",
    unit: "all limits",
    ascending: true,
    value: model => verdictOf(model),
    cell: model => ({ text: badge(verdictOf(model)), title: model.failure }),
  },
  {
    name: "kept_low",
    title: "kept, worst category",
    unit: "share of the baseline's",
    value: model => model.kept_low ?? model.kept,
    cell: model => ({
      text: ratio(model.kept),
      second:
        model.kept == null
          ? null
          : between(model.kept_low, model.kept_high) +
            (model.worst_category ? ", " + cut(model.worst_category, 24) : ""),
    }),
  },
  {
    name: "tokens_per_second",
    title: "output",
    unit: "tokens/s",
    value: model => model.tokens_per_second,
    cell: model => ({ text: figures(model.tokens_per_second), second: limitOf(model.decode_share) }),
  },
  {
    name: "ttft_p95_seconds",
    title: "TTFT p95",
    unit: "ms",
    ascending: true,
    value: model => model.ttft_p95_seconds,
    cell: model => figures(model.ttft_p95_seconds == null ? null : 1000 * model.ttft_p95_seconds),
  },
  {
    name: "weights_bytes",
    title: "weights, resident",
    unit: "MiB",
    ascending: true,
    value: model => model.weights_bytes,
    cell: model => mebibytesAlone(model.weights_bytes),
  },
  {
    name: "disk_bytes",
    title: "disk",
    unit: "MiB",
    ascending: true,
    value: model => model.disk_bytes,
    cell: model => mebibytesAlone(model.disk_bytes),
  },
  {
    name: "cost_per_million",
    title: "1M tokens",
    unit: "blended",
    ascending: true,
    value: model => model.cost_per_million,
    cell: model =>
      model.cost_per_million == null
        ? unknown
        : { text: figures(model.cost_per_million) + " " + (model.run.price?.currency ?? ""), second: madeUp(model) },
  },
  {
    name: "worse",
    title: "became worse",
    value: model => worseOf(model).length,
    cell: model => {
      const worse = worseOf(model);
      return worse.length
        ? { text: el("span", { class: "bad" }, "▼ " + worse.length), title: worse.map(one => one.text).join("\n") }
        : "";
    },
  },
];

const filters = {
  text: (model, asked) => model.words.includes(asked.toLowerCase()),
  method: (model, asked) => model.method === asked,
  verdict: (model, asked) => (asked === "unjudged" ? !verdictOf(model) : verdictOf(model) === asked),
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

function found(state) {
  const active = Object.keys(filters)
    .map(name => [filters[name], state.get(name)])
    .filter(([, asked]) => asked);
  const kept = active.length ? models.filter(model => active.every(([holds, asked]) => holds(model, asked))) : models;
  const sort = state.get("sort"),
    column = runColumns.find(one => one.name === sort?.replace("-", ""));
  if (!column) return kept;
  const sign = sort.startsWith("-") ? -1 : 1,
    by = kept.map(column.value);
  const known = [...kept.keys()].filter(place => by[place] != null),
    unsure = kept.filter((_, place) => by[place] == null); // these come last
  const order = typeof by[known[0]] === "string" ? (a, b) => collator.compare(by[a], by[b]) : (a, b) => by[a] - by[b];
  return [...known.sort((a, b) => sign * order(a, b) || a - b).map(place => kept[place]), ...unsure];
}
const collator = new Intl.Collator("en", { numeric: true });

function filterControls(state) {
  const change = name => value => set({ [name]: value, page: null });
  const distinct = (text, values) => [["", text], ...[...new Set(values)].sort().map(value => [value, cut(value, 60)])];
  const input = (id, text, type) =>
    labelled(
      text,
      el("input", {
        id,
        type,
        value: state.get(id) ?? "",
        placeholder: type === "search" ? "run, recipe, model, source" : null,
        oninput: event => event.isComposing || change(id)(event.target.value),
      }),
    );
  const pick = (id, text, options) => choose(id, text, options, state.get(id) ?? "", change(id));
  return el(
    "form",
    { class: "controls", role: "search", onsubmit: event => event.preventDefault() },
    input("text", "search", "search"),
    pick("rows", "show", [
      ["", "all models"],
      ["recommended", "recommended only"],
      ["artifacts", "artifacts only"],
      ["worse", "became worse"],
    ]),
    pick(
      "method",
      "method",
      distinct(
        "all methods",
        models.map(model => model.method),
      ),
    ),
    pick("verdict", "policy", [
      ["", "all outcomes"],
      ["pass", "pass"],
      ["fail", "fail"],
      ["inconclusive", "inconclusive"],
      ["unjudged", "not judged"],
    ]),
    series.length > 1 && pick("series", "series", distinct("all series", series)),
    input("since", "from", "date"),
    input("until", "to", "date"),
  );
}

function sortable(state) {
  const sort = state.get("sort") ?? "";
  return runColumns.map(column => {
    const by = sort.replace("-", "") === column.name,
      down = sort.startsWith("-");
    const next = by
      ? down === !column.ascending
        ? (down ? "" : "-") + column.name
        : null
      : (column.ascending ? "" : "-") + column.name;
    return {
      unit: column.unit,
      sorted: by ? (down ? "descending" : "ascending") : null,
      head: el(
        "button",
        { class: "sort", type: "button", id: "sort-" + column.name, onclick: () => set({ sort: next, page: null }) },
        column.title + (by ? (down ? " ↓" : " ↑") : ""),
      ),
    };
  });
}

function picker(model, picked) {
  const is = picked.includes(model.key);
  return el(
    "td",
    { class: "pick" },
    el("input", {
      type: "checkbox",
      id: "pick-" + model.index,
      checked: is,
      disabled: !is && picked.length >= mostPicked,
      "aria-label": `compare ${model.name} of ${model.run.id}`,
      onchange: () => set({ pick: is ? picked.filter(key => key !== model.key) : [...picked, model.key] }),
    }),
  );
}

function pickedBar(picked) {
  if (!picked.length) return el("p", { class: "quiet" }, `Tick two to four models to compare them.`);
  const names = picked
    .map(key => modelOf(key))
    .filter(Boolean)
    .map(model => `${model.name} of ${when(model.run.started_at)}`);
  return el(
    "p",
    { class: "picked" },
    el("strong", {}, whole(picked.length), " picked: "),
    names.join("; "),
    " ",
    picked.length > 1
      ? link("Compare", place({ view: "compare", pick: picked }), { class: "do", id: "compare" })
      : el("span", { class: "quiet" }, "tick one more"),
    " ",
    el("button", { type: "button", onclick: () => set({ pick: null }) }, "Clear"),
  );
}

function pages(state, all, begin) {
  if (all.length <= rowsShown) return el("p", { class: "quiet", role: "status" }, count(all.length));
  const turn = (id, text, page, able) =>
    el("button", { id, type: "button", disabled: !able, onclick: () => set({ page: page || null }) }, text);
  const page = begin / rowsShown;
  return el(
    "p",
    { class: "pages", role: "status" },
    turn("back", "‹ Newer", page - 1, page > 0),
    " ",
    `${whole(begin + 1)} to ${whole(Math.min(begin + rowsShown, all.length))} of ${count(all.length)}`,
    " ",
    turn("on", "Older ›", page + 1, begin + rowsShown < all.length),
  );
}
const count = number => whole(number) + (number === 1 ? " model" : " models");

function drawFound(element, state) {
  const all = found(state),
    picked = state.all("pick");
  const begin =
    Math.min(Math.max(0, +state.get("page") || 0), Math.max(0, Math.ceil(all.length / rowsShown) - 1)) * rowsShown;
  element.append(pickedBar(picked));
  if (!all.length) {
    element.append(
      empty("No model passes these filters."),
      el("p", {}, link("Show all", place({ view: "runs", pick: picked }))),
    );
    return;
  }
  const columns = [{ head: el("span", { class: "hidden-words" }, "compare") }, ...sortable(state)];
  const together = !state.get("sort"); // then the rows of a run follow each other, and it is named once
  let run;
  const rows = all.slice(begin, begin + rowsShown).map(model => {
    const again = together && run === model.run;
    run = model.run;
    return el(
      "tr",
      {},
      picker(model, picked),
      runColumns.map(column =>
        tableCell(
          again && column.name === "started_at" ? "" : column.cell(model),
          column.name === "name" ? "th" : "td",
          { class: column.name },
        ),
      ),
    );
  });
  element.append(grid(columns, rows, { class: "runs", "aria-label": "models" }), pages(state, all, begin));
}

views.runs = {
  title: "Runs",
  always: true,
  draw(element, state) {
    if (runs.length) {
      element.append(filterControls(state));
      drawFound(element, state);
    } else
      element.append(
        empty(
          "No run is here yet. `quantbench run configs/recipes/demo.yaml` makes one; then ask for this page again.",
        ),
      );
  },
  again(element, state) {
    const form = element.querySelector("form");
    if (!form?.contains(document.activeElement)) return false;
    while (form.nextSibling) form.nextSibling.remove();
    drawFound(element, state);
    return true;
  },
};
