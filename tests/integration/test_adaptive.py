"""Adaptive evaluations against a completions server: prompts, what is sent and recorded, the cache of answers."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from evals.asking.lm_eval_runner import prepare
from evals.judging.adaptive import Adaptive
from evals.judging.retention import compare, policy_of
from evals.samples import Sample, read_samples
from evals.statistics.sequential import LookPlan
from evals.suites import leaf_tasks
from evals.suites.resolve import resolve
from evals.suites.suite import Category, Suite
from registry.contracts import Endpoint, EvaluationRecord
from tests.completions_server import FormulaModel, completions_server
from tests.tiny_llama import make_tiny_tokenizer

ITEMS = 60
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
fewshot_split: test
num_fewshot: 2
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""


class Writer(FormulaModel):
    """Every answer is the same text, with even log-probabilities."""

    def __init__(self, text: str, fail_after: int | None = None) -> None:
        super().__init__(fail_after)
        self.written = text

    def text(self, prompt: Sequence[int]) -> str:
        return self.written


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A few-shot task whose answers are written, and one of choices whose margin is too narrow to be decided."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "sums.yaml").write_text(TASK)
    rows = [json.dumps({"question": f"{n} and 0 is", "answer": "7"}) for n in range(ITEMS)]
    (folder / "sums.jsonl").write_text("\n".join(rows))
    choices = folder / "choices.yaml"
    text = TASK.replace("sums", "choices").replace("generate_until", "multiple_choice").replace("exact_match", "acc")
    lines = [line for line in text.splitlines() if "generation_kwargs" not in line]
    choices.write_text("\n".join([*lines, 'doc_to_choice: ["7", "8"]']).replace('" {{answer}}"', "0"))
    (folder / "choices.jsonl").write_text("\n".join(rows))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(leaf_tasks, "TASKS_DIR", folder)
        leaf_tasks.own_task_files.cache_clear()
        categories = [
            Category(name="sums", description="", tasks=["sums"], metric="exact_match", margin=0.1),
            Category(name="choices", description="", tasks=["choices"], metric="acc", margin=0.001),
        ]
        yield Suite(name="s", version="1", description="", categories=categories)
    leaf_tasks.own_task_files.cache_clear()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer(path)
    return path


def evaluate(suite: Suite, model_dir: Path, output_dir: Path, model: FormulaModel, **options: Any) -> EvaluationRecord:
    with completions_server(model) as url:
        endpoint = Endpoint(base_url=url, served_model_name="m", model_path=str(model_dir), max_model_len=512)
        return prepare(resolve(suite)).evaluate(
            endpoint,
            model_digest="sha256:m",
            output_dir=output_dir,
            num_concurrent=1,  # one after the other: what was answered before a failure is known
            on_progress=lambda done, total: None,
            **options,
        )


def by_item(path: Path) -> dict[tuple[str, int], Sample]:
    return {(one.task, one.doc_id): one for one in read_samples(path)}


@pytest.fixture(scope="module")
def baseline(suite: Suite, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Adaptive:
    folder = tmp_path_factory.mktemp("baseline")
    record = evaluate(suite, model_dir, folder, Writer(" 7"))
    assert [score.items for score in record.categories] == [ITEMS, ITEMS]
    assert record.looks == []
    return Adaptive(
        plan=LookPlan(fractions=(0.5, 0.75, 1.0)), baseline=record, baseline_samples=folder / record.samples_file
    )


def test_prompts_are_the_baseline_s_however_few_items_are_asked(
    suite: Suite, model_dir: Path, baseline: Adaptive, tmp_path: Path
) -> None:
    model = Writer(" 8")
    record = evaluate(suite, model_dir, tmp_path, model, adaptive=baseline)
    theirs, ours = by_item(baseline.baseline_samples), by_item(tmp_path / record.samples_file)
    assert [(look.category, look.number, look.items) for look in record.looks] == [
        ("sums", 1, ITEMS // 2),
        ("choices", 3, ITEMS),
    ]
    assert [task for task, _ in ours] == ["sums"] * (ITEMS // 2) + ["choices"] * ITEMS
    assert [score.items for score in record.categories] == [ITEMS // 2, ITEMS]
    assert {(key, one.prompt_hash) for key, one in ours.items()} <= {(k, one.prompt_hash) for k, one in theirs.items()}
    assert record.requests_sent == len(model.bodies) < baseline.baseline.requests_sent
    found = compare(
        baseline.baseline, baseline.baseline_samples, record, tmp_path / record.samples_file, policy_of(suite)
    )
    assert [kept.verdict for kept in found.categories] == ["fail", "inconclusive"]


def test_requests_built_for_a_share_of_the_items_would_have_other_prompts(suite: Suite) -> None:
    """Why they are built for all: examples are drawn as the documents go by."""
    task = prepare(resolve(suite)).tasks["sums"]

    def prompts(items: set[int]) -> dict[str, str]:
        task.set_fewshot_seed(suite.seed)
        task.build_all_requests(samples=items)
        return {one.doc["question"]: one.args[0] for one in task.instances}

    whole, part = prompts(set(range(ITEMS))), prompts({20, 40})
    assert any(whole[question] != prompt for question, prompt in part.items())


def test_an_evaluation_that_was_cut_off_at_its_second_look_repeats_nothing(
    suite: Suite, model_dir: Path, baseline: Adaptive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.asking.client._PAUSE_SECONDS", 0.0)
    whole = evaluate(suite, model_dir, tmp_path / "whole", Writer(" 8"), adaptive=baseline)
    options: dict[str, Any] = {"adaptive": baseline, "cache_file": tmp_path / "answers.sqlite"}
    # A request for each text, and one for the two choices of an item, which are one token each.
    first_look = 2 * whole.looks[0].items
    assert whole.requests_sent == first_look + ITEMS - whole.looks[0].items
    answered = first_look + 4
    with pytest.raises(StageError, match="server stopped answering"):
        evaluate(suite, model_dir, tmp_path / "cut", Writer(" 8", fail_after=answered), **options)
    assert not (tmp_path / "cut").exists()
    model = Writer(" 8")
    resumed = evaluate(suite, model_dir, tmp_path / "resumed", model, **options)
    assert resumed.answers_from_cache == whole.looks[0].items + 2 * (answered - whole.looks[0].items)
    assert len(model.bodies) + answered == whole.requests_sent
    assert (resumed.looks, resumed.categories) == (whole.looks, whole.categories)
    again = Writer(" 8")
    evaluate(suite, model_dir, tmp_path / "again", again, **options)
    assert again.bodies == []
