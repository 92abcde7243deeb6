// Quality against what it costs. Quality is read at the lower end of its interval: what was surely kept.
function pareto(run) {
  const title = heading("Quality against what it costs"),
    axes = the("pareto")
      .filter(one => measured(one, run.models))
      .map(nameOf);
  if (!axes.length)
    return [title, empty("Nothing was measured, so there is nothing to weigh. The failures above say why.")];
  const cost = quantities[state.one("x", axes)],
    names = distinct(run.models.flatMap(model => model.categories.filter(one => one.kept != null).map(nameOf))),
    category = state.one("y", ["", ...names]),
    points = pointsOf(run, cost, category),
    price = cost.money && run.price ? run.price.currency + (run.price.made_up ? ", MADE UP" : "") : "",
    xTitle = joined([cost.label, price]),
    costText = model => told(cost, model) + (cost.money && run.price?.made_up ? ", MADE UP" : "");
  const left = run.models.filter(model => !points.some(point => point.model === model)).map(nameOf);
  const row = ({ model, baseline, low, high, category, beaten }) => [
    model.name,
    cost.text(model),
    baseline ? "1, by definition" : ratio(low),
    baseline ? unknown : between(low, high),
    baseline ? unknown : category,
    beaten ? "no: " + beaten.model.name + " is as good in both" : "yes",
  ];
  return [
    title,
    controls([
      choose(
        "x",
        "against",
        axes.map(name => [name, quantities[name].label.split(",")[0]]),
        cost.name,
      ),
      choose("y", "quality in", [["", "the worst category"], ...names], category),
    ]),
    points.length > 1 ? paretoPlot(points, cost, xTitle, costText) : empty("Fewer than two models have both numbers."),
    quiet(
      "A mark stands at what was surely kept, the lower end of the 95 % interval; the bar reaches its upper end, ",
      `the tick is the estimate. Better is further up and to the ${cost.more ? "right" : "left"}. `,
      "Grey: another artifact is as good in both. ",
      "Shapes: ● pass, ◆ inconclusive, ■ fail; the baseline keeps 1 by definition.",
      left.length > 0 && ` Not drawn, since a number is missing: ${left.join(", ")}.`,
    ),
    fold(
      run.id + "/front",
      "The same as a table",
      null,
      grid(
        ["model", xTitle, "surely kept", "95 % interval", "category", "on the front"],
        points.map(row),
        "Quality against " + xTitle,
        "",
        { id: "pareto-table" },
      ),
    ),
  ];
}

// As in the recommendation, artifacts are held against each other: the baseline keeps 1 whatever it is.
function pointsOf(run, cost, category) {
  const points = run.models.flatMap(model => {
    const baseline = model.place === 0,
      one = category ? named(model.categories, category) : model,
      kept = baseline ? 1 : one?.kept,
      x = cost.value(model);
    if (x == null || kept == null) return [];
    const [low, high] = baseline ? [1, 1] : [one.kept_low ?? kept, one.kept_high ?? kept];
    return [{ model, baseline, kept, low, high, x, category: category || model.worst_category }];
  });
  const way = cost.more ? 1 : -1,
    better = (one, other) =>
      one.low >= other.low && way * one.x >= way * other.x && (one.low > other.low || one.x !== other.x);
  for (const point of points)
    point.beaten = point.baseline ? null : points.find(other => !other.baseline && better(other, point));
  return points;
}

// Its interval, upright, with caps and a tick at the estimate.
const whisker = (x, low, high, estimate) =>
  svg("path.error", { d: `M${x} ${low}V${high}M${x - 4} ${low}h8M${x - 4} ${high}h8M${x - 6} ${estimate}h12` });

function paretoPlot(points, cost, xTitle, costText) {
  const narrow = drawingWidth() < 500,
    values = points.map(point => point.x),
    y = axisOf(points.flatMap(point => [point.low, point.high]));
  const area = plot({
    left: 56,
    x: axisOf(values, { zero: true, about: narrow ? 3 : 6 }),
    y,
    xTitle,
    yTitle: "surely kept",
    yForm: fixed(y.high - y.low < 0.1 ? 3 : 2),
    name: "Quality against " + xTitle,
  });
  const { picture, px, py } = area;
  if (y.low <= 1 && y.high >= 1) picture.append(line("unity", area.left, py(1), area.right, py(1)));
  const texts = points.map(({ model, baseline, beaten, category, kept, low, high, x }) => {
    const [cx, cy] = [px(x), py(low)],
      kind = (beaten ? "dominated " : "") + seriesOf(model.place);
    const name =
      `${model.name}${baseline ? ", the baseline" : ""}: surely keeps ${ratio(low)}` +
      (baseline ? "" : ` in ${category}, 95 % interval ${between(low, high)}`) +
      `, ${cost.title} ${costText(model)}` +
      (beaten ? `; ${beaten.model.name} is as good in both` : "") +
      (model.recommended ? "; recommended" : "");
    const drawn = mark(kind, cx, cy, name, { shape: { fail: "square", inconclusive: "diamond" }[model.verdict] });
    if (high > low) drawn.prepend(whisker(cx, cy, py(high), py(kept)));
    if (baseline || model.recommended)
      drawn.append(svg("circle", { class: model.recommended ? "chosen" : "base", cx, cy, r: 9 }));
    picture.append(drawn);
    const text = cut(model.name, narrow ? 14 : 24) + (model.recommended ? " ★" : "");
    return { x: cx, y: cy, text, kind: beaten ? "dominated" : seriesOf(model.place) };
  });
  labels(area, texts);
  return picture;
}
