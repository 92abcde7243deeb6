"""Local rows take the place of a hub's data set; what is missing or wrong is told."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import ConfigError, RequestError
from evals.suites.leaf_tasks import leaf_tasks
from evals.suites.local_data import DataConfig, load_map, local_dataset, needed_splits, rows_of, with_local_files
from evals.suites.resolve import ResolvedTask, resolve
from evals.suites.scorers import check_scorer, steady_scorers
from tests.unit.evals.test_suite import suite_of

QUESTION = {"question": "2 + 2?", "answer": "#### 4"}
CHOICE = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 1}


def put(root: Path, name: str, *rows: dict[str, Any]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def resolved(root: Path, task: str, data_map: str = "local_jsonl", **more: object) -> ResolvedTask:
    (task_,) = resolve(suite_of(task, **more), DataConfig(root=root, map=data_map)).tasks
    return task_


def test_only_the_data_set_is_overridden(tmp_path: Path) -> None:
    put(tmp_path, "mmlu/test/anatomy.jsonl", CHOICE)
    put(tmp_path, "mmlu/dev/anatomy.jsonl", CHOICE)
    ours, (standard,) = resolved(tmp_path, "mmlu_anatomy", num_fewshot=5).config, leaf_tasks("mmlu_anatomy")
    changed = {key for key in ours.keys() | standard.config.keys() if ours.get(key) != standard.config.get(key)}
    assert changed == {"dataset_path", "dataset_name", "dataset_kwargs", "num_fewshot"}
    assert ours["dataset_kwargs"] == {
        "data_files": {split: str(tmp_path / "mmlu" / split / "anatomy.jsonl") for split in ("test", "dev")}
    }


def test_splits_that_no_prompt_needs_are_not_read(tmp_path: Path) -> None:
    put(tmp_path, "mmlu/test/anatomy.jsonl", CHOICE)
    task = resolved(tmp_path, "mmlu_anatomy")
    assert list(task.files) == ["test"]
    assert task.config["fewshot_split"] is None


@pytest.mark.parametrize(
    ("config", "splits"),
    [
        ({"test_split": "test", "validation_split": "val", "training_split": "train"}, ["test"]),
        ({"validation_split": "val", "training_split": "train"}, ["val"]),
        ({"test_split": "test", "training_split": "train", "num_fewshot": 2}, ["test", "train"]),
        ({"test_split": "test", "validation_split": "val", "num_fewshot": 2}, ["test", "val"]),
        ({"test_split": "test", "num_fewshot": 2}, ["test"]),
        ({"test_split": "test", "fewshot_split": "dev", "num_fewshot": 2}, ["test", "dev"]),
        ({"test_split": "test", "fewshot_split": "dev", "num_fewshot": 0}, ["test"]),
        ({"test_split": "test", "fewshot_config": {"split": "dev"}, "num_fewshot": 2}, ["test", "dev"]),
        ({"test_split": "test", "training_split": "t", "fewshot_config": {"samples": []}, "num_fewshot": 2}, ["test"]),
    ],
)
def test_needed_splits(config: dict[str, Any], splits: list[str]) -> None:
    assert needed_splits(config) == splits
    local = with_local_files(config, {split: Path(split) for split in splits})
    assert needed_splits(local) == splits


def test_the_digest_follows_the_rows_and_no_path(tmp_path: Path) -> None:
    digests = []
    for folder, answer in (("a", "#### 4"), ("b", "#### 4"), ("c", "#### 5")):
        put(tmp_path / folder, "gsm8k/test.jsonl", QUESTION | {"answer": answer})
        digests.append(resolved(tmp_path / folder, "gsm8k", metric="exact_match", filter="strict-match", num_fewshot=0))
    assert digests[0].digest == digests[1].digest != digests[2].digest


def test_a_data_set_that_the_map_does_not_name(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match="task hellaswag reads Rowan/hellaswag; the data map local_jsonl has nothing"
    ):
        resolved(tmp_path, "hellaswag")


def test_a_split_that_the_map_does_not_name(tmp_path: Path) -> None:
    put(tmp_path, "arc/arc_easy_test.jsonl", {"question": "?", "choices": {}, "answerKey": "A"})
    with pytest.raises(RequestError, match=r"arc_easy needs split train of allenai/ai2_arc \(ARC-Easy\)"):
        resolved(tmp_path, "arc_easy", num_fewshot=25)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        resolved(tmp_path, "piqa")
    assert "task piqa, split validation of baber/piqa" in caught.value.what
    assert str(tmp_path / "piqa" / "val.jsonl") in caught.value.what
    assert "goal, sol1, sol2, label" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"question": "?"}\n', r"task gsm8k: .*test.jsonl:1 has no column answer; it has question"),
        ('{"question": "?", "answer": "1"}\n{"question": "?"}\n', "test.jsonl:2 has no column answer"),
        ('{"question": "?", "answer": "1"}\n{"question"\n', "test.jsonl:2: not JSON"),
        ("[1, 2]\n", "test.jsonl:1 is no JSON object"),
        ("", "task gsm8k has no items"),
        ("\n\n", "task gsm8k has no items"),
    ],
)
def test_wrong_rows(tmp_path: Path, text: str, told: str) -> None:
    put(tmp_path, "gsm8k/test.jsonl")
    (tmp_path / "gsm8k" / "test.jsonl").write_text(text)
    with pytest.raises(RequestError, match=told):
        resolved(tmp_path, "gsm8k", metric="exact_match", filter="strict-match", num_fewshot=0)


def test_a_null_column_is_there(tmp_path: Path) -> None:
    put(tmp_path, "mgsm/de.jsonl", {"question": "?", "answer": None, "answer_number": 4})
    assert resolved(tmp_path, "mgsm_direct_de", metric="exact_match", filter="flexible-extract").files


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(RequestError, match="not UTF-8"):
        list(rows_of(tmp_path / "rows.jsonl", "task t"))


def test_maps_by_name_by_path_and_wrong(tmp_path: Path) -> None:
    assert load_map("local_jsonl").datasets
    mine = tmp_path / "mine.yaml"
    mine.write_text("description: d\ndatasets: [{dataset: baber/piqa, splits: {validation: rows}, columns: [goal]}]\n")
    put(tmp_path, "rows", {"goal": "g"})
    assert resolved(tmp_path, "piqa", str(mine)).files == {"validation": tmp_path / "rows"}
    with pytest.raises(RequestError, match="no data map 'local_json'"):
        load_map("local_json")
    mine.write_text("description: d\ndatasets: [{dataset: baber/piqa, split: {}}]\n")
    with pytest.raises(ConfigError, match="splits"):
        load_map(str(mine))


def test_paths_do_not_hang_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = DataConfig(root=Path("rows"), map="mine.yaml")
    assert (data.root, data.map) == (tmp_path / "rows", str(tmp_path / "mine.yaml"))
    assert DataConfig(root=Path("~/rows")).root == Path.home() / "rows"
    assert DataConfig(root=tmp_path).map == "local_jsonl"


def test_rows_may_differ_in_their_keys(tmp_path: Path) -> None:
    rows = [{"n": 1, "kwargs": [{}]}, {"n": 2, "kwargs": [{"words": 3}], "late": "x"}]
    put(tmp_path, "rows.jsonl", *rows)
    (split,) = local_dataset({"test": str(tmp_path / "rows.jsonl")}, version=1).values()
    assert list(split) == [rows[0] | {"late": None}, rows[1]]


def test_a_scorer_s_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    (leaf,) = leaf_tasks("ifeval")
    with pytest.raises(RequestError, match="task ifeval is scored with NLTK's punkt_tab") as caught:
        check_scorer(leaf, tmp_path)
    assert str(tmp_path / "nltk_data") in caught.value.remedy
    (tmp_path / "nltk_data" / "tokenizers" / "punkt_tab" / "english").mkdir(parents=True)
    check_scorer(leaf, tmp_path)
    check_scorer(leaf_tasks("gsm8k")[0], tmp_path / "nowhere")


def test_languages_are_not_guessed_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    guesser = SimpleNamespace(DetectorFactory=SimpleNamespace(seed=None))
    monkeypatch.setitem(sys.modules, "langdetect", guesser)
    steady_scorers()
    assert guesser.DetectorFactory.seed == 0


def test_embedded_tasks_need_no_data(tmp_path: Path) -> None:
    assert resolved(tmp_path, "demo_grammar") == resolve(suite_of("demo_grammar")).tasks[0]
