// Approve, reject, promote, roll back, where the server allows it. The key lives here until the page is closed.
let reviewKey = "",
  decided = null,
  draft = {};

// What each does to the ledger, and to what is served.
const effects = {
  approve: "Says that it was read and may be promoted. Nothing is served differently.",
  reject: "Says that it must not be promoted. Nothing is served differently.",
  promote: "Points the alias at it: what follows the alias serves it from then on.",
  rollback: "Points the alias at the version that it had before.",
};
const actionNames = { approve: "Approve", reject: "Reject", promote: "Promote", rollback: "Roll back" };
const sentence = text => (/[.?!]$/.test(text) ? text : text + ".");
const headOf = run => data.aliases.filter(entry => entry.model === run.registered_model).at(-1)?.digest || null;

async function decide(asked) {
  const headers = { "content-type": "application/json", authorization: "Bearer " + reviewKey };
  try {
    await ask("decide", { method: "POST", headers, body: JSON.stringify(asked), cache: "no-store" });
    const what = joined([joined([asked.action, asked.name], " "), asked.alias && "alias " + asked.alias]);
    decided = el("p.recommended.good", { role: "status" }, el("strong", `Done: ${what}. It stands in the history.`));
    draft = {};
  } catch ({ status, message, remedy }) {
    if (status === 401) reviewKey = "";
    const next = remedy ?? (status ? "" : "Is the server still there?");
    decided = el(
      "p.failure",
      { role: "status" },
      el("strong", "Refused: " + sentence(message)),
      next && " " + sentence(next),
    );
  }
  await again();
  redraw();
}

// What is written stays over a redraw.
function written(kind, id, text, fields) {
  const oninput = event => (draft[id] = event.target.value);
  return labelled(text, el(kind, { id, name: id, required: true, oninput, ...fields }, draft[id]), ".wide");
}

// Who decides says why, and of which state: if the ledger went on meanwhile, the server refuses.
views.decide = {
  title: "Decide",
  get always() {
    return !!data.deciding;
  },
  draw() {
    const { deciding } = data;
    if (!deciding)
      return empty("Nothing can be decided from this page. `quantbench review --decide` serves one from which it can.");
    if (!runs.length) return empty("There is no run to decide about.");
    const run = runOf(state.get("run")) ?? runs[0],
      action = state.one("action", deciding.actions),
      alias = ["promote", "rollback"].includes(action) ? state.one("alias", deciding.aliases) : null,
      made = action === "rollback" ? [] : run.models.filter(model => model.method !== "none"),
      model = named(made, state.get("name")) ?? made.find(one => one.recommended) ?? made[0];
    const onsubmit = event => {
      event.preventDefault();
      const { key, why } = event.target.elements;
      reviewKey = key?.value ?? reviewKey;
      event.target.querySelector("button").disabled = true;
      const name = model?.name ?? null,
        csrf_token = deciding.csrf_token;
      decide({ action, run: run.id, name, alias, why: why.value, csrf_token, seen: headOf(run) });
    };
    const artifact = one => [one.name, joined([cut(one.name, 40), one.policy, one.recommended && "recommended"])];
    return [
      decided,
      heading("Decide about " + run.registered_model),
      el(
        "form.decision",
        { onsubmit },
        el(
          "div.controls",
          choose(
            "action",
            "what",
            deciding.actions.map(one => [one, actionNames[one].toLowerCase()]),
            action,
          ),
          choose("run", "run", runOptions(runs.slice(0, 200)), run.id, { name: null }),
          made.length > 0 && choose("name", "artifact", made.map(artifact), model.name),
          alias && choose("alias", "alias", deciding.aliases, alias),
        ),
        el("p", effects[action], " ", link("What this run says", runPlace(run))),
        written("textarea", "why", "why, as it will stand in the ledger", { rows: 3, maxlength: 2000 }),
        !reviewKey &&
          written(
            "input",
            "key",
            "review key: QUANTBENCH_REVIEW_KEY of the server; this page alone keeps it, until it is closed",
            {
              type: "password",
              autocomplete: "off",
              value: draft.key,
            },
          ),
        quiet("The command line's checks hold here too, and the ledger keeps who and why."),
        el("p", el("button.do", { disabled: action !== "rollback" && !model }, actionNames[action])),
      ),
    ];
  },
};
