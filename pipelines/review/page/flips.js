// Items that the artifact does worse than the baseline, answers side by side with what differs marked.
function flipsOf(run, detail) {
  const some = detail.models.filter(model => model.flips.length);
  return (
    some.length > 0 && [
      heading("Worst answers"),
      some.map(({ name, flips }) =>
        fold(
          `${run.id}/flips/${name}`,
          name,
          `${flips.length} items that it does worse than the baseline, to read`,
          flips.map(flip => flipped(name, flip)),
        ),
      ),
    ]
  );
}

function flipped(name, flip) {
  const [before, after] = marked(flip.baseline_answer, flip.artifact_answer),
    what = flip.answer_type === "choice" ? "margin between two choices moved by" : "log-likelihood changed by",
    moved = flip.shift_nats == null ? "" : `; ${what} ${minus(fixed(2)(flip.shift_nats))} nats`;
  const side = (title, text) => el("div", el("div.quiet", title), el("div.answer", text.length ? text : "(nothing)"));
  return el(
    "div.flip",
    el(
      "p",
      el("strong", flip.category),
      " ",
      aside(
        `${flip.task}, item ${flip.doc_id}, ${flip.answer_type}; ` +
          `score ${figures(flip.baseline_score)} → ${figures(flip.artifact_score)}${moved}`,
      ),
    ),
    flip.prompt && el("pre", flip.prompt),
    flip.expected && el("p", aside("expected "), el("span.answer", flip.expected)),
    (flip.baseline_answer || flip.artifact_answer) &&
      el("div.sides.answers", side("baseline", before), side(name, after)),
  );
}

// Both texts as nodes, word by word, with what is not in their longest common subsequence in <mark>.
function marked(one, other) {
  const words = text => text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [],
    a = words(one),
    b = words(other),
    length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const sides = [[], []];
  const put = (side, text, differs) => {
    const last = sides[side].at(-1);
    if (last?.differs === differs) last.text += text;
    else sides[side].push({ text, differs });
  };
  let i = 0,
    j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && a[i] === b[j]) {
      put(0, a[i++], false);
      put(1, b[j++], false);
    } else if (j >= b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) put(0, a[i++], true);
    else put(1, b[j++], true);
  }
  return sides.map(side => side.map(({ text, differs }) => (differs ? el("mark", text) : text)));
}
