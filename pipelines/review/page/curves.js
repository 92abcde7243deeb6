// Latency against throughput: a line a model, a point a load.
const latencies = {
  ttft: "TTFT: time to the first token",
  tpot: "TPOT: time per output token after the first",
  itl: "ITL: gaps between tokens",
  e2e: "end to end: time of a whole request",
};

function curves(run, detail) {
  const all = detail.models.flatMap((model, place) =>
      model.load_points.map(point => ({ ...point, name: model.name, place })),
    ),
    mixes = [...new Set(all.map(point => point.prompts))];
  if (!all.length)
    return [
      heading("Latency against throughput"),
      empty("No load test was run. Levels under `load` in the recipe ask for them."),
    ];
  const pick = (name, options, fallback) => (options.includes(state.get(name)) ? state.get(name) : fallback);
  const latency = pick("latency", Object.keys(latencies), "ttft"),
    share = pick("share", ["50", "90", "95", "99"], "95"),
    mix = pick("prompts", mixes, mixes[0]);
  const value = point => 1000 * point[latency][`p${share}_seconds`];
  const points = all.filter(
    point => point.prompts === mix && point.completed && point.output_tokens_per_second > 0 && value(point) > 0,
  );
  const controls = el(
    "div",
    { class: "controls" },
    choose(
      "curve-latency",
      "latency",
      Object.entries(latencies).map(([name, title]) => [name, title.split(":")[0]]),
      latency,
      name => set({ latency: name }),
    ),
    choose(
      "curve-share",
      "percentile",
      ["50", "90", "95", "99"].map(one => [one, "p" + one]),
      share,
      one => set({ share: one }),
    ),
    mixes.length > 1 &&
      choose(
        "curve-mix",
        "prompts",
        mixes.map(one => [one, one]),
        mix,
        one => set({ prompts: one }),
      ),
  );
  const dropped = all.filter(point => point.prompts === mix).length - points.length;
  return [
    heading("Latency against throughput"),
    controls,
    points.length
      ? curvePlot(points, value, `p${share} ${latency.toUpperCase()}, ms`, detail.slo?.[latency + "_seconds"])
      : empty("No request of these load tests completed."),
    el(
      "p",
      { class: "quiet" },
      latencies[latency] +
        ". ● requests kept in flight, ◆ Poisson arrivals; hollow: saturated, or not to be believed, and the point says why.",
      dropped > 0 && ` Not drawn, since no request completed: ${dropped}.`,
    ),
  ];
}

const doubt = point =>
  point.invalid ? "invalid: " + point.invalid : point.saturated ? "saturated: arrivals outran the server" : null;
const loadText = point =>
  point.concurrency != null
    ? point.concurrency + " at a time"
    : point.requests_per_second_offered == null
      ? "at an unknown rate"
      : figures(point.requests_per_second_offered) + "/s arriving";

// From 0, or logarithmic where values are far apart: on a linear axis the small would be one heap.
function spread(values) {
  const low = Math.min(...values) / 1.3,
    high = Math.max(...values) * 1.3;
  if (high < 12 * low) return axisOf([0, high / 1.2], { zero: true });
  const decades = Array.from(
    { length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 },
    (_, index) => 10 ** (Math.floor(Math.log10(low)) + index),
  );
  const steps = decades
    .flatMap(decade => (decades.length > 4 ? [1] : [1, 2, 5]).map(factor => factor * decade))
    .filter(one => one >= low && one <= high);
  return { low, high, ticks: steps, share: value => Math.log(value / low) / Math.log(high / low) };
}

function curvePlot(points, value, yTitle, limit) {
  // What is doubtful does not set the scale: a saturated point's latency is as large as its test was long.
  const believed = points.filter(point => !doubt(point)),
    scaling = believed.length ? believed : points;
  const width = drawingWidth(),
    y = spread([...scaling.map(value), ...(limit ? [1000 * limit] : [])]),
    x = spread(scaling.map(point => point.output_tokens_per_second));
  const area = plot({
    width,
    height: width < 500 ? 300 : 360,
    left: 60,
    x,
    y,
    xTitle: "output tokens/s",
    yTitle,
    name: yTitle + " against output tokens/s",
  });
  const inside = (place, low, high) => Math.min(Math.max(place, low), high);
  const at = point => [
    inside(area.px(point.output_tokens_per_second), area.left, area.right),
    inside(area.py(value(point)), area.top, area.bottom),
  ];
  if (limit)
    area.picture.append(
      line("slo", area.left, area.py(1000 * limit), area.right, area.py(1000 * limit)),
      label("slo end", area.right, area.py(1000 * limit) - 5, `SLO ${figures(1000 * limit)} ms`),
    );
  const ends = [];
  for (const place of new Set(points.map(point => point.place))) {
    const own = points.filter(point => point.place === place),
      loop = kind => own.filter(point => point.profile === kind && !point.invalid);
    for (const [kind, load] of [
      ["concurrent", "concurrency"],
      ["poisson", "requests_per_second_offered"],
    ]) {
      const joined = loop(kind).sort((one, other) => one[load] - other[load]);
      if (joined.length > 1)
        area.picture.append(
          svg("path", {
            class: `${kind === "poisson" ? "open" : "closed"} line ${seriesOf(place)}`,
            d: "M" + joined.map(point => at(point).join(" ")).join("L"),
          }),
        );
    }
    for (const point of own) {
      const [px, py] = at(point),
        why = doubt(point);
      area.picture.append(
        mark(
          (why ? "hollow " : "") + seriesOf(place),
          px,
          py,
          `${point.name}, ${loadText(point)}: ${figures(point.output_tokens_per_second)} output tokens/s, ` +
            `${yTitle.split(",")[0]} ${figures(value(point))} ms${why ? "; " + why : ""}`,
          { shape: point.profile === "poisson" ? "diamond" : "circle", radius: 4.5 },
        ),
      );
    }
    const last = loop("concurrent").at(-1) ?? own[0];
    ends.push({ x: at(last)[0], y: at(last)[1], text: cut(last.name, 16), kind: seriesOf(place) });
  }
  labels(area, ends);
  return area.picture;
}
