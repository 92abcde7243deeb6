// Elements and texts. What the data say becomes text, never markup.
const unknown = "–";

function fill(element, ...children) {
  element.append(...children.flat(Infinity).filter(child => child != null && child !== false));
  return element;
}

// el("p.quiet", {fields}, children): fields may be left out; null and false, as a field or a child, are nothing.
const maker =
  create =>
  (kind, ...children) => {
    const [name, ...classes] = kind.split("."),
      element = create(name),
      fields = children[0]?.constructor === Object ? children.shift() : {};
    const all = { ...fields, class: [...classes, fields.class].filter(Boolean).join(" ") || null };
    for (const [name, value] of Object.entries(all)) {
      if (name.startsWith("on")) value && element.addEventListener(name.slice(2), value);
      else if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    return fill(element, children);
  };
const el = maker(name => document.createElement(name));
const svg = maker(name => document.createElementNS("http://www.w3.org/2000/svg", name));

const known = form => value => (value == null ? unknown : form(value));
const number = options => known(new Intl.NumberFormat("en", options).format);
const figures = number({ maximumSignificantDigits: 3 });
const whole = number({ maximumFractionDigits: 0 });
const tenth = number({ maximumFractionDigits: 1 });
const fixed = digits => number({ minimumFractionDigits: digits, maximumFractionDigits: digits });
const ratio = fixed(3);
const percent = known(value => figures(100 * value) + " %");
const minus = text => text.replace(/^-/, "−");
const signed = form => known(value => (value > 0 ? "+" + form(value) : minus(form(value))));
const between = (low, high, form = ratio) => (low == null && high == null ? unknown : form(low) + " to " + form(high));
const clock = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short", timeZone: "UTC" });
const when = text => (text ? clock.format(new Date(text)) : unknown); // UTC
const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
const named = (some, name) => some.find(one => one.name === name);
const nameOf = one => one.name;
const joined = (texts, by = ", ") => texts.filter(Boolean).join(by);
const distinct = values => [...new Set(values)];

const tones = { pass: "good", fail: "bad", inconclusive: "warn", artifact: "good", none: "bad", undecided: "warn" };
const badge = verdict => (verdict ? el("span." + (tones[verdict] ?? "warn"), verdict) : unknown);
const quiet = (...children) => el("p.quiet", children);
const note = (...children) => el("p.note", children);
const empty = (...children) => el("p.quiet.empty", children);
const heading = (text, level = 2) => el("h" + level, text);
const aside = text => el("span.quiet", text);
const hidden = text => el("span.hidden-words", text);
const described = pairs =>
  el(
    "dl",
    pairs.map(([what, text]) => [el("dt", what), el("dd", text)]),
  );

// What was unfolded stays so when the page is drawn again. Children that are a function are made when they are seen.
const unfolded = {};
function fold(key, title, told, children, open = false) {
  let later = typeof children === "function" && children;
  const ontoggle = () => {
    unfolded[key] = element.open;
    if (element.open && later) fill(element, later());
    if (element.open) later = null;
  };
  const summary = el("summary", title, told && [" ", aside(told)]);
  const element = el("details", { open: unfolded[key] ?? open, ontoggle }, summary, !later && children);
  return element;
}

// A link to another state: a true one, so that it opens in a tab and is reached by the keyboard.
function link(text, fragment, fields) {
  const onclick = event => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(fragment);
  };
  return el("a", { href: fragment, ...fields, onclick }, text);
}
const runPlace = run => place({ view: "run", run: run.id });
const runLink = run => link(when(run.started_at), runPlace(run));

const button = (text, onclick, fields) => el("button", { type: "button", onclick, ...fields }, text);
const controls = (children, fields) =>
  el("form.controls", { onsubmit: event => event.preventDefault(), ...fields }, children);

// A control with its label; its id brings the focus back after a redraw.
const labelled = (text, control, kind = "") => el("label.control" + kind, aside(text), control);

// What is chosen of `options`, texts or [value, text], stands in the address under `id`; `also` changes with it.
function choose(id, text, options, value, also) {
  const option = ([name, shown = name]) => el("option", { value: name, selected: name === value }, cut(shown, 60)),
    onchange = event => set({ [id]: event.target.value, ...also });
  return labelled(
    text,
    el(
      "select",
      { id, onchange },
      options.map(one => option([one].flat())),
    ),
  );
}
const runOptions = some => some.map(run => [run.id, `${when(run.started_at)} · ${cut(run.recipe, 30)}`]);

// A cell is a text, an element, a list of them, or {text, class, title, second}.
function tableCell(one, name = "td", kind = "") {
  const { text, second, ...fields } = one?.constructor === Object ? one : { text: one };
  return el(
    name,
    { scope: name === "th" ? "row" : null, ...fields, class: joined([fields.class, kind], " ") },
    text ?? unknown,
    second && el("span.second", second),
  );
}

// `columns`: titles or {title, unit, words, hint, sorted}; `rows`: elements, or cells of which the first heads its row.
function grid(columns, rows, name, kind = "", fields = {}) {
  const words = index => (columns[index].words ? "long-words" : "");
  const head = (one, index) =>
    el(
      "th",
      { scope: "col", "aria-sort": one.sorted, title: one.hint, class: words(index) },
      el("span", one.title ?? one),
      one.unit && el("span.unit", one.unit),
    );
  const line = row =>
    el(
      "tr",
      row.map((one, index) => tableCell(one, index ? "td" : "th", words(index))),
    );
  return el(
    "div.scroll",
    { tabindex: 0, role: "region", "aria-label": name },
    el(
      "table" + kind,
      { "aria-label": name, ...fields },
      el("thead", el("tr", columns.map(head))),
      el(
        "tbody",
        rows.map(row => (row instanceof Node ? row : line(row))),
      ),
    ),
  );
}
const wordy = title => ({ title, words: true });
const utc = title => ({ title, unit: "UTC" });
