// Puts the view that the fragment names into the page, and keeps a live page's data new.
const root = document.getElementById("review"),
  live = root.dataset.live === "true",
  inReport = root.dataset.report === "true";
const first = () => ((data.shown && runOf(data.shown)) || runs.length === 1 ? "run" : "runs");
let drawn;

// `typing`: a control changed, and a view that can leaves it in place: a field that is replaced forgets half a date.
function redraw({ typing = false } = {}) {
  const { id: focused, selectionStart: where } = document.activeElement ?? {},
    shown = state.view,
    view = views[shown],
    main = root.querySelector("main");
  root.querySelector("nav").replaceChildren(...navigation(shown));
  root
    .querySelector("#notices")
    .replaceChildren(...data.notices.map(one => note(el("strong", one.about), " ", one.text)));
  if (!(typing && view.again?.(main))) {
    main.replaceChildren();
    fill(main, view.draw());
  }
  document.title = (view.heading ?? view.title) + " · Quantbench";
  const again = focused && document.getElementById(focused);
  if (again && again !== document.activeElement) {
    again.focus({ preventScroll: true });
    if (where != null) again.setSelectionRange?.(where, where);
  } else if (!again && drawn && drawn !== shown) main.focus({ preventScroll: true });
  if (drawn && drawn !== shown) scrollTo(0, 0);
  drawn = shown;
}

function navigation(shown) {
  if (runs.length === 1 && !data.aliases.length && !data.shadow.length && !data.deciding) return [];
  return Object.entries(views)
    .filter(([name, view]) => view.always || name === shown)
    .map(([name, { title }]) =>
      name === shown
        ? link(title, location.hash || "#", { "aria-current": "page" })
        : link(title, place({ view: name })),
    );
}

// Drawn at the size in which it is seen, so that texts are as large as those around them.
const drawingWidth = () => Math.max(300, Math.min(820, root.clientWidth || 820));
let seenWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === seenWidth) return;
  seenWidth = innerWidth;
  redraw();
});

// Without what turns the direction of text around: names come from outside.
const read = text => JSON.parse(text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, ""));

// The text that is answered. The browser asks with the ETag of what it has, and gives that where nothing is new.
async function ask(url, fields) {
  const answer = await fetch(url, { cache: "no-cache", signal: AbortSignal.timeout(30000), ...fields }),
    { ok, status } = answer;
  if (ok) return answer.text();
  const { message = "HTTP " + status, remedy } = await answer
    .text()
    .then(read)
    .catch(() => ({}));
  throw Object.assign(new Error(message), { remedy, status });
}

let last;
async function again() {
  const trouble = root.querySelector("#trouble");
  try {
    const text = await ask("data.json");
    if (text !== last) {
      const said = read(text);
      last = text;
      Object.assign(said.details, { ...kept, ...said.details });
      take(said);
      redraw();
    }
    trouble.hidden = true;
  } catch (error) {
    trouble.textContent = "The server does not answer (" + error.message + "); what is below is old. Asking again.";
    trouble.hidden = false;
  }
}

take(read(document.getElementById("data").textContent));
redraw();
if (live) setInterval(again, 15000);
