"""Every task of lm-eval's that lets a model write: its settings are read, and one of each kind is built and asked.

Rows are made up (`tests/made_up_rows.py`), since the real ones lie on a hub. What cannot be asked so is listed with its
reason, and no reason may be a fault of ours.
"""

import json
import logging
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

import evals
from configs.errors import QuantbenchError
from evals.asking import lm_eval_runner
from evals.asking.client import Client
from evals.asking.lm_eval_runner import Asker, prepare
from evals.asking.questions import Questioner
from evals.suites.generation import check_generation, generation, most_tokens
from evals.suites.leaf_tasks import LeafTask, leaf_tasks
from evals.suites.resolve import ResolvedSuite, resolve
from evals.suites.suite import Category, Suite
from evals.suites.task_files import Function
from evals.suites.tasks_index import standard_tasks
from tests.fake_servers import fake_server
from tests.made_up_rows import made_up
from tests.tiny_llama import make_tiny_tokenizer

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CONTEXT = 100_000
OURS = Path(evals.__file__).parent
TEXT_KEYS = ("doc_to_text", "doc_to_target", "doc_to_choice", "process_docs", "process_results")


def kind_of(leaf: LeafTask) -> tuple[Any, ...]:
    """What tells tasks apart that may be asked otherwise: settings, filters, metrics, templates or functions."""
    filters = [one.get("function") for entry in leaf.config.get("filter_list") or [] for one in entry["filter"]]
    texts = [(key, isinstance(leaf.config[key], Function)) for key in TEXT_KEYS if key in leaf.config]
    return (json.dumps(leaf.config.get("generation_kwargs"), sort_keys=True), *map(str, (filters, leaf.metrics, texts)))


@pytest.fixture(scope="module")
def generating() -> list[LeafTask]:
    names = [name for name, entry in standard_tasks().items() if entry.path is not None and entry.kind == "task"]
    return [leaf for name in names for leaf in leaf_tasks(name) if leaf.is_generative]


def test_the_settings_of_every_task_are_read_or_refused(generating: list[LeafTask]) -> None:
    refused: Counter[str] = Counter()
    for leaf in generating:
        wanted = leaf.config.get("generation_kwargs")
        try:
            check_generation(leaf.name, wanted)
        except QuantbenchError as error:
            refused[error.what.partition("asks for ")[2]] += 1
            continue
        found = generation(leaf.name, wanted)
        sampled = bool(wanted and wanted.get("temperature") and wanted.get("do_sample") is not False)
        assert (found.temperature > 0) == sampled, leaf.name
        assert found.max_tokens == most_tokens(wanted)
    assert len(generating) > 4000
    assert dict(refused) == {"`num_beams: 10` of its generation, which the server would pass over": 6}


@pytest.fixture
def asker_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Builds a leaf task on made-up rows, through the whole way of an evaluation."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        monkeypatch.setenv(name, "1")
    make_tiny_tokenizer(tmp_path)
    questioner = Questioner(str(tmp_path), CONTEXT)
    monkeypatch.setattr(lm_eval_runner, "Questioner", lambda *_: questioner)
    logging.disable(logging.WARNING)

    with fake_server(tmp_path, "--tpot-seconds", "0", max_model_len=CONTEXT) as endpoint:

        def asker(leaf: LeafTask) -> Asker:
            metric = (leaf.metrics or ["acc"])[0]
            category = Category(
                name="one", description="", tasks=[leaf.name], metric=metric, filter=leaf.filters[0], limit=1
            )
            resolved = resolve(Suite(name="s", version="1", description="", categories=[category]))
            (task,) = resolved.tasks
            config = task.config | {"custom_dataset": lambda **_: made_up(task.config)}
            prepared = prepare(ResolvedSuite(resolved.suite, (replace(task, config=config),)))
            return Asker(prepared, endpoint, Client([endpoint], 2), lambda done, total: None)

        yield asker
    logging.disable(logging.NOTSET)


def test_one_task_of_each_kind_is_built_and_asked(generating: list[LeafTask], asker_of: Any) -> None:
    kinds: dict[tuple[Any, ...], list[LeafTask]] = defaultdict(list)
    for leaf in generating:
        kinds[kind_of(leaf)].append(leaf)
    outcomes = Counter[str]()
    for members in kinds.values():
        found = [asked(leaf, asker_of) for leaf in members[:1]]
        if found[0].outcome != "asked":
            found += [asked(leaf, asker_of) for leaf in members[1:2]]
        outcomes[found[-1].outcome] += 1
        for one in found:
            if one.outcome != "asked":
                print(f"{one.name} {one.outcome}: {one.reason}")
    print(f"{len(generating)} tasks of {len(kinds)} kinds: {dict(outcomes)}")
    # Which libraries are here and how a row is read decide about the rest; the list above says it of each.
    assert outcomes["asked"] >= 130
    assert outcomes["rows do not fit"] <= 30


class Outcome(NamedTuple):
    """What became of one task."""

    name: str
    outcome: Literal["asked", "refused", "rows do not fit"]
    reason: str = ""


def asked(leaf: LeafTask, asker_of: Any) -> Outcome:
    """Build the task and ask one item of it; an error of our own code is none of the outcomes."""
    try:
        asker = asker_of(leaf)
        (sample,) = asker.ask(asker.items)
    except QuantbenchError as error:
        return Outcome(leaf.name, "refused", error.what)
    except Exception as error:
        ours = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(str(OURS))
        assert not ours, f"{leaf.name}: {''.join(traceback.format_exception(error))}"
        return Outcome(leaf.name, "rows do not fit", f"{type(error).__name__}: {error}")
    assert sample.answer
    assert sample.answer_tokens > 1
    return Outcome(leaf.name, "asked")
