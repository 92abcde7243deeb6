// Where the reader is, all of it in the URL's fragment: a reload, a bookmark and the back button bring it back.
const views = {}; // name -> {title, draw()}; in the order of the navigation

const state = {
  asked: () => new URLSearchParams(location.hash.slice(1)),
  get: name => state.asked().get(name),
  all: name => state.asked().getAll(name),
  // What is asked for by this name, if it is one of these; else the first of them.
  one: (name, options) => (options.includes(state.get(name)) ? state.get(name) : options[0]),
  get view() {
    const asked = state.get("view");
    return Object.hasOwn(views, asked) ? asked : first();
  },
};

// The fragment of the present state with these changes; null takes a key away, a list stands for several of one name.
function address(changes, all = state.asked()) {
  for (const [name, value] of Object.entries(changes)) {
    all.delete(name);
    for (const one of [value].flat()) if (one != null && one !== "") all.append(name, one);
  }
  return "#" + all;
}

// Of another view: only what is named is kept.
const place = fields => address(fields, new URLSearchParams());

function go(fragment) {
  if (fragment !== location.hash) history.pushState(null, "", fragment);
  redraw();
}

// What changes with every key stroke or movement makes no step of the history.
function set(changes) {
  history.replaceState(null, "", address(changes));
  redraw({ typing: true });
}

addEventListener("popstate", () => redraw());
