// Category by artifact: the number in each cell, and a colour from blue (gained) over none to orange (lost).
const glyphs = { pass: ["✓", "pass"], fail: ["✗", "fail"], inconclusive: ["?", "inconclusive"] };

function heatmap(run, detail) {
  const artifacts = run.models.filter(model => model.categories.some(one => one.kept != null || one.verdict)),
    names = worstFirst(artifacts);
  if (!names.length)
    return [
      heading("What was lost, by category"),
      empty("No artifact was compared with the baseline. A run with an evaluation and a sound baseline compares."),
    ];
  const cells = artifacts.map(model => new Map(model.categories.map(one => [one.name, one])));
  const most = Math.min(
    0.5,
    Math.max(0.05, ...artifacts.flatMap(model => model.categories.map(one => Math.abs((one.kept ?? 1) - 1)))),
  );
  const open = [state.get("model"), state.get("category")];
  const rows = names.map(name => [
    name,
    ...artifacts.map((model, index) => {
      const one = cells[index].get(name);
      if (!one) return { text: unknown, title: model.name + " was not asked this" };
      const [glyph, word] = glyphs[one.verdict] ?? ["", "not judged"],
        chosen = open[0] === model.name && open[1] === name,
        share = Math.min(1, Math.abs((one.kept ?? 1) - 1) / most);
      return el(
        "button",
        {
          type: "button",
          id: `cell-${model.place}-${names.indexOf(name)}`,
          class: "heat " + ((one.kept ?? 1) < 1 ? "lost" : "gained"),
          style: `--share:${Math.round(65 * share)}%`,
          "aria-expanded": String(chosen),
          "aria-controls": "cell",
          "aria-label": `${model.name}, ${name}: keeps ${ratio(one.kept)}, ${word}`,
          onclick: () => go(address(chosen ? { model: null, category: null } : { model: model.name, category: name })),
        },
        ratio(one.kept),
        el("span", { class: tones[one.verdict], "aria-hidden": "true" }, " " + glyph),
      );
    }),
  ]);
  const left = detail?.models.reduce((sum, model) => Math.max(sum, model.categories_left), 0);
  return [
    heading("What was lost, by category"),
    grid(
      [
        { title: "category", unit: "worst first" },
        ...artifacts.map(model => ({ title: model.name, unit: model.recommended ? "★ recommended" : model.method })),
      ],
      rows,
      { class: "heatmap", "aria-label": "What each artifact kept of each category" },
    ),
    el(
      "p",
      { class: "quiet" },
      "What was kept above guessing; 1 is nothing lost. ",
      el("span", { class: "heat lost key", style: "--share:65%" }, "lost"),
      " ",
      el("span", { class: "heat gained key", style: "--share:65%" }, "gained"),
      ` full colour from ${percent(most)} on. ✓ pass, ? inconclusive, ✗ fail. A cell opens its intervals and its worst answers.`,
      left > 0 && ` ${whole(left)} more categories, in which less was lost, are left out.`,
    ),
    el("section", { id: "cell", "aria-live": "polite" }, ...opened(run, detail, ...open)),
  ];
}

function worstFirst(artifacts) {
  const least = new Map();
  for (const one of artifacts.flatMap(model => model.categories))
    least.set(one.name, Math.min(least.get(one.name) ?? Infinity, one.kept_low ?? one.kept ?? Infinity));
  return [...least.keys()].sort((one, other) =>
    least.get(one) < least.get(other) ? -1 : least.get(one) > least.get(other) ? 1 : 0,
  );
}

function opened(run, detail, name, category) {
  const model = run.models.find(model => model.name === name),
    cell = model?.categories.find(one => one.name === category);
  if (!cell) return [];
  const own = detail?.models[model.place],
    one = own?.categories.find(one => one.category === category);
  const points =
      one?.unit === "share" ? value => signed(fixed(1))(value == null ? null : 100 * value) : signed(fixed(4)),
    unit = one?.unit === "share" ? " points" : " nats";
  const score = value => (one.unit === "share" ? percent(value) : figures(value));
  const flips = own?.flips.filter(flip => flip.category === category) ?? [];
  const spanned = (text, low, high, form) =>
    text + (low == null && high == null ? "" : ` (95 %: ${between(low, high, form)})`);
  const kept = [
    "kept above guessing",
    cell.kept == null ? "nothing to keep" : spanned(ratio(cell.kept), cell.kept_low, cell.kept_high),
  ];
  const facts = one
    ? [
        ["baseline", score(one.baseline)],
        [name, score(one.artifact)],
        kept,
        ["difference", spanned(points(one.difference) + unit, one.difference_low, one.difference_high, points)],
        [
          "margin",
          one.margin == null
            ? unknown
            : one.unit === "share"
              ? "−" + figures(100 * one.margin) + " points"
              : percent(one.margin) + " more perplexity",
        ],
        [
          "items",
          whole(one.items) +
            (one.flips_to_wrong == null
              ? ""
              : `; ${one.flips_to_wrong} turned wrong, ${one.flips_to_right} turned right`),
        ],
        ["p (Holm)", figures(one.p_holm)],
        ["items that would decide", whole(one.items_to_decide)],
      ]
    : [kept];
  return [
    heading(`${name}, ${category}`, 3),
    el("p", {}, badge(cell.verdict), one && ": " + one.verdict_reason),
    el(
      "dl",
      {},
      facts.filter(([, text]) => text !== unknown).map(([what, text]) => [el("dt", {}, what), el("dd", {}, text)]),
    ),
    detail
      ? flips.length
        ? flips.map(flip => flipped(name, flip))
        : empty("None of the items that were kept for reading, the worst of the artifact, is of this category.")
      : empty(missing(run)),
  ];
}
