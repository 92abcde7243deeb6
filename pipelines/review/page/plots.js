// Scales, axes, points and labels in SVG. Colours are CSS classes: s0 is the baseline's, s1 to s7 the artifacts'.
const seriesOf = place => "s" + (place ? ((place - 1) % 7) + 1 : 0);

// Round numbers, 1, 2 or 5 times a power of ten apart, that cover [low, high].
function ticks(low, high, about = 5) {
  const raw = high > low ? (high - low) / about : Math.abs(low) || 1,
    power = 10 ** Math.floor(Math.log10(raw)),
    step = [1, 2, 5, 10].map(factor => factor * power).find(one => one >= raw * 0.999);
  const from = Math.floor(low / step + 1e-9),
    to = Math.max(Math.ceil(high / step - 1e-9), from + 1);
  return Array.from({ length: to - from + 1 }, (_, index) => +((from + index) * step).toPrecision(12));
}

// From round number to round number; with `zero` from 0, where the values are not so close that all would be one heap.
function axisOf(values, { zero = false, about = 5 } = {}) {
  const told = values.filter(value => value != null);
  if (!told.length) return { low: 0, high: 1, ticks: [0, 1], share: value => value };
  const least = told.reduce((one, other) => Math.min(one, other)),
    most = told.reduce((one, other) => Math.max(one, other)),
    round = ticks(zero ? Math.min(0, least) : least, most, about),
    low = round[0],
    high = round.at(-1);
  return { low, high, ticks: round, share: value => (value - low) / (high - low) };
}

const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, x2, y1, y2 });
const label = (kind, x, y, text) => svg("text", { class: kind, x, y }, text);
const path = (kind, points) => svg("path", { class: kind, d: "M" + points.map(point => point.join(" ")).join("L") });

// An empty plot: `x` and `y` are axes, `form`s write their ticks. Gives the SVG and the places of values in it.
function plot({
  width = drawingWidth(),
  height = width < 500 ? 300 : 380,
  left = 60,
  right = width - 24,
  top = 16,
  bottom = height - 52,
  x,
  y,
  xForm = figures,
  yForm = figures,
  xTitle,
  yTitle,
  name,
}) {
  const px = value => left + (right - left) * x.share(value),
    py = value => bottom - (bottom - top) * y.share(value),
    turned = `translate(15 ${(top + bottom) / 2}) rotate(-90)`;
  const picture = svg(
    "svg.plot",
    { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": name },
    y.ticks.map(tick => [
      line("grid", left, py(tick), right, py(tick)),
      label("tick end", left - 7, py(tick) + 4, yForm(tick)),
    ]),
    x.ticks.map(tick => [
      line("grid", px(tick), top, px(tick), bottom),
      label("tick middle", px(tick), bottom + 17, xForm(tick)),
    ]),
    line("axis", left, bottom, right, bottom),
    xTitle && label("middle", (left + right) / 2, height - 10, xTitle),
    yTitle && svg("text.middle", { transform: turned }, yTitle),
  );
  return { picture, px, py, left, right, top, bottom, width, height };
}

// One mark that the keyboard reaches and a screen reader names; with a fragment it leads there.
const shapes = {
  square: (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  diamond: (x, y, r) => `M${x} ${y - r * 1.4}l${r * 1.4} ${r * 1.4}l${-r * 1.4} ${r * 1.4}l${-r * 1.4} ${-r * 1.4}z`,
  down: (x, y, r) => `M${x - r * 1.2} ${y - r}h${2.4 * r}l${-r * 1.2} ${2 * r}z`,
};
function mark(kind, x, y, name, { shape, radius: r = 5, fragment } = {}) {
  const open = fragment && (() => go(fragment));
  const onkeydown = event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    open();
  };
  return svg(
    "g.mark",
    {
      class: kind,
      tabindex: 0,
      role: open ? "button" : "img",
      "aria-label": name,
      onclick: open,
      onkeydown: open && onkeydown,
    },
    svg("title", name),
    svg("circle.reach", { cx: x, cy: y, r: Math.max(12, r) }),
    shape ? svg("path.model", { d: shapes[shape](x, y, r) }) : svg("circle.model", { cx: x, cy: y, r }),
  );
}

// One stop of the tab key a plot; the arrows go on from there, from left to right.
function roving(picture) {
  const across = one => +one.querySelector(".reach").getAttribute("cx"),
    marks = [...picture.querySelectorAll(".mark")].sort((a, b) => across(a) - across(b));
  marks.forEach((one, place) => {
    one.setAttribute("tabindex", place === marks.length - 1 ? 0 : -1);
    one.addEventListener("keydown", event => {
      const next = marks[place + { ArrowLeft: -1, ArrowRight: 1 }[event.key]];
      if (!next) return;
      event.preventDefault();
      one.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}

// Texts beside their points, each where it covers no other and no point: right, left, above, below; else not at all.
function labels({ picture, left, width, top, bottom }, points) {
  const taken = points.map(({ x, y }) => [x - 7, y - 7, x + 7, y + 7]);
  for (const { x, y, text, kind = "" } of points) {
    const wide = 6.9 * text.length,
      free = ([x1, y1, x2, y2]) =>
        x1 >= left &&
        x2 <= width - 2 &&
        y1 >= top - 14 &&
        y2 <= bottom &&
        !taken.some(other => x1 < other[2] && x2 > other[0] && y1 < other[3] && y2 > other[1]);
    // Of its left upper corner, from the point: across and down.
    const places = [
      [10, -8],
      [-10 - wide, -8],
      [-wide / 2, -26],
      [-wide / 2, 10],
      [8, -24],
      [8, 8],
      [-8 - wide, -24],
      [-8 - wide, 8],
    ];
    const box = places.map(([dx, dy]) => [x + dx, y + dy, x + dx + wide, y + dy + 16]).find(free);
    if (!box) continue;
    taken.push(box);
    picture.append(label("name " + kind, box[0], box[1] + 12, text));
  }
}
