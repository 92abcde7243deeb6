// One series over its runs, in small multiples: each category's kept part, speed, first token, memory. What became
// worse is marked.
const mostMarks = 2000, // elements are slow above some thousands: then only what became worse has one
  mostCategories = 12,
  mostLines = 7,
  mostNamed = 8;

// The categories that lost most, then speed and memory: {name, title, form, value, low, high} of each, by a model.
function quantitiesOf(shown) {
  const categories = worstFirst(
    shown.flatMap(run => run.models.flatMap(model => model.categories.filter(one => one.kept != null))),
  );
  const kept = name => {
    const of = field => model => named(model.categories, name)?.[field];
    return { name, title: name + ", kept", form: ratio, value: of("kept"), low: of("kept_low"), high: of("kept_high") };
  };
  const measured = the("trend");
  return {
    panels: [...categories.slice(0, mostCategories).map(kept), ...measured.map(one => ({ ...one, title: one.label }))],
    left: Math.max(0, categories.length - mostCategories),
  };
}

// A panel's lines {name, kind, points: [{x, run, value, low, high, worse}]}; `x` counts the runs.
const linesOf = (panel, shown, lines) =>
  lines
    .map(({ name, kind }) => ({
      name,
      kind,
      points: shown.flatMap((run, x) => {
        const model = named(run.models, name),
          value = model && panel.value(model);
        if (value == null) return [];
        const worse = worseOf(model).find(one => one.quantity === panel.name);
        return [{ x, run, value, low: panel.low?.(model) ?? value, high: panel.high?.(model) ?? value, worse }];
      }),
    }))
    .filter(one => one.points.length);

function trendPanel(panel, shown, single) {
  const points = panel.lines.flatMap(one => one.points),
    last = Math.max(1, shown.length - 1),
    every = Math.ceil(shown.length / 4),
    oneYear = shown[0].started_at.slice(0, 4) === shown.at(-1).started_at.slice(0, 4);
  const area = plot({
    width: 380,
    height: 190,
    left: 52,
    right: 368,
    top: 12,
    bottom: 162,
    x: {
      ticks: shown.map((_, index) => index).filter(index => index % every === 0),
      share: value => (shown.length === 1 ? 0.5 : 0.02 + (0.96 * value) / last),
    },
    y: axisOf(
      points.flatMap(one => [one.low, one.high]),
      { zero: !panel.low, about: 4 },
    ),
    xForm: index => shown[index].started_at.slice(...(oneYear ? [5, 10] : [0, 7])),
    yForm: panel.form === ratio ? fixed(2) : panel.form,
    name: `${panel.title}, over ${shown.length} runs`,
  });
  const { picture } = area,
    worse = points.filter(point => point.worse);
  for (const point of points) {
    point.px = area.px(point.x);
    [point.py, point.pyLow, point.pyHigh] = [point.value, point.low, point.high].map(area.py);
  }
  for (const { kind, points } of panel.lines) {
    const back = points.toReversed(),
      band = panel.low && pathOf(points, "pyLow") + pathOf(back, "pyHigh").replace("M", "L") + "z",
      series = svg("path.series", { d: pathOf(points, "py") });
    picture.append(svg("g", { class: kind }, band && svg("path.band", { d: band }), series));
  }
  for (const { name, kind, points } of panel.lines)
    for (const point of points.filter(one => single || one.worse)) {
      const text =
        `${name}, ${when(point.run.started_at)}: ${panel.form(point.value)}` +
        (panel.low ? ", " + between(point.low, point.high) : "") +
        (point.worse ? ". Worse: " + point.worse.text : "") +
        ". Opens its run.";
      const form = point.worse
        ? { shape: "down", radius: worse.length > mostNamed ? 3 : 5 }
        : { radius: shown.length > 40 ? 1.6 : 2.6 };
      const fragment = runPlace(point.run);
      picture.append(mark(kind + (point.worse ? " worse" : ""), point.px, point.py, text, { ...form, fragment }));
    }
  if (worse.length <= mostNamed)
    labels(
      area,
      worse.map(({ px, py }) => ({ x: px, y: py, text: "worse", kind: "bad" })),
    );
  brush(area, shown, points);
  roving(picture);
  return el("figure.panel", el("figcaption", el("strong", cut(panel.title, 60))), picture);
}
const dashes = () =>
  svg("svg.dashes", { viewBox: "0 0 26 8", "aria-hidden": "true" }, svg("path.series", { d: "M0 4H26" }));
const pathOf = (points, y) => "M" + points.map(one => one.px.toFixed(1) + " " + one[y].toFixed(1)).join("L");

// Drawn across, it zooms all panels to those runs; a click opens the nearest point's run.
function brush({ picture, left, right, top, bottom, px, width }, shown, points) {
  const at = event => {
    const box = picture.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map(pixels => (pixels * width) / box.width);
  };
  const least = (some, far) => some.reduce((best, one) => (far(one) < far(best) ? one : best), some[0]),
    nearest = x => least([...shown.keys()], index => Math.abs(px(index) - x)),
    on = (name, act) => picture.addEventListener(name, event => (name === "pointerdown" || from != null) && act(event));
  let from = null,
    band;
  const end = () => {
    from = null;
    band?.remove();
    band = null;
  };
  on("pointerdown", event => {
    if (event.button !== 0 || event.target.closest(".mark")) return;
    [from] = at(event);
    picture.setPointerCapture(event.pointerId);
  });
  on("pointermove", event => {
    band ??= picture.appendChild(svg("rect.brush", { y: top, height: bottom - top }));
    const [a, b] = [from, at(event)[0]].map(x => Math.min(Math.max(x, left), right)).sort((one, other) => one - other);
    band.setAttribute("x", a);
    band.setAttribute("width", b - a);
  });
  on("pointerup", event => {
    const [x, y] = at(event),
      [a, b] = [from, x].sort((one, other) => one - other).map(nearest),
      far = point => Math.hypot(point.px - x, point.py - y);
    end();
    if (b > a) return go(address({ from: shown[a].id, to: shown[b].id }));
    const close = least(points, far);
    if (far(close) < 14) go(runPlace(close.run));
  });
  on("pointercancel", end);
}

const howTold = { paired: "paired test, same items", intervals: "intervals", numbers: "numbers alone" };
const worseRows = shown =>
  shown
    .toReversed()
    .flatMap(run =>
      run.models.flatMap(model =>
        worseOf(model).map(({ quantity, change, text, how }) => [
          runLink(run),
          model.name,
          cut(quantities[quantity]?.label ?? quantity, 40),
          { text: changeText(change), class: changeMarks[change][1] },
          { text, class: "long-words" },
          howTold[how],
        ]),
      ),
    );

function trendTable(panels, shown, lines) {
  const cell = (panel, model) =>
    panel.value(model) == null
      ? unknown
      : { text: panel.form(panel.value(model)), second: panel.low && between(panel.low(model), panel.high(model)) };
  const rows = shown
    .toReversed()
    .slice(0, rowsShown)
    .flatMap(run =>
      lines.flatMap(({ name }) => {
        const model = named(run.models, name);
        return model ? [[runLink(run), name, ...panels.map(panel => cell(panel, model))]] : [];
      }),
    );
  const columns = ["run", wordy("model"), ...panels.map(panel => cut(panel.title, 40))];
  return grid(columns, rows, "the numbers of the plots", ".compared");
}

views.trend = {
  title: "Trend",
  always: true,
  draw() {
    if (!runs.length) return empty("No run is here yet. A series begins with the first `quantbench run`.");
    const of = state.one("of", series),
      all = runs.filter(run => run.series === of).toReversed();
    const at = (id, other) => {
      const found = all.findIndex(run => run.id === state.get(id));
      return found < 0 ? other : found;
    };
    const [from, to] = [at("from", 0), at("to", all.length - 1)].sort((a, b) => a - b),
      shown = all.slice(from, to + 1);
    const names = distinct(shown.flatMap(run => run.models.filter(one => one.method !== "none").map(nameOf))),
      every = names.map((name, index) => ({ name, kind: seriesOf(index + 1) })),
      line = state.one("line", ["", ...names]),
      lines = line ? [named(every, line)] : every.slice(0, mostLines);
    const { panels: asked, left } = quantitiesOf(shown),
      panels = asked
        .map(panel => ({ ...panel, lines: linesOf(panel, shown, lines) }))
        .filter(panel => panel.lines.length),
      points = panels.flatMap(panel => panel.lines).reduce((sum, one) => sum + one.points.length, 0),
      worse = worseRows(shown),
      options = runOptions(all.toReversed());
    const head = [
      controls([
        series.length > 1 && choose("of", "series", series, of, { from: null, to: null, line: null }),
        names.length > 1 && choose("line", "models", [["", "all of them"], ...names], line),
        choose("from", "from run", options, all[from].id),
        choose("to", "to run", options, all[to].id),
        shown.length < all.length &&
          button("Show all runs", () => go(address({ from: null, to: null })), { id: "unzoom" }),
      ]),
      quiet(
        `${of}: ${whole(shown.length)} of ${whole(all.length)} runs, in the order in which they ended. `,
        "Draw across a plot to zoom; a point opens its run, and the arrow keys go from point to point.",
      ),
      !line &&
        names.length > mostLines &&
        quiet(`${whole(names.length - mostLines)} further models are not drawn: choose one above.`),
    ];
    if (!panels.length) return [head, empty("None of these runs measured an artifact: there is nothing to follow.")];
    return [
      head,
      el(
        "div.legend",
        lines.map(({ name, kind }) => el("span." + kind, dashes(), cut(name, 40))),
        el("span.bad", "▼ worse than the last accepted version"),
        aside("band: 95 % interval"),
      ),
      el(
        "div.panels",
        panels.map(panel => trendPanel(panel, shown, points <= mostMarks)),
      ),
      left > 0 && quiet(`${whole(left)} further categories lost less and are not drawn.`),
      heading("What became worse"),
      worse.length
        ? grid(
            ["run", ...["model", "what", "change", "how much", "told by"].map(wordy)],
            worse.slice(0, rowsShown),
            "what became worse",
            ".history",
          )
        : empty("Nothing surely became worse than the last accepted version, or there was none to compare with."),
      worse.length > rowsShown &&
        quiet(`${whole(worse.length - rowsShown)} earlier ones are not listed: zoom to see them.`),
      fold("trend", "The plots as a table", shown.length > rowsShown && `of the newest ${rowsShown} runs`, () =>
        trendTable(panels, shown, lines),
      ),
    ];
  },
};
