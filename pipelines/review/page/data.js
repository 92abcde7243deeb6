// The JSON's columns as rows: `runs` and `models` point at each other, a model has its own categories and regressions.
let data, runs, models, series;

function rowsOf(columns) {
  const lists = Object.entries(columns).filter(([, column]) => Array.isArray(column));
  return lists[0][1].map((_, row) => Object.fromEntries(lists.map(([name, column]) => [name, column[row]])));
}

function take(said) {
  data = said;
  runs = rowsOf(said.runs);
  models = rowsOf(said.models);
  runs.forEach((run, index) => Object.assign(run, { index, models: [], price: said.prices[index] ?? null }));
  models.forEach((model, index) => {
    const run = runs[model.run];
    Object.assign(model, { index, run, place: run.models.length, categories: [], regressions: [] });
    model.key = run.id + "/" + model.name;
    model.recommended = run.recommended === index;
    model.words = [run.id, run.recipe, run.source, run.registered_model, model.name, model.method, model.digest]
      .join(" ")
      .toLowerCase();
    run.models.push(model);
  });
  for (const { name, unit, model, score, kept, kept_low: low, kept_high: high, verdict } of said.categories)
    model.forEach((index, row) => {
      const cell = {
        score: score[row],
        kept: kept[row],
        kept_low: low[row],
        kept_high: high[row],
        verdict: verdict[row],
      };
      models[index].categories.push({ name, unit, ...cell });
    });
  for (const one of said.regressions) models[one.model].regressions.push(one);
  series = distinct(runs.map(run => run.series));
}

const runOf = id => runs.find(run => run.id === id);
const modelOf = key => models.find(model => model.key === key);

// The run's detail, or undefined: then `missing` says why. A live page asks for it, and draws again when it is there.
const asked = {},
  kept = {}; // details that were asked for, over the next reading of the data
function detailOf({ id }) {
  if (Object.hasOwn(data.details, id)) return data.details[id];
  if (!live || asked[id]) return;
  asked[id] = "asking for the details of this run";
  ask("run.json?id=" + encodeURIComponent(id))
    .then(text => {
      asked[id] = null;
      data.details[id] = kept[id] = read(text);
    })
    .catch(error => (asked[id] = "The details of this run did not come: " + error.message))
    .then(() => redraw());
}

const missing = run =>
  asked[run.id] ??
  "The newest runs have their details in this page, and this one does not. " +
    (run.page ? "Open its report" : "Open the live page, `quantbench review`") +
    " for them.";
