// One run: which artifact to take and why, what became worse, and what that rests on. In a run's report, where speeds,
// memory and all numbers stand below anyway, it is the part on top.
views.run = {
  title: "Run",
  get heading() {
    return shownRun()?.recipe ?? "Run";
  },
  draw(element) {
    const run = shownRun();
    if (!run)
      return element.append(
        heading("Run"),
        empty(
          runs.length
            ? "There is no run " + state.get("run") + " here. Choose one from the table of runs."
            : ["There is no run here yet. ", el("code", {}, "quantbench run RECIPE"), " makes one."],
        ),
      );
    const detail = detailOf(run),
      report = inReport();
    if (!report) element.append(runHead(run), ...failuresOf(run));
    element.append(...recommendation(run, detail));
    if (!report) element.append(...numbersOf(run));
    element.append(...pareto(run));
    element.append(...heatmap(run, detail));
    if (!detail) return element.append(empty(missing(run)));
    element.append(...flipsOf(run, detail));
    if (!report) element.append(...curves(run, detail), ...memorySplit(run, detail));
    element.append(...lineage(run, detail));
  },
};

const inReport = () => root.dataset.report === "true";
// What was unfolded stays so when the page is drawn again.
const unfolded = {};
const fold = (key, title, told, children, open = false) =>
  el(
    "details",
    {
      open: unfolded[key] ?? open,
      ontoggle: event => {
        unfolded[key] = event.target.open;
      },
    },
    el("summary", {}, title, told && [" ", el("span", { class: "quiet" }, told)]),
    children,
  );
const shownRun = () => (state.get("run") ? runOf(state.get("run")) : (runOf(data.shown) ?? runs[0]));

function runHead(run) {
  const told = [
    run.id,
    when(run.started_at) + " UTC",
    run.machine,
    run.suite && "suite " + run.suite,
    figures(run.seconds) + " s",
  ];
  return el(
    "div",
    {},
    heading(run.recipe),
    el("p", { class: "quiet" }, told.filter(Boolean).join(" · ")),
    el("p", {}, "Source: " + run.source, run.page ? [" · ", el("a", { href: run.page }, "full report")] : null),
  );
}

const failuresOf = run =>
  run.models
    .filter(model => model.failure)
    .map(model => el("p", { class: "failure" }, el("strong", {}, model.name + " failed"), " ", model.failure));

function recommendation(run, detail) {
  const said = detail?.recommendation,
    kind = said?.kind ?? run.kind;
  const step = said && (said.choice ? el("code", {}, said.next_step) : said.next_step + ".");
  return [
    heading("Which to take"),
    kind
      ? el(
          "p",
          { class: "recommended " + tones[kind] },
          el("strong", {}, "Recommended: "),
          said ? said.sentence + ". " : kind === "artifact" ? models[run.recommended]?.name : kind,
          said && el("span", { class: "quiet" }, "Next: ", step),
        )
      : empty(
          "This run has no recommendation: it ended before there was anything to choose from, or it is older than recommendations are.",
        ),
    ...choiceFacts(run),
    ...(data.deciding ? [el("p", {}, link("Decide about this run", place({ view: "decide", run: run.id })))] : []),
    el(
      "div",
      { class: "sides" },
      el("section", {}, heading("What was rejected, and why", 3), rejected(said)),
      el("section", {}, heading("What became worse", 3), ...worse(run)),
    ),
  ];
}

// What is got and what is paid, in a line; what nobody measured is left out.
function choiceFacts(run) {
  const one = models[run.recommended];
  if (!one) return [];
  const told = [
    one.kept_low != null && `surely keeps ${ratio(one.kept_low)} in ${one.worst_category}`,
    one.tokens_per_second != null &&
      `${figures(one.tokens_per_second)} output tokens/s` +
        (one.decode_share == null ? "" : `, ${percent(one.decode_share)} of the machine's limit`),
    one.weights_bytes != null && mebibytes(one.weights_bytes) + " of weights in memory",
    one.cost_per_million != null && [
      money(run, one.cost_per_million) + " per 1M tokens",
      madeUp(one) && [" ", el("strong", { class: "warn" }, madeUp(one))],
    ],
  ].filter(Boolean);
  return [
    el(
      "p",
      { class: "facts" },
      told.flatMap((text, index) => [index ? " · " : el("strong", {}, one.name + ": "), text]),
    ),
  ];
}

function rejected(said) {
  const others = said?.candidates.filter(one => one.name !== said.choice) ?? [];
  if (!others.length) return empty(said ? "There was no other candidate." : "Not known: the run's details have it.");
  return el(
    "ul",
    { class: "plain" },
    others.map(one => {
      const limits = one.limits.filter(limit => limit.outcome !== "pass");
      return el(
        "li",
        {},
        el("strong", {}, one.name),
        " ",
        badge(worstOf(one.limits)),
        one.beaten_by && " " + one.beaten_by + " is at least as good in accuracy, speed and size.",
        !limits.length && !one.beaten_by && " keeps every limit too, and the goal prefers the other.",
        limits.map(limit =>
          el("div", {}, el("span", { class: tones[limit.outcome] }, limit.limit), ": " + limit.reason),
        ),
      );
    }),
  );
}
const worstOf = limits =>
  ["fail", "inconclusive"].find(outcome => limits.some(limit => limit.outcome === outcome)) ?? "pass";

// Shape and word say which way it went, colour says it again.
function worse(run) {
  const all = run.models.flatMap(model => model.regressions.map(one => ({ ...one, model })));
  const of = change => all.filter(one => one.change === change);
  const items = (some, tone, shape) =>
    el(
      "ul",
      { class: "plain" },
      some.map(one =>
        el(
          "li",
          {},
          el("span", { class: tone }, shape + " " + one.change),
          " ",
          el("strong", {}, one.model.name),
          " " + one.text,
        ),
      ),
    );
  if (!all.length)
    return [
      empty(
        inReport()
          ? [
              "A report knows its own run alone; ",
              el("code", {}, "quantbench review"),
              " says what became worse since the last accepted version.",
            ]
          : "Nothing to compare with: there is no accepted version of this series in these runs.",
      ),
    ];
  const rest = [
    [of("same").length, "not surely different"],
    [of("unknown").length, "not comparable"],
  ].filter(([count]) => count);
  return [
    of("worse").length
      ? items(of("worse"), "bad", "▼")
      : el("p", { class: "good" }, "✓ Nothing is surely worse than the last accepted version."),
    of("better").length > 0 &&
      fold(run.id + "/better", of("better").length + " better", null, items(of("better"), "good", "▲")),
    rest.length > 0 && el("p", { class: "quiet" }, rest.map(([count, what]) => count + " " + what).join(", ") + "."),
  ];
}

function numbersOf(run) {
  const limit = share => (share == null ? null : percent(share) + " of the machine's limit");
  const cost = (model, value) => ({
    text: money(run, value),
    second: value != null && madeUp(model) && el("strong", { class: "warn" }, madeUp(model)),
  });
  const energy = run.models.some(model => model.joules_per_token != null),
    priced = run.price || run.models.some(model => model.cost_per_million != null);
  const level = run.models.find(model => model.concurrency)?.concurrency;
  return [
    heading("Numbers"),
    grid(
      [
        { title: "model" },
        { title: "verdict", hint: "on what was lost" },
        { title: "policy", hint: "all limits of the recipe" },
        { title: "worst category", unit: "kept above guessing [95 %]" },
        { title: "output tokens/s", unit: level && "with " + level + " at a time" },
        { title: "TTFT p95" },
        { title: "TPOT p95" },
        { title: "weights", unit: "resident" },
        { title: "on disk" },
        ...(priced
          ? [
              { title: "cost", unit: "per 1M tokens" },
              { title: "cost within SLO", unit: "per 1M tokens" },
            ]
          : []),
        ...(energy ? [{ title: "energy", unit: "J per output token" }] : []),
      ],
      run.models.map(model => [
        {
          text: model.name,
          second: model.recommended ? "★ recommended" : model.method === "none" ? "unquantized" : model.method,
        },
        badge(model.verdict),
        badge(model.policy),
        {
          text: model.worst_category && model.worst_category + " " + ratio(model.kept),
          second: model.kept_low != null && between(model.kept_low, model.kept_high),
        },
        { text: figures(model.tokens_per_second), second: limit(model.decode_share) },
        milliseconds(model.ttft_p95_seconds),
        milliseconds(model.tpot_p95_seconds),
        mebibytes(model.weights_bytes),
        mebibytes(model.disk_bytes),
        ...(priced ? [cost(model, model.cost_per_million), cost(model, model.cost_within_slo_per_million)] : []),
        ...(energy ? [figures(model.joules_per_token)] : []),
      ]),
      { class: "main", "aria-label": "Numbers of each model" },
    ),
    ...priceOf(run),
  ];
}
const money = (run, value) => (value == null ? unknown : figures(value) + (run.price ? " " + run.price.currency : ""));
const priceOf = run =>
  !run.price
    ? []
    : [
        el(
          "p",
          { class: "quiet" },
          run.price.made_up ? [el("strong", { class: "warn" }, "MADE UP"), " price: "] : "Price: ",
          `${figures(run.price.per_hour)} ${run.price.currency} an hour for ${run.price.device}, ` +
            `from ${run.price.source}, read on ${run.price.read_on}.`,
        ),
      ];

function memorySplit(run, detail) {
  const parts = [
    ["on disk", "disk_bytes", mebibytes],
    ["resident weights", "weights_bytes", mebibytes],
    ["KV cache", "kv_tokens", with0(whole, " tokens")],
    ["peak of the server", "peak_bytes", mebibytes],
  ];
  const most = name => Math.max(...run.models.map(model => model[name] ?? 0));
  if (!parts.some(([, name]) => most(name)))
    return [heading("Memory"), empty("Nothing was served, so no memory was measured.")];
  const bar = (model, name) =>
    el("span", { class: "amount " + seriesOf(model.place), style: `--share:${(100 * model[name]) / most(name)}%` });
  return [
    heading("Memory"),
    grid(
      [{ title: "model" }, ...parts.map(([title]) => ({ title }))],
      run.models.map(model => [
        model.name,
        ...parts.map(([, name, form]) => ({
          text: form(model[name]),
          second: model[name] != null && bar(model, name),
        })),
      ]),
      { class: "amounts", "aria-label": "Memory of each model" },
    ),
    el(
      "p",
      { class: "quiet" },
      "Each bar is a share of its column's largest number.",
      detail.models.flatMap(model => model.memory_notes.map(note => ` ${model.name}: ${note}.`)),
    ),
  ];
}

function lineage(run, detail) {
  const versions = model =>
    Object.entries(model.versions)
      .map(([name, version]) => name + " " + version)
      .join(", ");
  return [
    heading("Lineage"),
    ...detail.models.map((model, index) =>
      fold(
        `${run.id}/lineage/${index}`,
        model.name,
        "from source to traffic",
        [
          el(
            "dl",
            {},
            model.lineage.map(([what, which]) => [el("dt", {}, what), el("dd", {}, which)]),
            versions(model) && [el("dt", {}, "versions"), el("dd", {}, versions(model))],
          ),
          model.soundness
            .filter(check => check.outcome !== "pass")
            .map(check => el("p", { class: tones[check.outcome] ?? "warn" }, check.name + ": " + check.detail)),
          model.warnings.map(text => el("p", { class: "warn" }, text)),
        ],
        !inReport() && run.models[index]?.recommended,
      ),
    ),
  ];
}
