// Elements and texts. What the data say becomes text, never markup.
const unknown = "–";

function fill(element, fields, children) {
  for (const [name, value] of Object.entries(fields ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value != null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(3).filter(child => child != null && child !== false));
  return element;
}
const el = (name, fields, ...children) => fill(document.createElement(name), fields, children);
const svg = (name, fields, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), fields, children);

const number = options => {
  const form = new Intl.NumberFormat("en", options);
  return value => (value == null ? unknown : form.format(value));
};
const figures = number({ maximumSignificantDigits: 3 });
const whole = number({ maximumFractionDigits: 0 });
const fixed = digits => number({ minimumFractionDigits: digits, maximumFractionDigits: digits });
const ratio = fixed(3);
const with0 = (form, unit) => value => (value == null ? unknown : form(value) + unit);
const percent = with0(value => figures(100 * value), " %");
const mebibytesAlone = value => (value == null ? unknown : whole(value / 2 ** 20));
const mebibytes = with0(value => whole(value / 2 ** 20), " MiB");
const milliseconds = with0(value => figures(1000 * value), " ms");
const perSecond = with0(figures, " tok/s");
const minus = text => text.replace(/^-/, "−");
const signed = form => value => (value == null ? unknown : value > 0 ? "+" + form(value) : minus(form(value)));
const between = (low, high, form = ratio) => (low == null && high == null ? unknown : form(low) + " to " + form(high));
const clock = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short", timeZone: "UTC" });
const when = text => (text ? clock.format(new Date(text)) : unknown); // UTC
const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

const tones = { pass: "good", fail: "bad", inconclusive: "warn", artifact: "good", none: "bad", undecided: "warn" };
const badge = verdict => (verdict ? el("span", { class: tones[verdict] ?? "warn" }, verdict) : unknown);
const empty = text => el("p", { class: "quiet empty" }, text);
const heading = (text, level = 2) => el("h" + level, {}, text);

// A link to another state: a true one, so that it opens in a tab and is reached by the keyboard.
const link = (text, fragment, fields) =>
  el(
    "a",
    {
      href: fragment,
      ...fields,
      onclick: event => {
        if (!event.metaKey && !event.ctrlKey && !event.shiftKey) {
          event.preventDefault();
          go(fragment);
        }
      },
    },
    text,
  );
const runLink = (run, text = run.id) => link(text, place({ view: "run", run: run.id }));

// A control with its label; `id` brings the focus back after a redraw.
const labelled = (text, control) => el("label", { class: "control" }, el("span", { class: "quiet" }, text), control);
const choose = (id, text, options, value, change) =>
  labelled(
    text,
    el(
      "select",
      { id, onchange: event => change(event.target.value) },
      options.map(([name, shown]) => el("option", { value: name, selected: name === value }, shown)),
    ),
  );

// A cell is a text, an element, or {text, class, title, second}.
function tableCell(one, name = "td", fields) {
  const told =
    one != null && typeof one === "object" && !(one instanceof Node) && !Array.isArray(one) ? one : { text: one };
  return el(
    name,
    {
      scope: name === "th" ? "row" : null,
      title: told.title,
      ...fields,
      class: [told.class, fields?.class].filter(Boolean).join(" ") || null,
    },
    told.text ?? unknown,
    told.second ? el("span", { class: "second" }, told.second) : null,
  );
}

// `columns`: [{title or head, unit, words, hint, sorted}]; `rows`: lists of cells, the first of which heads its row, or elements.
function grid(columns, rows, fields) {
  const words = index => ({ class: columns[index]?.words && "long-words" });
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": fields?.["aria-label"] ?? "table" },
    el(
      "table",
      fields,
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          columns.map((column, index) =>
            el(
              "th",
              { scope: "col", "aria-sort": column.sorted, title: column.hint, ...words(index) },
              el("span", {}, column.head ?? column.title),
              column.unit ? el("span", { class: "unit" }, column.unit) : null,
            ),
          ),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map(row =>
          row instanceof Node
            ? row
            : el(
                "tr",
                {},
                row.map((one, index) => tableCell(one, index ? "td" : "th", words(index))),
              ),
        ),
      ),
    ),
  );
}
