// Who moved which alias and why, and what real traffic said.
const moved = ({ name, stream, version_from: before, version_to: after }) =>
  before == null && after == null
    ? (name ?? cut((stream.split(":").slice(1).join(":") || unknown).replace("sha256:", ""), 12))
    : `${before ?? "none"} → ${after ?? "none"}`;

const aliasRow = ({ at, model, kind, stream, who, why, override, ...entry }) => [
  { text: when(at), second: model },
  { text: kind, class: { rollback: "warn", reject: "bad", approve: "good" }[kind] },
  stream.replace(/sha256:([0-9a-f]{12})[0-9a-f]*/, "$1"),
  { text: moved({ stream, ...entry }), second: entry.version_to && entry.name },
  who,
  { text: why, second: override && "although the policy forbids it: " + override, class: "long-words" },
];

function present() {
  const now = new Map();
  for (const entry of data.aliases)
    if (entry.stream.startsWith("alias:") && (entry.version_to ?? entry.version_from) != null)
      now.set(entry.model + " " + entry.stream, entry);
  return [...now.values()].map(({ model, stream, version_to: version, name, at, who }) => [
    model,
    stream.slice("alias:".length),
    { text: version ?? "none", second: name },
    when(at),
    who,
  ]);
}

const shadowRow = one => [
  { text: one.name, second: one.kind === "gateway" ? "live traffic" : "replay" },
  one.model,
  `${one.champion} beside ${one.candidate}`,
  whole(one.pairs),
  when(one.started_at),
  {
    text: [one.outcome ? badge(one.outcome) : aside("no verdict yet"), one.reason && " " + one.reason],
    class: "long-words",
    second: one.exploratory && "exploratory: not by the limits stored before the first pair",
  },
  one.status
    ? el("a", { href: /^https?:/.test(one.status) ? one.status : null, rel: "noreferrer" }, "live page")
    : unknown,
];

views.history = {
  title: "History",
  always: true,
  draw() {
    const now = present();
    return [
      now.length > 0 && [
        heading("Serving now"),
        grid(["model", wordy("alias"), "version", utc("since"), "by"], now, "serving now"),
      ],
      heading("What was decided"),
      data.aliases.length
        ? grid(
            [utc("when"), ...["what", "of", "version", "who", "why"].map(wordy)],
            data.aliases.toReversed().map(aliasRow),
            "decisions",
            ".history",
          )
        : empty("Nobody has moved an alias yet. `quantbench registry promote` moves one; its row appears here."),
      heading("Shadow traffic"),
      data.shadow.length
        ? grid(
            [
              "folder",
              ...["model", "versions"].map(wordy),
              "pairs",
              utc("since"),
              wordy("verdict"),
              { title: hidden("live page") },
            ],
            data.shadow.map(shadowRow),
            "shadow traffic",
            ".history",
          )
        : empty("No candidate has answered copies of real requests yet. `quantbench shadow` lets one."),
    ];
  },
};
