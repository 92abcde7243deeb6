// Two to four models side by side, the first of which the others are held against.

// {title, unit, value, form}: what every model has as one number.
const numbers = [
  {
    title: "output",
    unit: "tokens/s",
    value: model => model.tokens_per_second,
    form: figures,
    second: model => limitOf(model.decode_share),
  },
  {
    title: "output, one request at a time",
    unit: "tokens/s",
    value: model => model.tokens_per_second_alone,
    form: figures,
  },
  {
    title: "TTFT p95",
    unit: "ms",
    value: model => model.ttft_p95_seconds,
    form: value => figures(value == null ? null : 1000 * value),
  },
  {
    title: "TPOT p95",
    unit: "ms",
    value: model => model.tpot_p95_seconds,
    form: value => figures(value == null ? null : 1000 * value),
  },
  {
    title: "prefill, of the machine's limit",
    unit: "%",
    value: model => model.prefill_share,
    form: value => figures(value == null ? null : 100 * value),
  },
  { title: "weights, resident", unit: "MiB", value: model => model.weights_bytes, form: mebibytesAlone },
  { title: "peak of the server", unit: "MiB", value: model => model.peak_bytes, form: mebibytesAlone },
  { title: "disk", unit: "MiB", value: model => model.disk_bytes, form: mebibytesAlone },
  { title: "KV cache", unit: "tokens", value: model => model.kv_tokens, form: whole },
  { title: "1M tokens, at that load", money: true, value: model => model.cost_per_million, form: figures },
  { title: "1M tokens, within the SLO", money: true, value: model => model.cost_within_slo_per_million, form: figures },
  { title: "energy", unit: "J per token", value: model => model.joules_per_token, form: figures },
];

// How much more than the first's, many times as a factor; nothing where either is not known.
const tenth = number({ maximumFractionDigits: 1 });
const beside = (value, base) =>
  value == null || !base
    ? null
    : value >= 3 * base
      ? "× " + figures(value / base)
      : signed(tenth)(100 * (value / base - 1)) + " %";

function numberRows(picked) {
  return numbers
    .filter(one => picked.some(model => one.value(model) != null))
    .map(one => [
      { text: one.title, second: one.unit ?? currencies(picked) },
      ...picked.map((model, place) => ({
        text: one.form(one.value(model)),
        second: [
          place ? beside(one.value(model), one.value(picked[0])) : null,
          one.second?.(model),
          one.money && one.value(model) != null ? madeUp(model) : null,
        ]
          .filter(Boolean)
          .join(" · "),
      })),
    ]);
}
const currencies = picked => [...new Set(picked.map(model => model.run.price?.currency).filter(Boolean))].join(", ");

function categoryRows(picked) {
  const own = picked.map(model => new Map(model.categories.map(one => [one.name, one])));
  return [...new Set(picked.flatMap(model => model.categories.map(one => one.name)))].map(name => [
    { text: cut(name, 60), title: name },
    ...own.map(categories => {
      const one = categories.get(name);
      if (!one) return { text: "not asked", class: "quiet" };
      const score = one.unit === "share" ? percent(one.score) : figures(one.score) + " perplexity";
      return one.kept == null
        ? { text: score }
        : {
            text: [ratio(one.kept), " ", el("span", { class: tones[one.verdict] }, one.verdict ?? "")],
            second: between(one.kept_low, one.kept_high) + " · " + score,
          };
    }),
  ]);
}

// Nested settings as dotted names.
function flat(value, name = "", all = {}) {
  if (value != null && typeof value === "object" && Object.keys(value).length)
    for (const [key, one] of Object.entries(value)) flat(one, name ? name + "." + key : key, all);
  else all[name] = value == null ? "null" : typeof value === "object" ? "none" : String(value);
  return all;
}

function differing(settings) {
  const names = [...new Set(settings.flatMap(one => Object.keys(one)))].sort();
  return names
    .filter(name => new Set(settings.map(one => one[name])).size > 1)
    .map(name => [
      name,
      ...settings.map(one => ({ text: Object.hasOwn(one, name) ? cut(one[name], 200) : unknown, class: "long-words" })),
    ]);
}

function differences(title, picked, of, columns) {
  const details = picked.map(model => detailOf(model.run)?.models.find(one => one.name === model.name));
  const without = picked.filter((_, place) => !details[place]);
  if (without.length)
    return [heading(title), ...new Set(without.map(model => model.run))].map(one =>
      one instanceof Node ? one : empty(`${one.id}: ${missing(one)}`),
    );
  const rows = differing(details.map((detail, place) => of(detail, picked[place])));
  return [
    heading(title),
    rows.length ? grid(columns(), rows, { class: "compared", "aria-label": title }) : empty("Nothing differs."),
  ];
}

const settingsOf = (detail, model) => ({
  method: model.method,
  recipe: model.run.recipe,
  source: model.run.source,
  ...flat(detail.parameters),
});
const versionsOf = (detail, model) => ({
  machine: model.run.machine,
  suite: model.run.suite ?? "none",
  dtype: model.dtype ?? unknown,
  kernel: model.kernel ?? unknown,
  ...detail.versions,
});

function compareHead(picked) {
  return picked.map(model => ({
    head: [
      el("span", { class: "name" }, cut(model.name, 40)),
      " ",
      model.recommended ? el("span", { class: "good taken" }, "recommended") : null,
      el(
        "span",
        { class: "unit" },
        runLink(model.run, when(model.run.started_at)),
        " · ",
        model.method === "none" ? "baseline" : model.method,
        " · ",
        badge(verdictOf(model)),
      ),
    ],
  }));
}

views.compare = {
  title: "Compare",
  draw(element, state) {
    const picked = state.all("pick").map(modelOf).filter(Boolean).slice(0, mostPicked),
      gone = state.all("pick").length - picked.length;
    if (gone > 0)
      element.append(
        el(
          "p",
          { class: "note" },
          `${whole(gone)} of the picked models ${gone === 1 ? "is" : "are"} not in this page.`,
        ),
      );
    if (picked.length < 2) {
      element.append(
        empty("Two to four models are compared."),
        el(
          "p",
          {},
          link("Pick them in the table of runs", place({ view: "runs", pick: picked.map(model => model.key) })),
        ),
      );
      return;
    }
    const columns = () => [{ title: "" }, ...compareHead(picked)];
    const machines = new Set(picked.map(model => model.run.machine)),
      suites = new Set(picked.map(model => model.run.suite));
    element.append(
      el("p", {}, link("Change what is compared", place({ view: "runs", pick: picked.map(model => model.key) }))),
      machines.size > 1
        ? el(
            "p",
            { class: "note" },
            "They were measured on different machines (" +
              [...machines].join(", ") +
              "), so their speeds do not compare; shares of the machine's limit do.",
          )
        : "",
      suites.size > 1
        ? el(
            "p",
            { class: "note" },
            "They were evaluated by different suites (" +
              [...suites].map(one => one ?? "none").join(", ") +
              "), so categories of one name may hold other items.",
          )
        : "",
      heading("Numbers"),
      el("p", { class: "quiet" }, "In grey: how much more or less than the first."),
      grid(columns(), numberRows(picked), { class: "compared", "aria-label": "numbers" }),
    );
    const categories = categoryRows(picked);
    element.append(
      heading("Kept in each category"),
      categories.length
        ? grid(columns(), categories, { class: "compared", "aria-label": "kept in each category" })
        : empty("None of them was evaluated."),
      ...differences("Settings that differ", picked, settingsOf, columns),
      ...differences("Versions that differ", picked, versionsOf, columns),
    );
  },
};
