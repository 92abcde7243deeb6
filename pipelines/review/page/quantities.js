// What is measured of a model, told the same way in every view. `scale`: one of the unit in what the field counts.
const quantity = (name, title, unit, { scale = 1, form = figures, ...rest } = {}) => ({
  name,
  title,
  unit,
  form,
  label: `${title}, ${unit}`,
  value: model => (model[name] == null ? null : model[name] / scale),
  text: model => form(model[name] == null ? null : model[name] / scale),
  at: "",
  ...rest,
});
const bytes = { scale: 2 ** 20, form: whole },
  more = true; // is better
const limitOf = (share, whose = "") => (share == null ? null : `${percent(share)} of ${whose}limit`);

// A cost is never told without its currency, nor a made-up one without those words.
const priced = name => ({
  money: true,
  optional: true,
  text: model => figures(model[name]) + (model[name] == null ? "" : currency(model)),
  second: model => model[name] != null && madeUp(model),
});
const currency = ({ run }) => (run.price ? " " + run.price.currency : "");
const madeUp = ({ run }) => run.price?.made_up && el("strong.warn", "MADE UP");

// `at`: the tables and plots in which it stands; the comparison has all.
const quantities = {};
for (const one of [
  quantity("tokens_per_second", "output", "tokens/s", {
    at: "runs run pareto trend",
    more,
    label: "output tokens/s",
    second: (model, whose) => limitOf(model.decode_share, whose),
  }),
  quantity("tokens_per_second_alone", "output, one request at a time", "tokens/s", { more }),
  quantity("ttft_p95_seconds", "TTFT p95", "ms", { at: "runs run pareto trend", scale: 1e-3 }),
  quantity("tpot_p95_seconds", "TPOT p95", "ms", { at: "run", scale: 1e-3 }),
  quantity("prefill_share", "prefill, of the machine's limit", "%", { scale: 0.01, more }),
  quantity("weights_bytes", "resident weights", "MiB", { at: "runs run pareto trend memory", ...bytes }),
  quantity("disk_bytes", "on disk", "MiB", { at: "runs run pareto memory", ...bytes }),
  quantity("peak_bytes", "peak of the server", "MiB", { at: "pareto memory", ...bytes }),
  quantity("kv_tokens", "KV cache", "tokens", { at: "memory", form: whole, more }),
  quantity("cost_per_million", "cost", "per 1M tokens", {
    at: "runs run pareto",
    ...priced("cost_per_million"),
    label: "cost per 1M tokens",
  }),
  quantity("cost_within_slo_per_million", "cost within SLO", "per 1M tokens", {
    at: "run",
    ...priced("cost_within_slo_per_million"),
  }),
  quantity("joules_per_token", "energy", "J per output token", { at: "run", optional: true }),
])
  quantities[one.name] = one;
const the = view => Object.values(quantities).filter(one => one.at.split(" ").includes(view));

const told = (one, model) => (one.value(model) == null ? unknown : one.text(model) + " " + one.unit);
const measured = (one, some) => some.some(model => one.value(model) != null);
const methodOf = (model, none = "baseline") => (model.method === "none" ? none : model.method);
// What was lost is one of the policy's limits; runs of before there was a policy have a verdict on that alone.
const verdictOf = model => model.policy ?? model.verdict;
const worseOf = model => model.regressions.filter(one => one.change === "worse");
const taken = model => model.recommended && el("span.good.taken", "recommended");
