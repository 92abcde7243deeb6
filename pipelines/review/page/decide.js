// Approve, reject, promote, roll back, where the server allows it. The key lives in this variable until the page is closed.
let reviewKey = "",
  decided,
  draft = {};

const sentence = text => (/[.?!]$/.test(text) ? text : text + ".");
const needsAlias = action => action === "promote" || action === "rollback";
const headOf = run => data.aliases.filter(entry => entry.model === run.registered_model).at(-1)?.digest || null;

async function decide(told) {
  const headers = { "content-type": "application/json", authorization: "Bearer " + reviewKey };
  try {
    await ask("decide", { method: "POST", headers, body: JSON.stringify(told), cache: "no-store" });
    decided = {
      tone: "good",
      text: `Done: ${told.action}${told.name ? " " + told.name : ""}${told.alias ? ", alias " + told.alias : ""}. It stands in the history.`,
    };
    draft = {};
  } catch (error) {
    if (error.status === 401) reviewKey = "";
    decided = {
      tone: "bad",
      text: "Refused: " + sentence(error.message),
      remedy: error.remedy ?? (error.status ? "" : "Is the server still there?"),
    };
  }
  await again();
  redraw();
}

// Who decides says why, and of which state: if the ledger went on meanwhile, the server refuses.
views.decide = {
  title: "Decide",
  get always() {
    return !!data.deciding;
  },
  draw(element, state) {
    const deciding = data.deciding;
    if (!deciding || !runs.length) {
      element.append(
        empty(
          deciding
            ? "There is no run to decide about."
            : "Nothing can be decided from this page. `quantbench review --decide` serves one from which it can.",
        ),
      );
      return;
    }
    const run = runOf(state.get("run")) ?? runs[0],
      action = deciding.actions.includes(state.get("action")) ? state.get("action") : deciding.actions[0];
    const made = run.models.filter(model => model.method !== "none"),
      name = made.find(model => model.name === state.get("name")) ?? made.find(model => model.recommended) ?? made[0];
    const alias = deciding.aliases.includes(state.get("alias")) ? state.get("alias") : deciding.aliases[0];
    const named = action !== "rollback";
    const submit = event => {
      event.preventDefault();
      const form = event.target;
      if (form.elements.key) reviewKey = form.elements.key.value;
      form.querySelector("button").disabled = true;
      decide({
        action,
        run: run.id,
        name: named ? (name?.name ?? null) : null,
        alias: needsAlias(action) ? alias : null,
        why: form.elements.why.value,
        csrf_token: deciding.csrf_token,
        seen: headOf(run),
      });
    };
    if (decided)
      element.append(
        el(
          "p",
          { class: decided.tone === "good" ? "recommended good" : "failure", role: "status" },
          el("strong", {}, decided.text),
          decided.remedy ? " " + sentence(decided.remedy) : "",
        ),
      );
    element.append(
      el(
        "form",
        { class: "decision", onsubmit: submit },
        el(
          "div",
          { class: "controls" },
          choose(
            "action",
            "what",
            deciding.actions.map(one => [one, one === "rollback" ? "roll back" : one]),
            action,
            value => set({ action: value }),
          ),
          choose(
            "run",
            "run",
            runs.slice(0, 200).map(one => [one.id, `${when(one.started_at)} · ${cut(one.recipe, 30)}`]),
            run.id,
            value => set({ run: value, name: null }),
          ),
          named &&
            made.length > 0 &&
            choose(
              "name",
              "artifact",
              made.map(one => [
                one.name,
                `${cut(one.name, 40)}${one.policy ? ", " + one.policy : ""}${one.recommended ? ", recommended" : ""}`,
              ]),
              name?.name,
              value => set({ name: value }),
            ),
          needsAlias(action) &&
            choose(
              "alias",
              "alias",
              deciding.aliases.map(one => [one, one]),
              alias,
              value => set({ alias: value }),
            ),
        ),
        el(
          "label",
          { class: "control wide" },
          el("span", { class: "quiet" }, "why, as it will stand in the ledger"),
          el(
            "textarea",
            {
              id: "why",
              name: "why",
              required: true,
              rows: 3,
              maxlength: 2000,
              oninput: event => {
                draft.why = event.target.value;
              },
            },
            draft.why ?? "",
          ),
        ),
        reviewKey
          ? null
          : el(
              "label",
              { class: "control wide" },
              el("span", { class: "quiet" }, "review key; this page keeps it until it is closed, and nowhere else"),
              el("input", {
                id: "key",
                name: "key",
                type: "password",
                autocomplete: "off",
                required: true,
                value: draft.key ?? "",
                oninput: event => {
                  draft.key = event.target.value;
                },
              }),
            ),
        el(
          "p",
          {},
          el(
            "button",
            { disabled: named && !made.length },
            { approve: "Approve", reject: "Reject", promote: "Promote", rollback: "Roll back" }[action],
          ),
        ),
        el(
          "p",
          { class: "quiet" },
          `${run.registered_model}: the command line's checks hold here too, and the ledger keeps who and why.`,
        ),
      ),
    );
  },
};
