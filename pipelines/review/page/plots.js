// Scales, axes, points and labels in SVG. Colours are CSS classes: s0 is the baseline's, s1 to s7 the artifacts'.
const seriesOf = place => "s" + (place ? ((place - 1) % 7) + 1 : 0);

// Round numbers, 1, 2 or 5 times a power of ten apart, that cover [low, high].
function ticks(low, high, about = 5) {
  const raw = high > low ? (high - low) / about : Math.abs(low) || 1,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(one => one >= raw * 0.999);
  const first = Math.floor(low / step + 1e-9),
    last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, index) => +((first + index) * step).toPrecision(12));
}

// From round number to round number; with `zero` from 0, where the values are not so close that all would be one heap.
function axisOf(values, { zero = false, about = 5 } = {}) {
  const known = values.filter(value => value != null);
  const low = known.reduce((one, other) => Math.min(one, other), Infinity),
    high = known.reduce((one, other) => Math.max(one, other), -Infinity);
  if (!known.length) return { low: 0, high: 1, ticks: [0, 1], share: value => value };
  const round = ticks(zero ? Math.min(0, low) : low, high, about),
    bottom = round[0],
    top = round.at(-1);
  return { low: bottom, high: top, ticks: round, share: value => (value - bottom) / (top - bottom) };
}

// An empty plot: `x` and `y` are axes, `form`s write their ticks. Gives the SVG and the places of values in it.
function plot({
  width = 760,
  height = 380,
  left = 64,
  right = 24,
  top = 16,
  bottom = 52,
  x,
  y,
  xForm = figures,
  yForm = figures,
  xTitle,
  yTitle,
  name,
  xTicks = x.ticks,
}) {
  const px = value => left + (width - left - right) * x.share(value),
    py = value => height - bottom - (height - top - bottom) * y.share(value);
  const picture = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": name });
  for (const tick of y.ticks)
    picture.append(
      line("grid", left, py(tick), width - right, py(tick)),
      label("tick end", left - 7, py(tick) + 4, yForm(tick)),
    );
  for (const tick of xTicks)
    picture.append(
      line("grid", px(tick), top, px(tick), height - bottom),
      label("tick middle", px(tick), height - bottom + 17, xForm(tick)),
    );
  picture.append(line("axis", left, height - bottom, width - right, height - bottom));
  if (xTitle) picture.append(label("middle", (left + width - right) / 2, height - 10, xTitle));
  if (yTitle)
    picture.append(
      svg("text", { class: "middle", transform: `translate(15 ${(top + height - bottom) / 2}) rotate(-90)` }, yTitle),
    );
  return { picture, px, py, left, right: width - right, top, bottom: height - bottom, width, height };
}

const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, x2, y1, y2 });
const label = (kind, x, y, text) => svg("text", { class: kind, x, y }, text);

// One mark that the keyboard reaches and a screen reader names; `shape` is circle, square or diamond.
function mark(kind, x, y, name, { shape = "circle", radius = 5, act, fragment } = {}) {
  const r = radius,
    form = {
      square: `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
      diamond: `M${x} ${y - r * 1.4}l${r * 1.4} ${r * 1.4}l${-r * 1.4} ${r * 1.4}l${-r * 1.4} ${-r * 1.4}z`,
      down: `M${x - r * 1.2} ${y - r}h${2.4 * r}l${-r * 1.2} ${2 * r}z`,
    }[shape];
  const drawn = form ? svg("path", { class: "model", d: form }) : svg("circle", { class: "model", cx: x, cy: y, r });
  const done = act ?? (fragment && (() => go(fragment)));
  return svg(
    "g",
    {
      class: "mark " + kind,
      tabindex: 0,
      role: done ? "button" : "img",
      "aria-label": name,
      onclick: done,
      onkeydown:
        done &&
        (event => {
          if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            done();
          }
        }),
    },
    svg("title", {}, name),
    svg("circle", { class: "reach", cx: x, cy: y, r: Math.max(12, r) }),
    drawn,
  );
}

// A whisker with caps, across or upright.
function whisker(x1, y1, x2, y2) {
  const [dx, dy] = y1 === y2 ? [0, 4] : [4, 0];
  return svg("path", {
    class: "error",
    d: `M${x1} ${y1}L${x2} ${y2}M${x1 - dx} ${y1 - dy}L${x1 + dx} ${y1 + dy}M${x2 - dx} ${y2 - dy}L${x2 + dx} ${y2 + dy}`,
  });
}

// Texts beside their points, each where it covers no other and no point: right, left, above, below; else not at all.
function labels({ picture, left, width, top, bottom }, points) {
  const taken = points.map(({ x, y }) => [x - 7, y - 7, x + 7, y + 7]);
  for (const { x, y, text, kind = "" } of points) {
    const wide = 6.9 * text.length;
    const box = [
      [x + 10, y - 8],
      [x - 10 - wide, y - 8],
      [x - wide / 2, y - 26],
      [x - wide / 2, y + 10],
      [x + 8, y - 24],
      [x + 8, y + 8],
      [x - 8 - wide, y - 24],
      [x - 8 - wide, y + 8],
    ]
      .map(([x, y]) => [x, y, x + wide, y + 16])
      .find(
        one =>
          one[0] >= left &&
          one[2] <= width - 2 &&
          one[1] >= top - 14 &&
          one[3] <= bottom &&
          !taken.some(other => one[0] < other[2] && one[2] > other[0] && one[1] < other[3] && one[3] > other[1]),
      );
    if (!box) continue;
    taken.push(box);
    picture.append(label("name " + kind, box[0], box[1] + 12, text));
  }
}
