"""The shipped suites are what they say; a wrong suite is told with near names."""

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import ConfigError, RequestError
from evals.suites import leaf_tasks
from evals.suites import resolve as resolving
from evals.suites.local_data import rows_of
from evals.suites.resolve import SUITES_DIR, load_suite, resolve
from evals.suites.suite import Category, Suite
from evals.tasks.demo import build

SUITE = """
name: mine
version: "1"
description: test
categories:
  - {name: grammar, description: d, metric: acc, chance: 0.5, tasks: [TASK]}
"""
ROW = '{"question": "why", "answer": "so"}\n'
CODE_TASK = """
task: runs_code
unsafe_code: true
output_type: generate_until
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


def suite_of(*tasks: str, **more: object) -> Suite:
    category = Category.model_validate(
        {"name": "one", "description": "", "tasks": tasks, "metric": "acc", "chance": 0.5} | more
    )
    return Suite(name="mine", version="1", description="", categories=[category])


@pytest.fixture
def own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for `evals/tasks`, with one row."""
    (tmp_path / "rows.jsonl").write_text(ROW)
    monkeypatch.setattr(leaf_tasks, "own_task_files", lambda: {"mine": tmp_path / "task.yaml"})
    return tmp_path


def test_the_demo_suite_is_large_enough_and_has_no_twins() -> None:
    suite = load_suite("demo")
    assert len(suite.categories) >= 6
    for task in resolve(suite).tasks:
        rows = [str(sorted(row.items())) for row in rows_of(task.files["test"], task.name)]
        assert len(rows) >= 100, task.name
        assert [row for row, count in Counter(rows).items() if count > 1] == [], task.name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in SUITES_DIR.glob("*.yaml")))
def test_a_shipped_suite_names_what_lm_eval_has(name: str) -> None:
    """Tasks, metrics and filters are checked against lm-eval's own files; no code task is among them."""
    suite = load_suite(name)
    tasks = resolve(suite).tasks
    assert {task.category for task in tasks} == {category.name for category in suite.categories}
    assert not any(task.config.get("unsafe_code") for task in tasks)
    directions = {
        category.name: metric.get("higher_is_better", category.higher_is_better)
        for category in suite.categories
        for task in resolve(suite).of(category.name)
        for metric in task.config["metric_list"]
        if metric["metric"] == category.metric
    }
    assert directions == {category.name: category.higher_is_better for category in suite.categories}


@pytest.mark.slow
def test_shipped_suites_cover_the_skills() -> None:
    assert len(load_suite("core").categories) >= 10
    assert len(resolve(load_suite("core")).of("knowledge")) == 57
    assert len(resolve(load_suite("full")).of("grammar")) == 67
    assert resolve(load_suite("full")).of("long_context")


def test_a_perplexity_is_not_asked_through_a_template() -> None:
    language = load_suite("demo").categories[-1]
    assert language.unit == "perplexity"
    with pytest.raises(ValidationError, match="no question to ask through a chat template"):
        Category.model_validate(language.model_dump() | {"chat_template": True})


def test_translations_are_drawn_together() -> None:
    core = load_suite("core")
    few = [one.model_copy(update={"limit": 10}) for one in core.categories if one.name in ("multilingual", "grammar")]
    resolved = resolve(core.model_copy(update={"categories": few}))
    assert len({tuple(task.sampled_ids(250)) for task in resolved.of("multilingual")}) == 1
    grammar = resolved.of("grammar")
    assert len({tuple(task.sampled_ids(250)) for task in grammar}) == len(grammar)


def test_item_texts_stand_in_the_data() -> None:
    suite = load_suite("demo")
    rows = [row for task in resolve(suite).tasks for row in rows_of(task.files["test"], task.name)]
    texts = resolve(suite).item_texts()
    assert len(texts) == len(rows)
    assert all(text in row.values() for text, row in zip(texts, rows, strict=True))


def test_the_text_of_an_item_is_no_name() -> None:
    assert resolving._longest_text({"subject": "high_school_government", "question": "Who is it?"}) == "Who is it?"
    assert resolving._longest_text({"subject": "anatomy", "n": 1}) == "anatomy"
    assert resolving._longest_text({"n": 1}) == ""


def test_data_files_are_absolute_and_the_config_is_lm_eval_s() -> None:
    task = resolve(load_suite("demo")).tasks[0]
    files = task.config["dataset_kwargs"]["data_files"]
    assert all(Path(name).is_absolute() and Path(name).exists() for name in files.values())
    assert callable(task.lm_eval_config()["custom_dataset"])


def test_the_digest_follows_data_limit_seed_and_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resolve(suite_of("demo_grammar")).digest
    assert resolve(suite_of("demo_grammar")).digest == before
    assert (
        resolve(suite_of("demo_grammar", limit=5)).tasks[0].digest != resolve(suite_of("demo_grammar")).tasks[0].digest
    )
    assert resolve(suite_of("demo_grammar", num_fewshot=1)).digest != before
    seeded = suite_of("demo_grammar").model_copy(update={"seed": 1})
    assert resolve(seeded).tasks[0].digest != resolve(suite_of("demo_grammar")).tasks[0].digest
    monkeypatch.setattr(resolving, "digest_of_file", lambda path: "sha256:changed")
    assert resolve(suite_of("demo_grammar")).digest != before


def test_unknown_suite_names_the_near_one() -> None:
    with pytest.raises(RequestError) as caught:
        load_suite("demoo")
    assert "did you mean demo" in caught.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "right"), [("demo_grammer", "demo_grammar"), ("arc_eesy", "arc_easy")])
def test_unknown_task_names_the_near_ones(tmp_path: Path, wrong: str, right: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_suite(write(tmp_path, SUITE.replace("TASK", wrong)))
    assert f"no evaluation task '{wrong}'" in caught.value.what
    assert right in caught.value.remedy


def test_a_task_in_two_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="demo_grammar stands twice"):
        load_suite(write(tmp_path, SUITE.replace("TASK", "demo_grammar, demo_grammar")))


def test_a_task_beside_its_group() -> None:
    with pytest.raises(RequestError, match="task mmlu_anatomy stands twice"):
        resolve(suite_of("mmlu_anatomy", "mmlu_stem"))


def test_a_metric_or_filter_that_a_task_does_not_give(tmp_path: Path) -> None:
    text = SUITE.replace("TASK", "mmlu_anatomy")
    with pytest.raises(RequestError, match=r"mmlu_anatomy of category grammar gives no metric acc_norm; it gives acc"):
        load_suite(write(tmp_path, text.replace("metric: acc", "metric: acc_norm")))
    with pytest.raises(RequestError, match=r"gives no filter strict; it gives none"):
        load_suite(write(tmp_path, text.replace("metric: acc", "metric: acc, filter: strict")))


@pytest.mark.parametrize("key", ["limits: 3", "limit: 0", "margin: 0", "num_fewshot: -1"])
def test_a_wrong_key_or_value(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=key.partition(":")[0]):
        load_suite(write(tmp_path, SUITE.replace("TASK", "demo_grammar").replace("metric: acc", f"metric: acc, {key}")))


def test_perplexity_must_be_lower_is_better(tmp_path: Path) -> None:
    text = SUITE.replace("TASK", "demo_grammar").replace("metric: acc", "metric: word_perplexity, unit: perplexity")
    with pytest.raises(ConfigError, match="higher_is_better: false"):
        load_suite(write(tmp_path, text))


def test_code_tasks_are_refused(own_tasks: Path) -> None:
    (own_tasks / "task.yaml").write_text(CODE_TASK)
    with pytest.raises(RequestError, match="runs code that the model wrote"):
        resolve(suite_of("mine", metric="exact_match"))
    with pytest.raises(RequestError, match="task humaneval of category one runs code"):
        resolve(suite_of("humaneval", metric="pass@1"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("num_beams: 10", "num_beams: 10"),
        ("num_return_sequences: 2", "num_return_sequences: 2"),
        ("max_length: 5", "max_length: 5"),
        ("num_beams: 1, top_p: 0.5, max_new_tokens: 3", None),
    ],
)
def test_generation_settings_that_a_server_would_pass_over(own_tasks: Path, settings: str, told: str | None) -> None:
    task = CODE_TASK.replace("unsafe_code: true", f"generation_kwargs: {{{settings}}}")
    (own_tasks / "task.yaml").write_text(task)
    if told is None:
        resolve(suite_of("mine", metric="exact_match"))
        return
    with pytest.raises(RequestError, match=f"asks for `{told}` of its generation"):
        resolve(suite_of("mine", metric="exact_match"))


@pytest.mark.parametrize(("of_task", "of_category", "asked"), [(0, 5, 0), (3, 5, 5), (None, 5, 5), (0, None, 0)])
def test_a_task_that_fixes_no_examples_keeps_them(
    own_tasks: Path, of_task: int | None, of_category: int | None, asked: int
) -> None:
    """As lm-eval's own command line: such a task brings its examples in its prompt, or can have none."""
    line = "" if of_task is None else f"num_fewshot: {of_task}"
    (own_tasks / "task.yaml").write_text(CODE_TASK.replace("unsafe_code: true", line))
    suite = suite_of("mine", metric="exact_match", num_fewshot=of_category)
    assert resolve(suite).tasks[0].config["num_fewshot"] == asked


@pytest.mark.parametrize("line", ["doc_to_image: picture", "doc_to_audio: sound"])
def test_tasks_that_are_seen_or_heard_are_refused(own_tasks: Path, line: str) -> None:
    (own_tasks / "task.yaml").write_text(CODE_TASK.replace("unsafe_code: true", line))
    with pytest.raises(RequestError, match="task mine of category one asks about pictures or sounds"):
        resolve(suite_of("mine", metric="exact_match"))


@pytest.mark.parametrize(
    ("metric", "refused"),
    [("{metric: bleu}", True), ("{metric: f1, aggregation: f1}", True), ("{metric: f1, aggregation: mean}", False)],
)
def test_a_score_of_all_answers_together_is_refused(own_tasks: Path, metric: str, refused: bool) -> None:
    (own_tasks / "task.yaml").write_text(CODE_TASK.replace("unsafe_code: true", f"metric_list: [{metric}]"))
    suite = suite_of("mine", metric="bleu" if "bleu" in metric else "f1")
    if not refused:
        resolve(suite)
        return
    with pytest.raises(RequestError, match="is a score of all its answers together"):
        resolve(suite)


def test_a_task_without_items(own_tasks: Path) -> None:
    (own_tasks / "task.yaml").write_text(CODE_TASK.replace("unsafe_code: true", ""))
    (own_tasks / "rows.jsonl").write_text("")
    with pytest.raises(RequestError, match="task mine has no items"):
        resolve(suite_of("mine", metric="exact_match"))


def test_the_template_made_items_are_what_the_script_writes() -> None:
    assert build.main(check=True) == 0


def test_a_category_s_items_may_be_other_than_the_file_says() -> None:
    suite = load_suite("demo").with_items({"arithmetic": 77})
    by_name = {category.name: category for category in suite.categories}
    assert suite.items_of(by_name["arithmetic"]) == 77
    assert by_name["grammar"].items == "auto"
    assert resolve(suite).digest != resolve(load_suite("demo")).digest
    assert resolve(suite).items_of("arithmetic") == 77
    with pytest.raises(ValueError, match="suite demo has no category sums, only knowledge, grammar, arithmetic"):
        load_suite("demo").with_items({"sums": 5})
