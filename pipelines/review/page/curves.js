// Latency against throughput: a line a model, a point a load.
const latencies = {
  ttft: "TTFT: time to the first token",
  tpot: "TPOT: time per output token after the first",
  itl: "ITL: gaps between tokens",
  e2e: "end to end: time of a whole request",
};

function curves(detail) {
  const title = heading("Latency against throughput"),
    all = detail.models.flatMap(({ name, load_points: points }, place) =>
      points.map(point => ({ ...point, name, place })),
    ),
    mixes = distinct(all.map(point => point.prompts));
  if (!all.length) return [title, empty("No load test was run. Levels under `load` in the recipe ask for them.")];
  const latency = state.one("latency", Object.keys(latencies)),
    share = state.one("share", ["95", "50", "90", "99"]),
    mix = state.one("prompts", mixes),
    ofMix = all
      .filter(point => point.prompts === mix)
      .map(point => ({ ...point, x: point.output_tokens_per_second, y: 1000 * point[latency][`p${share}_seconds`] })),
    points = ofMix.filter(({ completed, x, y }) => completed && x > 0 && y > 0),
    dropped = ofMix.length - points.length;
  return [
    title,
    controls([
      choose(
        "latency",
        "latency",
        Object.entries(latencies).map(([name, text]) => [name, text.split(":")[0]]),
        latency,
      ),
      choose(
        "share",
        "percentile",
        ["50", "90", "95", "99"].map(one => [one, "p" + one]),
        share,
      ),
      mixes.length > 1 && choose("prompts", "prompts", mixes, mix),
    ]),
    points.length
      ? curvePlot(points, `p${share} ${latency.toUpperCase()}`, detail.slo?.[latency + "_seconds"])
      : empty("No request of these load tests completed."),
    quiet(
      latencies[latency],
      ". ● requests kept in flight, ◆ Poisson arrivals; hollow: saturated, or not to be believed: the point says why.",
      dropped > 0 && ` Not drawn, since no request completed: ${dropped}.`,
    ),
  ];
}

const doubt = point =>
  point.invalid ? "invalid: " + point.invalid : point.saturated ? "saturated: arrivals outran the server" : null;
const loadText = ({ concurrency, requests_per_second_offered: offered }) =>
  concurrency != null
    ? concurrency + " at a time"
    : offered == null
      ? "at an unknown rate"
      : figures(offered) + "/s arriving";

// From 0, or logarithmic where values are far apart: on a linear axis the small would be one heap.
function spread(values) {
  const low = Math.min(...values) / 1.3,
    high = Math.max(...values) * 1.3;
  if (high < 12 * low) return axisOf([0, high / 1.2], { zero: true });
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))],
    steps = to - from > 3 ? [1] : [1, 2, 5],
    decades = Array.from({ length: to - from + 1 }, (_, index) => 10 ** (from + index));
  const round = decades.flatMap(decade => steps.map(step => step * decade)).filter(one => one >= low && one <= high);
  return { low, high, ticks: round, share: value => Math.log(value / low) / Math.log(high / low) };
}

function curvePlot(points, latency, limit) {
  // What is doubtful does not set the scale: a saturated point's latency is as large as its test was long.
  const believed = points.filter(point => !doubt(point)),
    scaling = believed.length ? believed : points,
    slo = limit ? [1000 * limit] : [];
  const area = plot({
    height: drawingWidth() < 500 ? 300 : 360,
    x: spread(scaling.map(point => point.x)),
    y: spread([...scaling.map(point => point.y), ...slo]),
    xTitle: "output tokens/s",
    yTitle: latency + ", ms",
    name: latency + ", ms against output tokens/s",
  });
  const { picture, px, py, left, right, top, bottom } = area,
    inside = (at, low, high) => Math.min(Math.max(at, low), high);
  for (const point of points) point.at = [inside(px(point.x), left, right), inside(py(point.y), top, bottom)];
  for (const ms of slo)
    picture.append(
      line("slo", left, py(ms), right, py(ms)),
      label("slo end", right, py(ms) - 5, `SLO ${figures(ms)} ms`),
    );
  const ends = distinct(points.map(point => point.place)).map(place => {
    const own = points.filter(point => point.place === place),
      kind = seriesOf(place);
    const along = (profile, load) =>
      own.filter(one => one.profile === profile && !one.invalid).sort((one, other) => one[load] - other[load]);
    const closed = along("concurrent", "concurrency"),
      open = along("poisson", "requests_per_second_offered");
    for (const [way, some] of Object.entries({ closed, open }))
      if (some.length > 1)
        picture.append(
          path(
            `${way} line ${kind}`,
            some.map(point => point.at),
          ),
        );
    for (const point of own) {
      const why = doubt(point),
        name =
          `${point.name}, ${loadText(point)}: ${figures(point.x)} output tokens/s, ` +
          joined([`${latency} ${figures(point.y)} ms`, why], "; ");
      const shape = point.profile === "poisson" ? "diamond" : null;
      picture.append(mark((why ? "hollow " : "") + kind, ...point.at, name, { shape, radius: 4.5 }));
    }
    const last = closed.at(-1) ?? own[0];
    return { x: last.at[0], y: last.at[1], text: cut(last.name, 16), kind };
  });
  labels(area, ends);
  roving(picture);
  return picture;
}
