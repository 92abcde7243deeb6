"""lm-eval's task files are found and read by its own rules, without importing it."""

import errno
import json
from itertools import pairwise
from pathlib import Path

import pytest

from configs.errors import RequestError, StageError
from evals.suites import leaf_tasks, task_files, tasks_index
from evals.suites.leaf_tasks import LeafTask
from evals.suites.task_files import Function, read_task_file
from evals.suites.tasks_index import Entry, scan

FILES = {
    "a/_template": "output_type: multiple_choice\nnum_fewshot: 0\ntag: [colours]\ntask_list: [x]\nmetric_list: []\n",
    "a/blue.yaml": "include: _template\ntask: blue\nprocess_docs: !function utils.process\n",
    "a/red.yaml": "include: _template\ntask: red\nnum_fewshot: 3\n",
    "b/group.yaml": "group: all\ntask: [colours, {task: green, num_fewshot: 7}, {group: in, task: [teal]}]\n",
    "b/green.yaml": "task: green\noutput_type: generate_until\n",
    "b/teal.yaml": "task: teal\noutput_type: generate_until\n",
    "b/outer.yaml": "group: outer\nnum_fewshot: 9\ntask: [all]\n",
    "z/again.yaml": "task: red\nnum_fewshot: 99\n",
    "z/broken.yaml": "task: [unclosed\n",
    "z/missing.yaml": "include: nowhere\ntask: missing\n",
    "z/loop.yaml": "include: loop.yaml\ntask: loop\n",
    "z/list.yaml": "- task: no\n",
    "z/bomb.yaml": "task: bomb\na: &a [1]\n"
    + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in pairwise("abcdefgh")),
    "z/cycle.yaml": "task: cycle\nloop: &l [*l]\n",
    "z/device.yaml": "include: /dev/zero\ntask: device\n",
    "z/python.yaml": "task: python\nclass: !function task.Task\ngroup: g\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tasks"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for module in (leaf_tasks, task_files, tasks_index):
        monkeypatch.setattr(module, "tasks_root", lambda: folder)
    tasks_index._from_cache.cache_clear()
    return folder


@pytest.fixture(autouse=True)
def _no_index_is_left() -> object:
    yield
    tasks_index._from_cache.cache_clear()


def test_the_scan_knows_tasks_groups_and_tags(root: Path) -> None:
    assert scan(root) == {
        "all": Entry("group", "b/group.yaml"),
        "outer": Entry("group", "b/outer.yaml"),
        "blue": Entry("task", "a/blue.yaml"),
        "red": Entry("task", "a/red.yaml"),
        "green": Entry("task", "b/green.yaml"),
        "teal": Entry("task", "b/teal.yaml"),
        "python": Entry("task", "z/python.yaml"),
        "colours": Entry("tag", None, ("blue", "red")),
    }


def test_groups_and_tags_are_taken_apart_with_their_settings(root: Path) -> None:
    def shots(name: str) -> dict[str, int | None]:
        return {leaf.name: leaf.config.get("num_fewshot") for leaf in leaf_tasks.leaf_tasks(name)}

    assert shots("all") == {"blue": 0, "red": 3, "green": 7, "teal": None}
    assert shots("outer") == {"blue": 9, "red": 9, "green": 7, "teal": 9}
    assert shots("colours") == {"blue": 0, "red": 3}
    assert not any({"tag", "task_list"} & leaf.config.keys() for leaf in leaf_tasks.leaf_tasks("all"))


def test_the_index_is_kept_and_made_anew_when_damaged_or_old(root: Path) -> None:
    first = tasks_index.standard_tasks()
    kept = tasks_index.cache_file()
    assert json.loads(kept.read_text()).keys() == first.keys()
    kept.write_text("{")
    tasks_index._from_cache.cache_clear()
    assert tasks_index.standard_tasks() == first
    (root / "b" / "late.yaml").write_text("task: late\noutput_type: generate_until\n")
    assert "late" not in tasks_index.standard_tasks()
    assert [leaf.name for leaf in leaf_tasks.leaf_tasks("late")] == ["late"]


def test_a_cache_that_cannot_be_written_is_no_matter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "cache").write_text("a file where a folder should be")
    assert "red" in tasks_index.standard_tasks()


def test_an_unknown_name(root: Path) -> None:
    with pytest.raises(RequestError) as caught:
        leaf_tasks.leaf_tasks("gren")
    assert "green" in caught.value.remedy


def test_functions_are_named_and_imported_when_asked(root: Path) -> None:
    function = read_task_file(root / "a" / "blue.yaml")["process_docs"]
    assert function == Function(root / "a", "utils.process")
    before = function.digest_parts()
    (root / "a" / "utils.py").write_text("def process(rows):\n    return rows[1:]\n")
    assert function.digest_parts() != before
    assert function.load()([1, 2]) == [2]


def test_a_library_that_a_scorer_lacks(root: Path) -> None:
    (root / "b" / "utils.py").write_text("import no_such_library\n")
    with pytest.raises(RequestError, match="need no_such_library"):
        Function(root / "b", "utils.score").load()


@pytest.mark.parametrize("line", ["raise SystemExit('no prolog here')", "raise OSError('no prolog here')"])
def test_a_scorer_that_ends_the_process_for_want_of_something(root: Path, line: str) -> None:
    (root / "b" / "utils.py").write_text(line)
    with pytest.raises(RequestError, match=r"cannot be loaded: (SystemExit|OSError): no prolog here"):
        Function(root / "b", "utils.score").load()


def test_metrics_and_filters() -> None:
    assert LeafTask("t", {"output_type": "multiple_choice"}, None).metrics == ["acc", "acc_norm"]
    own = {"metric_list": [{"metric": Function(Path(), "utils.mine")}, {"metric": "acc"}]}
    assert LeafTask("t", own, None).metrics == ["mine", "acc"]
    assert LeafTask("t", {"class": Function(Path(), "t.T")}, None).metrics is None
    assert LeafTask("t", {"filter_list": [{"name": "strict", "filter": []}]}, None).filters == ["strict"]
    assert LeafTask("t", {}, None).filters == ["none"]


def test_what_the_machine_refuses_makes_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("task: a\n")

    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("evals.suites.tasks_index.read_task_file", refused)
    with pytest.raises(StageError, match="too many files are open") as caught:
        scan(tmp_path)
    assert caught.value.blame == "machine"
