// Two to four models side by side, the first of which the others are held against.

// How much more than the first's, many times as a factor; nothing where either is not known.
const beside = (value, base) =>
  value == null || !base
    ? null
    : value >= 3 * base
      ? "× " + figures(value / base)
      : signed(tenth)(100 * (value / base - 1)) + " %";

function numberRows(picked) {
  const [base] = picked;
  const comparable = (one, model) => model !== base && (!one.money || currency(model) === currency(base));
  return Object.values(quantities)
    .filter(one => measured(one, picked))
    .map(one => [
      { text: one.title, second: one.unit },
      ...picked.map(model => {
        const parts = [comparable(one, model) && beside(one.value(model), one.value(base)), one.second?.(model)].filter(
          Boolean,
        );
        return {
          text: one.text(model),
          second: parts.length > 0 && parts.flatMap((part, at) => (at ? [" · ", part] : [part])),
        };
      }),
    ]);
}

function categoryRows(picked) {
  const own = picked.map(model => new Map(model.categories.map(one => [one.name, one])));
  const cell = one => {
    if (!one) return { text: "not asked", class: "quiet" };
    const score = one.unit === "share" ? percent(one.score) : figures(one.score) + " perplexity";
    if (one.kept == null) return score;
    return {
      text: [ratio(one.kept), " ", one.verdict && badge(one.verdict)],
      second: between(one.kept_low, one.kept_high) + " · " + score,
    };
  };
  return distinct(own.flatMap(categories => [...categories.keys()])).map(name => [
    { text: cut(name, 60), title: name },
    ...own.map(categories => cell(categories.get(name))),
  ]);
}

// Nested settings as dotted names.
function flat(value, name = "", all = {}) {
  if (value != null && typeof value === "object" && (Object.keys(value).length || !name))
    for (const [key, one] of Object.entries(value)) flat(one, name ? name + "." + key : key, all);
  else all[name] = value == null ? "null" : typeof value === "object" ? "none" : String(value);
  return all;
}

function differences(title, picked, of, columns) {
  const details = picked.map(model => named(detailOf(model.run)?.models ?? [], model.name)),
    without = distinct(picked.filter((_, place) => !details[place]).map(model => model.run));
  if (without.length) return [heading(title), without.map(run => empty(`${run.id}: ${missing(run)}`))];
  const settings = details.map((detail, place) => of(detail, picked[place])),
    names = distinct(settings.flatMap(Object.keys)).sort();
  const rows = names
    .filter(name => distinct(settings.map(one => one[name])).length > 1)
    .map(name => [
      name,
      ...settings.map(one => ({ text: Object.hasOwn(one, name) ? cut(one[name], 200) : unknown, class: "long-words" })),
    ]);
  return [heading(title), rows.length ? grid(columns(), rows, title, ".compared") : empty("Nothing differs.")];
}

const settingsOf = ({ parameters }, { method, run: { recipe, source } }) => ({
  method,
  recipe,
  source,
  ...flat(parameters),
});
const versionsOf = ({ versions }, { dtype, kernel, run: { machine, suite } }) => ({
  machine,
  suite: suite ?? "none",
  dtype: dtype ?? unknown,
  kernel: kernel ?? unknown,
  ...versions,
});

const compareHead = model => ({
  title: [
    el("span.name", cut(model.name, 40)),
    " ",
    taken(model),
    el("span.unit", runLink(model.run), " · ", methodOf(model), " · ", badge(verdictOf(model))),
  ],
});

views.compare = {
  title: "Compare",
  draw() {
    const asked = state.all("pick"),
      picked = asked.map(modelOf).filter(Boolean).slice(0, mostPicked),
      gone = asked.length - picked.length,
      table = place({ view: "runs", pick: picked.map(model => model.key) });
    const lost = gone > 0 && note(`${whole(gone)} of the picked models ${gone === 1 ? "is" : "are"} not in this page.`);
    if (picked.length < 2)
      return [lost, empty("Two to four models are compared."), el("p", link("Pick them in the table of runs", table))];
    const columns = () => [{ title: hidden("what is compared") }, ...picked.map(compareHead)],
      several = name => distinct(picked.map(model => model.run[name] ?? "none")),
      machines = several("machine"),
      suites = several("suite"),
      categories = categoryRows(picked);
    return [
      lost,
      el("p", link("Change what is compared", table)),
      machines.length > 1 &&
        note(
          `They were measured on different machines (${joined(machines)}), `,
          "so their speeds do not compare; shares of the machine's limit do.",
        ),
      suites.length > 1 &&
        note(
          `They were evaluated by different suites (${joined(suites)}), `,
          "so categories of one name may hold other items.",
        ),
      heading("Numbers"),
      quiet("In grey: how much more or less than the first."),
      grid(columns(), numberRows(picked), "numbers", ".compared"),
      heading("Kept in each category"),
      categories.length
        ? grid(columns(), categories, "kept in each category", ".compared")
        : empty("None of them was evaluated."),
      differences("Settings that differ", picked, settingsOf, columns),
      differences("Versions that differ", picked, versionsOf, columns),
    ];
  },
};
