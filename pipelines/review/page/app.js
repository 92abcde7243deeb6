// Puts the view that the fragment names into the page, and keeps a live page's data new.
const root = document.getElementById("review"),
  live = root.dataset.live === "true";
const first = () => ((data.shown && runOf(data.shown)) || runs.length === 1 ? "run" : "runs");
let drawn;

// `typing`: a control changed, and a view that can leaves it in place: a field that is replaced forgets half a date.
function redraw({ typing = false } = {}) {
  const focused = document.activeElement?.id,
    where = document.activeElement?.selectionStart;
  const view = state.view,
    main = root.querySelector("main");
  navigation(view);
  notices();
  if (!(typing && views[view].again?.(main, state))) {
    main.replaceChildren();
    views[view].draw(main, state);
  }
  document.title = (views[view].heading ?? views[view].title) + " · Quantbench";
  const again = focused && document.getElementById(focused);
  if (again && again !== document.activeElement) {
    again.focus({ preventScroll: true });
    if (where != null && again.setSelectionRange) again.setSelectionRange(where, where);
  } else if (!again && drawn && drawn !== view) main.focus({ preventScroll: true });
  if (drawn && drawn !== view) scrollTo(0, 0);
  drawn = view;
}

function navigation(view) {
  const alone = runs.length === 1 && !data.aliases.length && !data.shadow.length && !data.deciding;
  root.querySelector("nav").replaceChildren(
    ...(alone
      ? []
      : Object.keys(views)
          .filter(name => views[name].always || name === view)
          .map(name =>
            link(views[name].title, name === view ? location.hash || "#" : place({ view: name }), {
              "aria-current": name === view ? "page" : null,
            }),
          )),
  );
}

function notices() {
  root
    .querySelector("#notices")
    .replaceChildren(
      ...data.notices.map(one => el("p", { class: "note" }, el("strong", {}, one.about), " ", one.text)),
    );
}

// Without what turns the direction of text around: names come from outside.
const read = text => JSON.parse(text.replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, ""));

async function ask(url, fields = {}) {
  const answer = await fetch(url, { cache: "no-cache", signal: AbortSignal.timeout(30000), ...fields });
  const told =
    answer.status === 304
      ? null
      : await answer
          .text()
          .then(read)
          .catch(() => null);
  if (!answer.ok && answer.status !== 304)
    throw Object.assign(new Error(told?.message ?? "HTTP " + answer.status), {
      remedy: told?.remedy,
      status: answer.status,
    });
  return told;
}

// The browser asks with the ETag of what it has, and gives what it has where nothing is new.
async function again() {
  const trouble = root.querySelector("#trouble");
  try {
    const text = await (await fetch("data.json", { cache: "no-cache", signal: AbortSignal.timeout(30000) })).text();
    if (text !== again.last) {
      const told = read(text);
      again.last = text;
      Object.assign(told.details, { ...kept, ...told.details });
      take(told);
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
