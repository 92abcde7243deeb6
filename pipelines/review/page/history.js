// Who moved which alias and why, and what real traffic said.
const moved = entry =>
  entry.version_from == null && entry.version_to == null
    ? (entry.name ?? cut((entry.stream.split(":").slice(1).join(":") || unknown).replace("sha256:", ""), 12))
    : `${entry.version_from ?? "none"} → ${entry.version_to ?? "none"}`;

function aliasRows() {
  return [...data.aliases].reverse().map(entry => [
    { text: when(entry.at), second: entry.model },
    { text: entry.kind, class: { rollback: "warn", reject: "bad", approve: "good" }[entry.kind] },
    { text: entry.stream.replace(/sha256:([0-9a-f]{12})[0-9a-f]*/, "$1") },
    { text: moved(entry), second: entry.version_to && entry.name },
    entry.who,
    {
      text: entry.why,
      second: entry.override ? "although the policy forbids it: " + entry.override : null,
      class: "long-words",
    },
  ]);
}

function present() {
  const now = new Map();
  for (const entry of data.aliases)
    if (entry.stream.startsWith("alias:") && (entry.version_to != null || entry.version_from != null))
      now.set(entry.model + " " + entry.stream.slice(6), entry);
  return [...now.values()].map(entry => [
    entry.model,
    entry.stream.slice(6),
    { text: entry.version_to ?? "none", second: entry.name },
    when(entry.at),
    entry.who,
  ]);
}

const shadowRows = () =>
  data.shadow.map(one => [
    { text: one.name, second: one.kind === "gateway" ? "live traffic" : "replay" },
    one.model,
    `${one.champion} beside ${one.candidate}`,
    whole(one.pairs),
    when(one.started_at),
    {
      text: [
        badge(one.outcome) === unknown ? el("span", { class: "quiet" }, "no verdict yet") : badge(one.outcome),
        one.reason ? " " + one.reason : "",
      ],
      class: "long-words",
      second: one.exploratory ? "exploratory: not by the limits stored before the first pair" : null,
    },
    one.status
      ? el("a", { href: /^https?:/.test(one.status) ? one.status : null, rel: "noreferrer" }, "live page")
      : unknown,
  ]);

views.history = {
  title: "History",
  always: true,
  draw(element) {
    const words = { words: true },
      now = present();
    if (now.length)
      element.append(
        heading("Serving now"),
        grid(
          [
            { title: "model" },
            { title: "alias", ...words },
            { title: "version" },
            { title: "since", unit: "UTC" },
            { title: "by" },
          ],
          now,
          { "aria-label": "serving now" },
        ),
      );
    element.append(
      heading("What was decided"),
      data.aliases.length
        ? grid(
            [
              { title: "when", unit: "UTC" },
              { title: "what", ...words },
              { title: "of", ...words },
              { title: "version", ...words },
              { title: "who", ...words },
              { title: "why", ...words },
            ],
            aliasRows(),
            { class: "history", "aria-label": "decisions" },
          )
        : empty("Nobody has moved an alias yet. `quantbench registry promote` moves one; its row appears here."),
    );
    element.append(
      heading("Shadow traffic"),
      data.shadow.length
        ? grid(
            [
              { title: "folder" },
              { title: "model", ...words },
              { title: "versions", ...words },
              { title: "pairs" },
              { title: "since", unit: "UTC" },
              { title: "verdict", ...words },
              { title: "" },
            ],
            shadowRows(),
            { class: "history", "aria-label": "shadow traffic" },
          )
        : empty("No candidate has answered copies of real requests yet. `quantbench shadow` lets one."),
    );
  },
};
