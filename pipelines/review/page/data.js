// The JSON's columns as rows: `runs` and `models` point at each other, a model has its own categories and regressions.
let data, runs, models, series;

const rowsOf = columns =>
  columns[Object.keys(columns).find(name => Array.isArray(columns[name]))].map((_, index) =>
    Object.fromEntries(
      Object.entries(columns)
        .filter(([, column]) => Array.isArray(column))
        .map(([name, column]) => [name, column[index]]),
    ),
  );

function take(told) {
  data = told;
  runs = rowsOf(told.runs);
  models = rowsOf(told.models);
  runs.forEach((run, index) => Object.assign(run, { index, models: [], price: told.prices[index] ?? null }));
  models.forEach((model, index) => {
    const run = runs[model.run];
    Object.assign(model, {
      index,
      run,
      place: run.models.length,
      categories: [],
      regressions: [],
      key: run.id + "/" + model.name,
    });
    model.recommended = run.recommended === index;
    model.words = [run.id, run.recipe, run.source, run.registered_model, model.name, model.method, model.digest]
      .join(" ")
      .toLowerCase();
    run.models.push(model);
  });
  for (const column of told.categories)
    column.model.forEach((model, row) =>
      models[model].categories.push({
        name: column.name,
        unit: column.unit,
        score: column.score[row],
        kept: column.kept[row],
        kept_low: column.kept_low[row],
        kept_high: column.kept_high[row],
        verdict: column.verdict[row],
      }),
    );
  for (const one of told.regressions) models[one.model].regressions.push(one);
  series = [...new Set(runs.map(run => run.series))];
}

const runOf = id => runs.find(run => run.id === id);
const modelOf = key => models.find(model => model.key === key);

// The run's detail, or undefined: then `missing` says why. A live page asks for it, and draws again when it is there.
const asked = {};
function detailOf(run) {
  if (Object.hasOwn(data.details, run.id)) return data.details[run.id];
  if (live && !asked[run.id]) {
    asked[run.id] = "asking for the details of this run";
    ask("run.json?id=" + encodeURIComponent(run.id))
      .then(detail => {
        asked[run.id] = null;
        kept[run.id] = detail;
        data.details[run.id] = detail;
      })
      .catch(error => {
        asked[run.id] = "The details of this run did not come: " + error.message;
      })
      .then(() => redraw());
  }
}
const kept = {}; // details that were asked for, over the next reading of the data

const missing = run =>
  asked[run.id] ??
  "The newest runs have their details in this page, and this one does not. " +
    (run.page ? "Open its report" : "Open the live page, `quantbench review`") +
    " for them.";
