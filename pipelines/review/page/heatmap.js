// Category by artifact: the number in each cell, and a colour from blue (gained) over none to orange (lost).
const glyphs = { pass: ["✓", "pass"], fail: ["✗", "fail"], inconclusive: ["?", "inconclusive"] };
const gain = one => (one.kept ?? 1) - 1;

function heatmap(run, detail) {
  const title = heading("What was lost, by category"),
    artifacts = run.models.filter(model => model.categories.some(one => one.kept != null || one.verdict)),
    names = worstFirst(artifacts.flatMap(model => model.categories));
  if (!names.length)
    return [
      title,
      empty("No artifact was compared with the baseline. A run with an evaluation and a sound baseline compares."),
    ];
  const own = artifacts.map(model => new Map(model.categories.map(one => [one.name, one]))),
    strongest = Math.max(0.05, ...artifacts.flatMap(model => model.categories.map(one => Math.abs(gain(one))))),
    most = Math.min(0.5, strongest),
    left = detail?.models.reduce((sum, model) => Math.max(sum, model.categories_left), 0);
  const cell = (name, row, model, column) => {
    const one = own[column].get(name);
    if (!one) return { text: unknown, title: model.name + " was not asked this" };
    const [glyph, word] = glyphs[one.verdict] ?? ["", "not judged"],
      open = state.get("model") === model.name && state.get("category") === name,
      share = Math.min(1, Math.abs(gain(one)) / most);
    return el(
      "button.heat." + (gain(one) < 0 ? "lost" : "gained"),
      {
        type: "button",
        id: `cell-${model.place}-${row}`,
        style: `--share:${Math.round(65 * share)}%`,
        "aria-expanded": String(open),
        "aria-controls": "cell",
        "aria-label": `${model.name}, ${name}: keeps ${ratio(one.kept)}, ${word}`,
        onclick: () => go(address(open ? { model: null, category: null } : { model: model.name, category: name })),
      },
      ratio(one.kept),
      el("span", { "aria-hidden": "true" }, " " + glyph),
    );
  };
  const key = kind => el("span.heat.key." + kind, { style: "--share:65%" }, kind);
  return [
    title,
    grid(
      [
        { title: "category", unit: "worst first" },
        ...artifacts.map(({ name, recommended, method }) => ({
          title: name,
          unit: recommended ? "★ recommended" : method,
        })),
      ],
      names.map((name, row) => [name, ...artifacts.map((model, column) => cell(name, row, model, column))]),
      "What each artifact kept of each category",
      ".heatmap",
    ),
    quiet(
      "What was kept above guessing; 1 is nothing lost. ",
      key("lost"),
      " ",
      key("gained"),
      ` full colour from ${percent(most)} on. ✓ pass, ? inconclusive, ✗ fail. A cell opens its intervals and answers.`,
      left > 0 && ` ${whole(left)} more categories, in which less was lost, are left out.`,
    ),
    el("section", { id: "cell", "aria-live": "polite" }, opened(run, detail)),
  ];
}

// Names of categories, that of the lowest kept part first.
function worstFirst(categories) {
  const least = new Map();
  for (const { name, kept, kept_low: low } of categories)
    least.set(name, Math.min(least.get(name) ?? Infinity, low ?? kept ?? Infinity));
  return [...least.keys()].sort((one, other) =>
    least.get(one) < least.get(other) ? -1 : +(least.get(one) > least.get(other)),
  );
}

function opened(run, detail) {
  const [name, category] = [state.get("model"), state.get("category")],
    model = named(run.models, name),
    cell = named(model?.categories ?? [], category);
  if (!cell) return null;
  const own = detail?.models[model.place],
    one = own?.categories.find(one => one.category === category),
    flips = own?.flips.filter(flip => flip.category === category) ?? [];
  return [
    heading(`${name}, ${category}`, 3),
    el("p", badge(cell.verdict), one && ": " + one.verdict_reason),
    described([...(one ? factsOf(name, cell, one) : [keptFact(cell)])].filter(([, text]) => text !== unknown)),
    !detail
      ? empty(missing(run))
      : flips.length
        ? flips.map(flip => flipped(name, flip))
        : empty("None of the items that were kept for reading, the worst of the artifact, is of this category."),
  ];
}

const spanned = (text, low, high, form) =>
  text + (low == null && high == null ? "" : ` (95 %: ${between(low, high, form)})`);
const keptFact = ({ kept, kept_low: low, kept_high: high }) => [
  "kept above guessing",
  kept == null ? "nothing to keep" : spanned(ratio(kept), low, high),
];

function factsOf(name, cell, one) {
  const share = one.unit === "share",
    score = share ? percent : figures,
    moved = share ? known(value => signed(fixed(1))(100 * value)) : signed(fixed(4)),
    margin = share ? value => `−${figures(100 * value)} points` : value => percent(value) + " more perplexity",
    { flips_to_wrong: wrong, flips_to_right: right } = one;
  return [
    ["baseline", score(one.baseline)],
    [name, score(one.artifact)],
    keptFact(cell),
    [
      "difference",
      spanned(moved(one.difference) + (share ? " points" : " nats"), one.difference_low, one.difference_high, moved),
    ],
    ["margin", known(margin)(one.margin)],
    ["items", whole(one.items) + (wrong == null ? "" : `; ${wrong} turned wrong, ${right} turned right`)],
    ["p (Holm)", figures(one.p_holm)],
    ["items that would decide", whole(one.items_to_decide)],
  ];
}
