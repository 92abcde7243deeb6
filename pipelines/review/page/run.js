// One run: which artifact to take and why, what became worse, and what that rests on. In a run's report, where speeds,
// memory and all numbers stand below anyway, it is the part on top.
const shownRun = () => (state.get("run") ? runOf(state.get("run")) : (runOf(data.shown) ?? runs[0]));

views.run = {
  title: "Run",
  get heading() {
    return shownRun()?.recipe;
  },
  draw() {
    const run = shownRun();
    if (!run)
      return [
        heading("Run"),
        runs.length
          ? empty("There is no run " + state.get("run") + " here. Choose one from the table of runs.")
          : empty("There is no run here yet. ", el("code", "quantbench run RECIPE"), " makes one."),
      ];
    const detail = detailOf(run);
    return [
      !inReport && runHead(run),
      recommendation(run, detail?.recommendation),
      !inReport && numbersOf(run),
      pareto(run),
      heatmap(run, detail),
      !detail && empty(missing(run)),
      detail && [flipsOf(run, detail), !inReport && [curves(detail), memorySplit(run, detail)], lineage(run, detail)],
    ];
  },
};

const runHead = run => [
  heading(run.recipe),
  quiet(
    joined(
      [
        run.id,
        when(run.started_at) + " UTC",
        run.machine,
        run.suite && "suite " + run.suite,
        figures(run.seconds) + " s",
      ],
      " · ",
    ),
  ),
  el("p", "Source: " + run.source, run.page && [" · ", el("a", { href: run.page }, "full report")]),
  run.models
    .filter(model => model.failure)
    .map(model => el("p.failure", el("strong", model.name + " failed"), " ", model.failure)),
];

function recommendation(run, said) {
  const kind = said?.kind ?? run.kind,
    next = said && (said.choice ? el("code", said.next_step) : said.next_step + ".");
  return [
    heading("Which to take"),
    kind
      ? el(
          "p.recommended." + tones[kind],
          el("strong", "Recommended: "),
          said ? said.sentence + ". " : kind === "artifact" ? models[run.recommended]?.name : kind,
          said && el("span.quiet", "Next: ", next),
        )
      : empty(
          "This run has no recommendation: it ended before there was anything to choose from, ",
          "or it is older than recommendations are.",
        ),
    choiceFacts(models[run.recommended]),
    data.deciding && el("p", link("Decide about this run", place({ view: "decide", run: run.id }))),
    el(
      "div.sides",
      el("section", heading("What was rejected, and why", 3), rejected(said)),
      el("section", heading("What became worse", 3), worse(run)),
    ),
  ];
}

// What is got and what is paid, in a line; what nobody measured is left out.
function choiceFacts(one) {
  if (!one) return null;
  const { tokens_per_second: speed, weights_bytes: weights, cost_per_million: cost } = quantities;
  const limit = limitOf(one.decode_share, "the machine's ");
  const facts = [
    one.kept_low != null && `surely keeps ${ratio(one.kept_low)} in ${one.worst_category}`,
    measured(speed, [one]) && joined([speed.text(one) + " output tokens/s", limit]),
    measured(weights, [one]) && told(weights, one) + " of weights in memory",
    measured(cost, [one]) && [told(cost, one), " ", cost.second(one)],
  ].filter(Boolean);
  return el(
    "p.facts",
    el("strong", one.name + ": "),
    facts.map((fact, index) => [index > 0 && " · ", fact]),
  );
}

const plainList = items =>
  el(
    "ul.plain",
    items.map(item => el("li", item)),
  );
const worstOf = limits =>
  ["fail", "inconclusive"].find(outcome => limits.some(limit => limit.outcome === outcome)) ?? "pass";

function rejected(said) {
  const others = said?.candidates.filter(one => one.name !== said.choice) ?? [];
  if (!others.length) return empty(said ? "There was no other candidate." : "Not known: the run's details have it.");
  return plainList(
    others.map(one => {
      const limits = one.limits.filter(limit => limit.outcome !== "pass");
      return [
        el("strong", one.name),
        " ",
        badge(worstOf(one.limits)),
        one.beaten_by && ` ${one.beaten_by} is at least as good in accuracy, speed and size.`,
        !limits.length && !one.beaten_by && " keeps every limit too, and the goal prefers the other.",
        limits.map(limit => el("div", el("span." + tones[limit.outcome], limit.limit), ": " + limit.reason)),
      ];
    }),
  );
}

// Shape and word say which way it went, colour says it again.
const changeMarks = { worse: ["▼", "bad"], better: ["▲", "good"], same: ["=", "quiet"], unknown: ["?", "warn"] };
const changeText = change => changeMarks[change][0] + " " + change;

function worse(run) {
  const all = run.models.flatMap(model => model.regressions.map(one => ({ ...one, model }))),
    of = change => all.filter(one => one.change === change);
  const items = some =>
    plainList(
      some.map(({ change, model, text }) => [
        el("span." + changeMarks[change][1], changeText(change)),
        " ",
        el("strong", model.name),
        " " + text,
      ]),
    );
  if (!all.length)
    return inReport
      ? empty(
          "A report knows its own run alone; ",
          el("code", "quantbench review"),
          " says what became worse since the last accepted version.",
        )
      : empty("Nothing to compare with: there is no accepted version of this series in these runs.");
  const [bad, good, same, unsure] = ["worse", "better", "same", "unknown"].map(of),
    rest = joined([
      same.length && same.length + " not surely different",
      unsure.length && unsure.length + " not comparable",
    ]);
  return [
    bad.length ? items(bad) : el("p.good", "✓ Nothing is surely worse than the last accepted version."),
    good.length > 0 && fold(run.id + "/better", good.length + " better", null, items(good)),
    rest && quiet(rest + "."),
  ];
}

function numbersOf(run) {
  const level = run.models.find(model => model.concurrency)?.concurrency;
  const shown = the("run").filter(one => !one.optional || measured(one, run.models));
  const columns = [
    "model",
    { title: "verdict", hint: "on what was lost" },
    { title: "policy", hint: "all limits of the recipe" },
    { title: "worst category", unit: "kept above guessing [95 %]" },
    ...shown.map(one => (one.more && level ? { ...one, unit: `${one.unit}, ${level} at a time` } : one)),
  ];
  const rows = run.models.map(model => [
    { text: model.name, second: model.recommended ? "★ recommended" : methodOf(model, "unquantized") },
    badge(model.verdict),
    badge(model.policy),
    {
      text: model.worst_category && model.worst_category + " " + ratio(model.kept),
      second: model.kept_low != null && between(model.kept_low, model.kept_high),
    },
    ...shown.map(one => ({ text: one.text(model), second: one.second?.(model, "the machine's ") })),
  ]);
  return [heading("Numbers"), grid(columns, rows, "Numbers of each model", ".main"), run.price && priceText(run.price)];
}

const priceText = price =>
  quiet(
    price.made_up ? [el("strong.warn", "MADE UP"), " price: "] : "Price: ",
    `${figures(price.per_hour)} ${price.currency} an hour for ${price.device}, `,
    `from ${price.source}, read on ${price.read_on}.`,
  );

function memorySplit(run, detail) {
  const parts = the("memory"),
    most = one => Math.max(...run.models.map(one.value)); // null is 0
  if (!parts.some(one => measured(one, run.models)))
    return [heading("Memory"), empty("Nothing was served, so no memory was measured.")];
  const bar = (model, one) =>
    el("span.amount", {
      class: seriesOf(model.place),
      style: `--share:${(100 * one.value(model)) / most(one)}%`,
    });
  return [
    heading("Memory"),
    grid(
      ["model", ...parts.map(one => one.title)],
      run.models.map(model => [
        model.name,
        ...parts.map(one => ({ text: told(one, model), second: measured(one, [model]) && bar(model, one) })),
      ]),
      "Memory of each model",
      ".amounts",
    ),
    quiet(
      "Each bar is a share of its column's largest number.",
      detail.models.flatMap(model => model.memory_notes.map(text => ` ${model.name}: ${text}.`)),
    ),
  ];
}

function lineage(run, detail) {
  const versions = model => joined(Object.entries(model.versions).map(([name, version]) => name + " " + version));
  const inside = model => [
    described([...model.lineage, ...(versions(model) ? [["versions", versions(model)]] : [])]),
    model.soundness
      .filter(check => check.outcome !== "pass")
      .map(check => el("p." + (tones[check.outcome] ?? "warn"), check.name + ": " + check.detail)),
    model.warnings.map(text => el("p.warn", text)),
  ];
  return [
    heading("Lineage"),
    detail.models.map((model, index) =>
      fold(
        `${run.id}/lineage/${index}`,
        model.name,
        "from source to traffic",
        inside(model),
        !inReport && run.models[index]?.recommended,
      ),
    ),
  ];
}
