// One series over its runs, in small multiples: each category's kept part, speed, first token, memory. What became
// worse is marked.
const mostInSvg = 2000,
  mostCategories = 12,
  mostNamed = 8;

const trendPanels = [
  { quantity: "tokens_per_second", title: "output, tokens/s", value: model => model.tokens_per_second, form: figures },
  {
    quantity: "ttft_p95_seconds",
    title: "TTFT p95, ms",
    value: model => (model.ttft_p95_seconds == null ? null : 1000 * model.ttft_p95_seconds),
    form: figures,
  },
  {
    quantity: "weights_bytes",
    title: "weights resident, MiB",
    value: model => (model.weights_bytes == null ? null : model.weights_bytes / 2 ** 20),
    form: whole,
  },
];
const categoryOf = (model, name) => model.categories.find(one => one.name === name);

// The categories that lost most, then speed and memory; each panel with its points [{x, model, value, low, high, worse}] a line.
function panelsOf(shown, lines) {
  const lost = new Map();
  for (const model of shown.flatMap(run => run.models))
    for (const one of model.categories)
      if (one.kept != null) lost.set(one.name, Math.min(lost.get(one.name) ?? Infinity, one.kept_low ?? one.kept));
  const names = [...lost].sort((a, b) => a[1] - b[1]).map(([name]) => name);
  const categories = names.slice(0, mostCategories).map(name => ({
    quantity: name,
    title: name + ", kept",
    form: ratio,
    value: model => categoryOf(model, name)?.kept,
    low: model => categoryOf(model, name)?.kept_low,
    high: model => categoryOf(model, name)?.kept_high,
  }));
  const panels = [...categories, ...trendPanels]
    .map(panel => ({
      ...panel,
      lines: lines
        .map((name, place) => ({
          name,
          place: place + 1,
          points: shown.flatMap((run, x) => {
            const model = run.models.find(one => one.name === name),
              value = model && panel.value(model);
            return value == null
              ? []
              : [
                  {
                    x,
                    model,
                    value,
                    low: panel.low?.(model) ?? value,
                    high: panel.high?.(model) ?? value,
                    worse: model.regressions.find(one => one.quantity === panel.quantity && one.change === "worse"),
                  },
                ];
          }),
        }))
        .filter(one => one.points.length),
    }))
    .filter(panel => panel.lines.length);
  return { panels, left: names.length - Math.min(names.length, mostCategories) };
}

const pathOf = (points, y) =>
  points.map((point, place) => (place ? "L" : "M") + point.px.toFixed(1) + " " + y(point).toFixed(1)).join("");
const bandOf = (points, py) =>
  pathOf(points, one => py(one.low)) +
  [...points]
    .reverse()
    .map(one => "L" + one.px.toFixed(1) + " " + py(one.high).toFixed(1))
    .join("") +
  "z";

function trendPanel(panel, shown, inSvg, brushed) {
  const drawn = panel.lines.flatMap(one => one.points),
    y = axisOf(
      drawn.flatMap(one => [one.low, one.high]),
      { zero: !panel.low, about: 4 },
    ),
    last = Math.max(1, shown.length - 1);
  const every = Math.ceil(shown.length / 4),
    x = {
      low: 0,
      high: last,
      ticks: shown.map((_, index) => index).filter(index => index % every === 0),
      share: value => (shown.length === 1 ? 0.5 : 0.02 + (0.96 * value) / last),
    };
  const years = shown[0].started_at.slice(0, 4) !== shown.at(-1).started_at.slice(0, 4);
  const form = { width: 380, height: 190, left: 52, right: 12, top: 12, bottom: 28 };
  const one = plot({
    ...form,
    x,
    y,
    xForm: index => shown[index].started_at.slice(...(years ? [0, 7] : [5, 10])),
    yForm: panel.form === ratio ? fixed(2) : panel.form,
    name: `${panel.title}, over ${shown.length} runs`,
  });
  for (const point of drawn) point.px = one.px(point.x);
  const picture = one.picture,
    worse = drawn.filter(point => point.worse);
  const behind = inSvg ? null : onCanvas(panel, one);
  if (inSvg)
    for (const { place, points } of panel.lines)
      picture.append(
        svg(
          "g",
          { class: seriesOf(place) },
          panel.low && svg("path", { class: "band", d: bandOf(points, one.py) }),
          svg("path", { class: "series", d: pathOf(points, point => one.py(point.value)) }),
        ),
      );
  for (const { name, place, points } of panel.lines)
    for (const point of points)
      if (inSvg || point.worse) {
        const told =
          `${name}, ${when(point.model.run.started_at)}: ${panel.form(point.value)}` +
          (panel.low ? `, ${between(point.low, point.high)}` : "") +
          (point.worse ? ". Worse: " + point.worse.text : "") +
          ". Opens its run.";
        const shape = point.worse
          ? mark(seriesOf(place) + " worse", point.px, one.py(point.value), told, {
              shape: "down",
              radius: worse.length > mostNamed ? 3 : 5,
              fragment: place_(point),
            })
          : mark(seriesOf(place), point.px, one.py(point.value), told, {
              radius: shown.length > 40 ? 1.6 : 2.6,
              fragment: place_(point),
            });
        picture.append(shape);
      }
  if (worse.length <= mostNamed)
    labels(
      one,
      worse.map(point => ({ x: point.px, y: one.py(point.value), text: "worse", kind: "bad" })),
    );
  brush(one, shown, brushed, drawn);
  roving(picture);
  return el(
    "figure",
    { class: "panel" },
    el("figcaption", {}, el("strong", {}, cut(panel.title, 60))),
    el("div", { class: "layers" }, behind, picture),
  );
}
const place_ = point => place({ view: "run", run: point.model.run.id });

// One stop of the tab key a plot; the arrows go on from there, in the order of the runs.
function roving(picture) {
  const marks = [...picture.querySelectorAll(".mark")].sort(
    (a, b) => +a.querySelector(".reach").getAttribute("cx") - +b.querySelector(".reach").getAttribute("cx"),
  );
  marks.forEach((one, place) => {
    one.setAttribute("tabindex", place === marks.length - 1 ? 0 : -1);
    one.addEventListener("keydown", event => {
      const next = marks[place + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? NaN)];
      if (!next) return;
      event.preventDefault();
      one.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}

// Above some thousands of points elements are slow: bands and lines are painted, in the same colours.
function onCanvas(panel, { py, width, height }) {
  const canvas = el("canvas", { width: 2 * width, height: 2 * height, "aria-hidden": "true" }),
    pen = canvas.getContext("2d"),
    style = getComputedStyle(document.documentElement);
  pen.scale(2, 2);
  for (const { place, points } of panel.lines) {
    pen.strokeStyle = pen.fillStyle = style.getPropertyValue("--c" + seriesOf(place).slice(1));
    pen.globalAlpha = 0.15;
    if (panel.low) pen.fill(new Path2D(bandOf(points, py)));
    pen.globalAlpha = 1;
    pen.stroke(new Path2D(pathOf(points, point => py(point.value))));
  }
  return canvas;
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());

// Drawn across, it zooms all panels to those runs; a click opens the nearest point's run.
function brush({ picture, left, right, top, bottom, px, py, width }, shown, brushed, drawn) {
  const at = event => {
    const box = picture.getBoundingClientRect();
    return ((event.clientX - box.left) * width) / box.width;
  };
  const nearest = x =>
    shown.reduce((best, _, index) => (Math.abs(px(index) - x) < Math.abs(px(best) - x) ? index : best), 0);
  let from = null,
    band;
  picture.addEventListener("pointerdown", event => {
    if (event.button === 0 && !event.target.closest(".mark")) {
      from = at(event);
      picture.setPointerCapture(event.pointerId);
    }
  });
  picture.addEventListener("pointermove", event => {
    if (from === null) return;
    band ??= picture.appendChild(svg("rect", { class: "brush", y: top, height: bottom - top }));
    const [a, b] = [from, at(event)].map(x => Math.min(Math.max(x, left), right)).sort((one, other) => one - other);
    band.setAttribute("x", a);
    band.setAttribute("width", b - a);
  });
  picture.addEventListener("pointerup", event => {
    if (from === null) return;
    const [a, b] = [from, at(event)].sort((one, other) => one - other).map(nearest),
      box = picture.getBoundingClientRect();
    from = null;
    band?.remove();
    band = undefined;
    if (b > a) return brushed(shown[a], shown[b]);
    const x = at(event),
      y = ((event.clientY - box.top) * width) / box.width;
    const close = drawn
      .filter(one => Math.hypot(one.px - x, py(one.value) - y) < 14)
      .sort(
        (one, other) => Math.hypot(one.px - x, py(one.value) - y) - Math.hypot(other.px - x, py(other.value) - y),
      )[0];
    if (close) go(place_(close));
  });
  picture.addEventListener("pointercancel", () => {
    from = null;
    band?.remove();
    band = undefined;
  });
}

const changeMarks = { worse: ["▼", "bad"], better: ["▲", "good"], same: ["=", "quiet"], unknown: ["?", "warn"] };
const howTold = { paired: "paired test, same items", intervals: "intervals", numbers: "numbers alone" };
function regressionRows(shown, all) {
  return [...shown].reverse().flatMap(run =>
    run.models.flatMap(model =>
      model.regressions
        .filter(one => all || one.change === "worse")
        .map(one => {
          const [sign, tone] = changeMarks[one.change];
          return [
            runLink(run, when(run.started_at)),
            model.name,
            cut(one.quantity.replaceAll("_", " "), 40),
            { text: `${sign} ${one.change}`, class: tone },
            { text: one.text, class: "long-words" },
            howTold[one.how],
          ];
        }),
    ),
  );
}

function trendTable(panels, shown) {
  const columns = [
      { title: "run" },
      { title: "model", words: true },
      ...panels.map(panel => ({ title: cut(panel.title, 40) })),
    ],
    rows = [];
  for (const run of [...shown].reverse().slice(0, rowsShown))
    for (const { name } of panels[0].lines) {
      const model = run.models.find(one => one.name === name);
      if (model)
        rows.push([
          runLink(run, when(run.started_at)),
          name,
          ...panels.map(panel => {
            const value = panel.value(model);
            return value == null
              ? unknown
              : { text: panel.form(value), second: panel.low ? between(panel.low(model), panel.high(model)) : null };
          }),
        ]);
    }
  return grid(columns, rows, { class: "compared", "aria-label": "the numbers of the plots" });
}

function trendControls(state, of, all, from, to, lines, named) {
  const options = [...all].reverse().map(run => [run.id, `${when(run.started_at)} · ${cut(run.recipe, 30)}`]),
    several = names => names.length > 1;
  return el(
    "form",
    { class: "controls", onsubmit: event => event.preventDefault() },
    several(series) &&
      choose(
        "of",
        "series",
        series.map(one => [one, cut(one, 60)]),
        of,
        value => set({ of: value, from: null, to: null, line: null }),
      ),
    several(named) &&
      choose(
        "line",
        "models",
        [["", "all of them"], ...named.map(one => [one, cut(one, 40)])],
        lines.length === 1 ? lines[0] : "",
        value => set({ line: value }),
      ),
    choose("from", "from run", options, from.id, value => set({ from: value === all[0].id ? null : value })),
    choose("to", "to run", options, to.id, value => set({ to: value === all.at(-1).id ? null : value })),
    (state.get("from") || state.get("to")) &&
      el(
        "button",
        { type: "button", id: "unzoom", onclick: () => go(address({ from: null, to: null })) },
        "Show all runs",
      ),
  );
}

views.trend = {
  title: "Trend",
  always: true,
  draw(element, state) {
    if (!runs.length) {
      element.append(empty("No run is here yet. A series begins with the first `quantbench run`."));
      return;
    }
    const of = series.includes(state.get("of")) ? state.get("of") : runs[0].series,
      all = runs.filter(run => run.series === of).reverse();
    const place = (id, other) => {
      const found = all.findIndex(run => run.id === id);
      return found < 0 ? other : found;
    };
    const [first, last] = [place(state.get("from"), 0), place(state.get("to"), all.length - 1)].sort((a, b) => a - b),
      shown = all.slice(first, last + 1);
    const named = [
        ...new Set(shown.flatMap(run => run.models.filter(model => model.method !== "none").map(model => model.name))),
      ],
      line = state.get("line");
    const lines = named.includes(line) ? [line] : named.slice(0, 7),
      { panels, left } = panelsOf(shown, lines);
    element.append(
      trendControls(state, of, all, all[first], all[last], lines, named),
      el(
        "p",
        { class: "quiet" },
        `${of}: ${whole(shown.length)} of ${whole(all.length)} runs, in the order in which they ended. ` +
          "Draw across a plot to zoom; a point opens its run.",
      ),
    );
    if (named.length > lines.length && !named.includes(line))
      element.append(
        el(
          "p",
          { class: "quiet" },
          `${whole(named.length - lines.length)} further models are not drawn: choose one above.`,
        ),
      );
    if (!panels.length) {
      element.append(empty("None of these runs measured an artifact: there is nothing to follow."));
      return;
    }
    const points = panels.flatMap(panel => panel.lines).reduce((sum, one) => sum + one.points.length, 0),
      worse = regressionRows(shown, false);
    element.append(
      el(
        "div",
        { class: "legend" },
        lines.map(name =>
          el("span", { class: seriesOf(named.indexOf(name) + 1) }, el("i", { class: "swatch" }), cut(name, 40)),
        ),
        el("span", { class: "bad" }, "▼ worse than the last accepted version"),
        el("span", { class: "quiet" }, "band: 95 % interval"),
      ),
    );
    panels.forEach(panel =>
      panel.lines.forEach(one => {
        one.place = named.indexOf(one.name) + 1;
      }),
    );
    element.append(
      el(
        "div",
        { class: "panels" },
        panels.map(panel =>
          trendPanel(panel, shown, points <= mostInSvg, (one, other) => go(address({ from: one.id, to: other.id }))),
        ),
      ),
    );
    if (left)
      element.append(el("p", { class: "quiet" }, `${whole(left)} further categories lost less and are not drawn.`));
    const columns = [
      { title: "run" },
      { title: "model", words: true },
      { title: "what", words: true },
      { title: "change", words: true },
      { title: "how much", words: true },
      { title: "told by", words: true },
    ];
    element.append(
      heading("What became worse"),
      worse.length
        ? grid(columns, worse.slice(0, rowsShown), { class: "history", "aria-label": "what became worse" })
        : empty("Nothing surely became worse than the last accepted version, or there was none to compare with."),
    );
    if (worse.length > rowsShown)
      element.append(
        el(
          "p",
          { class: "quiet" },
          `${whole(worse.length - rowsShown)} earlier ones are not listed: zoom to see them.`,
        ),
      );
    const table = el(
      "details",
      {},
      el(
        "summary",
        {},
        "The plots as a table ",
        el("span", { class: "quiet" }, shown.length > rowsShown ? "of the newest 100 runs" : ""),
      ),
    );
    table.addEventListener("toggle", () => table.children.length === 1 && table.append(trendTable(panels, shown)));
    element.append(table);
  },
};
