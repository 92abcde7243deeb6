// Quality against what it costs. Quality is read at the lower end of its interval: what was surely kept.
const costs = {
  tokens_per_second: ["output tokens/s", figures, 1],
  weights_bytes: ["resident weights, MiB", mebibytes, -1],
  disk_bytes: ["on disk, MiB", mebibytes, -1],
  peak_bytes: ["peak of the server, MiB", mebibytes, -1],
  ttft_p95_seconds: ["TTFT p95, ms", milliseconds, -1],
  cost_per_million: ["cost per 1M tokens", figures, -1],
};

// A cost is never told without its currency, nor a made-up one without those words.
function costAxis(run, name) {
  const [title, form, way] = costs[name],
    unit = name === "cost_per_million" && run.price ? run.price.currency + (run.price.made_up ? ", MADE UP" : "") : "";
  return unit ? [`${title}, ${unit}`, with0(form, " " + unit), way] : [title, form, way];
}

function pareto(run) {
  const known = Object.keys(costs).filter(name => run.models.some(model => model[name] != null));
  if (!known.length)
    return [
      heading("Quality against what it costs"),
      empty("Nothing was measured, so there is nothing to weigh. The failures above say why."),
    ];
  const x = known.includes(state.get("x")) ? state.get("x") : known[0],
    names = categoriesOf(run);
  const y = names.includes(state.get("y")) ? state.get("y") : null,
    points = pointsOf(run, x, y),
    [title, form, way] = costAxis(run, x);
  const controls = el(
    "div",
    { class: "controls" },
    choose(
      "pareto-x",
      "against",
      known.map(name => [name, costs[name][0].split(",")[0]]),
      x,
      value => set({ x: value }),
    ),
    choose("pareto-y", "quality in", [["", "the worst category"], ...names.map(name => [name, name])], y ?? "", value =>
      set({ y: value }),
    ),
  );
  const left = run.models.filter(model => !points.some(point => point.model === model)).map(model => model.name);
  const told = point => [
    point.model.name,
    form(point.x),
    point.baseline ? "1, by definition" : ratio(point.low),
    point.baseline ? unknown : between(point.low, point.high),
    point.baseline ? unknown : point.category,
    point.beaten ? "no: " + point.beaten.model.name + " is as good in both" : "yes",
  ];
  return [
    heading("Quality against what it costs"),
    controls,
    points.length > 1 ? paretoPlot(points, x, title, form) : empty("Fewer than two models have both numbers."),
    el(
      "p",
      { class: "quiet" },
      "A mark stands at what was surely kept, the lower end of the 95 % interval; the bar reaches to its upper end, " +
        `with a tick at the estimate. Better is further up and to the ${way > 0 ? "right" : "left"}. ` +
        "Grey: another artifact is as good in both. ",
      "Shapes: ● pass, ◆ inconclusive, ■ fail; the baseline keeps 1 by definition.",
      left.length > 0 && ` Not drawn, since a number is missing: ${left.join(", ")}.`,
    ),
    fold(
      run.id + "/front",
      "The same as a table",
      null,
      grid(
        [
          { title: "model" },
          { title: title },
          { title: "surely kept" },
          { title: "95 % interval" },
          { title: "category" },
          { title: "on the front" },
        ],
        points.map(told),
        { id: "pareto-table", "aria-label": "Quality against " + title },
      ),
    ),
  ];
}

const categoriesOf = run => [
  ...new Set(run.models.flatMap(model => model.categories.filter(one => one.kept != null).map(one => one.name))),
];

function pointsOf(run, x, category) {
  const found = run.models.flatMap(model => {
    const baseline = model.place === 0,
      one = category ? model.categories.find(one => one.name === category) : model;
    const kept = baseline ? 1 : one?.kept;
    if (model[x] == null || kept == null) return [];
    return [
      {
        model,
        baseline,
        kept,
        low: baseline ? 1 : (one.kept_low ?? kept),
        high: baseline ? 1 : (one.kept_high ?? kept),
        x: model[x],
        category: category ?? model.worst_category,
      },
    ];
  });
  const way = costs[x][2],
    better = (one, other) =>
      one.low >= other.low && way * one.x >= way * other.x && (one.low > other.low || one.x !== other.x);
  // As in the recommendation, artifacts are held against each other: the baseline keeps 1 whatever it is.
  for (const point of found)
    point.beaten = point.baseline ? null : found.find(other => !other.baseline && better(other, point));
  return found;
}

function paretoPlot(points, x, title, form) {
  const width = drawingWidth(),
    narrow = width < 500,
    scale = /_bytes$/.test(x) ? 2 ** 20 : /_seconds$/.test(x) ? 1e-3 : 1;
  const across = axisOf(
    points.map(point => point.x / scale),
    { zero: true, about: narrow ? 3 : 6 },
  );
  const up = axisOf(points.flatMap(point => [point.low, point.high]));
  const area = plot({
    width,
    height: narrow ? 300 : 380,
    left: 56,
    x: across,
    y: up,
    xTitle: title,
    yTitle: "surely kept",
    yForm: fixed(up.high - up.low < 0.1 ? 3 : 2),
    name: "Quality against " + title,
  });
  if (up.low <= 1 && up.high >= 1) area.picture.append(line("unity", area.left, area.py(1), area.right, area.py(1)));
  const places = points.map(point => ({ ...point, px: area.px(point.x / scale), py: area.py(point.low) }));
  for (const point of places) {
    const kind = (point.beaten ? "dominated " : "") + seriesOf(point.model.place),
      { model } = point;
    const name =
      `${model.name}${point.baseline ? ", the baseline" : ""}: surely keeps ${ratio(point.low)}` +
      (point.baseline ? "" : ` in ${point.category}, 95 % interval ${between(point.low, point.high)}`) +
      `, ${title.split(",")[0]} ${form(model[x])}` +
      (point.beaten ? `; ${point.beaten.model.name} is as good in both` : "") +
      (model.recommended ? "; recommended" : "");
    const drawn = mark(kind, point.px, point.py, name, {
      shape: { fail: "square", inconclusive: "diamond" }[model.verdict] ?? "circle",
    });
    if (point.high > point.low)
      drawn.prepend(
        whisker(point.px, point.py, point.px, area.py(point.high)),
        line("error estimate", point.px - 6, area.py(point.kept), point.px + 6, area.py(point.kept)),
      );
    if (point.baseline || model.recommended)
      drawn.append(svg("circle", { class: model.recommended ? "chosen" : "base", cx: point.px, cy: point.py, r: 9 }));
    area.picture.append(drawn);
  }
  labels(
    area,
    places.map(point => ({
      x: point.px,
      y: point.py,
      kind: point.beaten ? "dominated" : seriesOf(point.model.place),
      text: cut(point.model.name, narrow ? 14 : 24) + (point.model.recommended ? " ★" : ""),
    })),
  );
  return area.picture;
}

// Drawn at the size in which it is seen, so that texts are as large as those around them.
const drawingWidth = () => Math.max(300, Math.min(820, root.clientWidth || 820));
let seenWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== seenWidth) {
    seenWidth = innerWidth;
    redraw();
  }
});
