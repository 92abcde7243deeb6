"""lm-eval's own tasks on local rows: the same prompts, answers and metrics as lm-eval makes of the same rows.

The rows of `ROWS` are made up. With QUANTBENCH_EVALDATA naming a folder of real benchmark rows in the layout of
`configs/data/local_jsonl.yaml`, its rows are compared too and the `core` suite is scored by lm-eval's dummy model.
"""

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.suites.leaf_tasks import leaf_tasks
from evals.suites.local_data import DataConfig
from evals.suites.resolve import ResolvedTask, load_suite, resolve
from evals.suites.suite import Category, Suite
from evals.suites.task_files import Function, tasks_root
from evals.suites.tasks_index import scan, standard_tasks

pytestmark = pytest.mark.engine

EVALDATA = os.environ.get("QUANTBENCH_EVALDATA")
needs_evaldata = pytest.mark.skipif(not EVALDATA, reason="QUANTBENCH_EVALDATA names no folder of benchmark rows")
COMPARED_ROWS = 40

ARC = [
    {
        "id": "1",
        "question": "Ice is",
        "choices": {"text": ["cold", "hot", "dry"], "label": ["A", "B", "C"]},
        "answerKey": "A",
    },
    {"id": "2", "question": "Fire is", "choices": {"text": ["wet", "hot"], "label": ["A", "B"]}, "answerKey": "B"},
]
SUMS = [{"context": f"\n\nQ: What is {n} plus 1?\n\nA:", "completion": f" {n + 1}"} for n in range(3)]
PAIRS = [
    {"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps."},
    {"sentence_good": "He is.", "sentence_bad": "He are."},
]
SOLVED = [{"question": f"Ann has {n} and gets 2. How many?", "answer": f"{n}+2\n#### {n + 2}"} for n in range(9)]
CHOICES = [
    {"question": f" Which is {n}? ", "subject": "x", "choices": ["0", "1", "2", "3"], "answer": n % 4} for n in range(7)
]
TRUTHS = [
    {
        "question": "Is the moon cheese?",
        "mc1_targets": {"choices": ["No.", "Yes."], "labels": [1, 0]},
        "mc2_targets": {"choices": ["No.", "It is rock.", "Yes."], "labels": [1, 1, 0]},
    },
    {
        "question": "Do pigs fly?",
        "mc1_targets": {"choices": ["They do not.", "Yes.", "On Mondays."], "labels": [1, 0, 0]},
        "mc2_targets": {"choices": ["They do not.", "Yes."], "labels": [1, 0]},
    },
]
TRANSLATED = [
    {"question": f"{n} und 1?", "answer": None, "answer_number": n + 1, "equation_solution": None} for n in range(3)
]
ORDERS = [
    {"key": 1, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "At least 5 words, twice.",
        "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
        "kwargs": [{"relation": "at least", "num_words": 5}, {}],
    },
]
ROWS: dict[str, tuple[dict[str, list[dict[str, Any]]], int | None]] = {
    "arc_easy": ({"arc/arc_easy_test.jsonl": ARC}, None),
    "arc_challenge": ({"arc/arc_challenge_test.jsonl": ARC}, None),
    "arithmetic_2da": ({"arithmetic/arithmetic_2da.jsonl": SUMS}, None),
    "blimp_transitive": ({"blimp/transitive.jsonl": PAIRS}, None),
    "boolq": (
        {"boolq/val.jsonl": [{"passage": "Snow is white.", "question": "is snow white", "label": 1, "idx": 0}]},
        None,
    ),
    "gsm8k": ({"gsm8k/test.jsonl": SOLVED[:2], "gsm8k/train.jsonl": SOLVED[2:]}, None),
    "ifeval": ({"ifeval/test.jsonl": ORDERS}, None),
    "lambada_openai": ({"lambada/openai_test.jsonl": [{"text": "He opened the old door"}]}, None),
    "mgsm_direct_de": ({"mgsm/de.jsonl": TRANSLATED}, None),
    "mmlu_anatomy": ({"mmlu/test/anatomy.jsonl": CHOICES[:2], "mmlu/dev/anatomy.jsonl": CHOICES[2:]}, 5),
    "piqa": ({"piqa/val.jsonl": [{"goal": "dry", "sol1": "use a towel", "sol2": "use rain", "label": 0}]}, None),
    "truthfulqa_mc1": ({"truthfulqa/mc.jsonl": TRUTHS}, None),
    "truthfulqa_mc2": ({"truthfulqa/mc.jsonl": TRUTHS}, None),
    "wikitext": ({"wikitext2/test_raw.jsonl": [{"page": " = Title = \n \n It is 1 @,@ 000 m . \n"}]}, None),
    "winogrande": (
        {
            "winogrande/val.jsonl": [
                {
                    "sentence": "The cup fell off the shelf as _ shook.",
                    "option1": "cup",
                    "option2": "shelf",
                    "answer": "2",
                }
            ]
        },
        None,
    ),
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def write_rows(root: Path, files: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, rows in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def suite_of(name: str, num_fewshot: int | None, limit: int | None = None) -> Suite:
    (leaf,) = leaf_tasks(name)
    assert leaf.metrics is not None
    perplexity = leaf.metrics[0].endswith("perplexity")
    category = Category(
        name="one",
        description="",
        tasks=[name],
        metric=leaf.metrics[0],
        filter=leaf.filters[0],
        unit="perplexity" if perplexity else "share",
        higher_is_better=not perplexity,
        num_fewshot=num_fewshot,
        limit=limit,
    )
    return Suite(name="test", version="1", description="", categories=[category])


def resolved(name: str, root: Path, num_fewshot: int | None) -> ResolvedTask:
    if name == "ifeval":
        pytest.importorskip("langdetect")
        nltk = pytest.importorskip("nltk")
        try:
            nltk.data.find("tokenizers/punkt_tab/english/", [*nltk.data.path, str(root / "nltk_data")])
        except LookupError:
            pytest.skip("NLTK's punkt_tab is not on this machine: `make nltk-data` fetches it")
    (task,) = resolve(suite_of(name, num_fewshot), DataConfig(root=root)).tasks
    return task


def built(task: ResolvedTask) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False).load([task.lm_eval_config()])["tasks"][task.name]


def built_by_lm_eval(task: ResolvedTask, num_fewshot: int | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval's own task from its own file; only the download is replaced, by the hub library's JSON loader."""
    import datasets
    from lm_eval.tasks import TaskManager

    own_files = {split: str(path) for split, path in task.files.items()}
    load = datasets.load_dataset

    def from_local_rows(**_: Any) -> Any:
        loaded = {split: load("json", data_files=name, split="train") for split, name in own_files.items()}
        # A hub has all splits; what lm-eval makes of the others must not matter.
        (leaf,) = leaf_tasks(task.name)
        others = {leaf.config.get(f"{kind}_split") for kind in ("training", "validation", "test", "fewshot")}
        scored = leaf.config.get("test_split") or leaf.config["validation_split"]
        return {split: loaded.get(split, loaded[scored]) for split in others if split}

    monkeypatch.setattr("lm_eval.api.task.datasets.load_dataset", from_local_rows)
    path = standard_tasks()[task.name].path
    assert path is not None
    standard = TaskManager(include_defaults=False).load([str(tasks_root() / path)])["tasks"][task.name]
    if num_fewshot is not None:
        standard.set_config("num_fewshot", num_fewshot)
    return standard


def requests_of(task: Any, rows: int) -> list[tuple[str, Any]]:
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=rows)
    return [(request.request_type, request.args) for request in task.instances]


def scoring_of(task: Any) -> dict[str, Any]:
    return {
        "metrics": sorted(task.aggregation()),
        "higher_is_better": task.higher_is_better(),
        "metric_arguments": task._metric_fn_kwargs,
        "filters": [one.name for one in task._filters],
        "generation": task.config.generation_kwargs,
        "output_type": task.OUTPUT_TYPE,
        "version": task.VERSION,
        "process_results": task.config.process_results,
    }


def compare(task: ResolvedTask, num_fewshot: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, standard = built(task), built_by_lm_eval(task, num_fewshot, monkeypatch)
    rows = min(len(standard.eval_docs), COMPARED_ROWS)
    assert len(ours.eval_docs) == len(standard.eval_docs)
    assert requests_of(ours, rows) == requests_of(standard, rows)
    for index in range(rows):
        mine, theirs = ours.eval_docs[index], standard.eval_docs[index]
        assert mine == theirs
        assert ours.doc_to_text(mine) == standard.doc_to_text(theirs)
        assert ours.doc_to_target(mine) == standard.doc_to_target(theirs)
        if standard.config.doc_to_choice is not None:
            assert ours.doc_to_choice(mine) == standard.doc_to_choice(theirs)
    assert scoring_of(ours) == scoring_of(standard)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_prompts_and_scoring_are_lm_eval_s(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, num_fewshot = ROWS[name]
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_rows(tmp_path, files)
    compare(resolved(name, tmp_path, num_fewshot), num_fewshot, monkeypatch)


def test_ifeval_s_scorer_reads_words_and_sentences(tmp_path: Path) -> None:
    """Orders whose checks need NLTK's tables; `Dr.` ends no sentence."""
    orders = [
        ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}),
        ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}),
    ]
    row = {
        "key": 1,
        "prompt": "Two sentences.",
        "instruction_id_list": [name for name, _ in orders],
        "kwargs": [options for _, options in orders],
    }
    write_rows(tmp_path, {"ifeval/test.jsonl": [row]})
    task = built(resolved("ifeval", tmp_path, None))
    (document,) = task.eval_docs
    for answer, followed in (
        ("Dr. Who is HERE. She is NOT there.", [True, True]),
        ("She is here. He is there. Nobody knows.", [False, False]),
    ):
        found = task.process_results(document, [answer])
        assert (found["inst_level_strict_acc"], found["prompt_level_strict_acc"]) == (followed, all(followed))


@needs_evaldata
@pytest.mark.parametrize("name", sorted(ROWS))
def test_prompts_and_scoring_of_real_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVALDATA is not None
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    _, num_fewshot = ROWS[name]
    compare(resolved(name, Path(EVALDATA), num_fewshot), num_fewshot, monkeypatch)


@needs_evaldata
def test_the_core_suite_is_built_and_scored() -> None:
    """Every task of `core`, two items each, by lm-eval's dummy model; its numbers mean nothing, but they are there."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.dummy import DummyLM
    from lm_eval.tasks import TaskManager

    assert EVALDATA is not None
    suite = load_suite("core")
    categories = [category.model_copy(update={"limit": 2}) for category in suite.categories]
    resolved_suite = resolve(suite.model_copy(update={"categories": categories}), DataConfig(root=Path(EVALDATA)))
    configs = [task.lm_eval_config() for task in resolved_suite.tasks]
    tasks = TaskManager(include_defaults=False).load(configs)["tasks"]
    wanted = {task.name: task.sampled_ids(len(tasks[task.name].eval_docs)) for task in resolved_suite.tasks}
    random.seed(0)
    results = evaluate(DummyLM(), tasks, samples=wanted, bootstrap_iters=0)
    for category in categories:
        for task in resolved_suite.of(category.name):
            scored = [row for row in results["samples"][task.name] if row["filter"] == category.filter]
            assert [row["doc_id"] for row in scored] == wanted[task.name], task.name
            assert all(category.metric in row for row in scored), task.name


def test_the_index_is_lm_eval_s() -> None:
    """Name by name: kind, file and a tag's tasks, of all that lm-eval's own (slower) index holds."""
    from lm_eval.tasks import TaskManager

    kinds = {"TASK": "task", "PY_TASK": "task", "GROUP": "group", "TAG": "tag"}
    root = tasks_root()
    theirs = {
        name: (
            kinds[entry.kind.name],
            entry.yaml_path.relative_to(root).as_posix() if entry.yaml_path else None,
            tuple(sorted(entry.tags)) if entry.kind.name == "TAG" else (),
        )
        for name, entry in TaskManager().task_index.items()
    }
    assert {name: (entry.kind, entry.path, entry.tasks) for name, entry in scan(root).items()} == theirs


@pytest.mark.parametrize("name", ["mmlu", "bbh_zeroshot", "mgsm_direct", "leaderboard", "mmlu_pro"])
def test_groups_are_taken_apart_as_lm_eval_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaf names and settings; lm-eval builds task objects, here without their data."""
    from lm_eval.tasks import _factory
    from lm_eval.tasks._index import Entry, Kind
    from lm_eval.tasks._yaml_loader import load_yaml

    built_configs = []

    class Built:
        def __init__(self, config: dict[str, Any]) -> None:
            built_configs.append(config)
            self.task_name = config["task"]

    monkeypatch.setattr(_factory, "ConfigurableTask", Built)
    # Functions stay names on both sides: their libraries are not what is tested.
    monkeypatch.setattr(_factory, "load_yaml", lambda path, resolve_func: load_yaml(path, resolve_func=False))
    kinds = {"task": Kind.TASK, "group": Kind.GROUP, "tag": Kind.TAG}
    registry = {
        key: Entry(key, kinds[entry.kind], tasks_root() / entry.path if entry.path else None, tags=set(entry.tasks))
        for key, entry in standard_tasks().items()
    }
    _factory.TaskFactory().build(registry[name], registry=registry)
    ours = {leaf.name: as_lm_eval_writes(leaf.config) for leaf in leaf_tasks(name)}
    # lm-eval notes the file in `metadata`.
    theirs = {config["task"]: config | {"metadata": ours[config["task"]].get("metadata")} for config in built_configs}
    assert {task: config | {"metadata": config.get("metadata")} for task, config in ours.items()} == theirs


def as_lm_eval_writes(value: Any) -> Any:
    """Functions as the texts that lm-eval reads them as where it does not import them."""
    if isinstance(value, Function):
        return str(value.folder / value.reference)
    if isinstance(value, dict):
        return {key: as_lm_eval_writes(inner) for key, inner in value.items()}
    return [as_lm_eval_writes(inner) for inner in value] if isinstance(value, list) else value
