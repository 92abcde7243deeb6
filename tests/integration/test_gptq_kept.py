"""GPTQ goes on from the last Linear that a killed process had rounded, to the same bytes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from quantizers.__main__ import quantize_stage
from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from quantizers.engines import gptq_round
from registry.contracts import PrecisionRecord, StageResult
from registry.stage_process import StageClock
from tests.model_trial import apart, quantize_job
from tests.tiny_families import make_tiny_of
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine

LAYERS = 4
LINEARS = 7 * LAYERS
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
KILLED = """
import os, runpy, signal, sys
from quantizers.engines.gptq_kept import KeptLinears

own, left = KeptLinears.keep, [int(sys.argv.pop())]

def keep(self, name, result):
    own(self, name, result)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

KeptLinears.keep = keep
runpy.run_module("quantizers", run_name="__main__")
"""
"""The stage's own program, which is killed as soon as so many Linears more are kept."""


class Lab:
    """A model of four layers, its rows, and jobs that differ in nothing but what they keep."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = make_tiny_llama(root / "model", layers=LAYERS)
        self.checkpoint = describe(self.folder, origin="a random Llama")
        (root / "calibration").mkdir()
        rows = [[4 + (row * 37 + column * column * 11) % 296 for column in range(64)] for row in range(16)]
        (root / "calibration" / "rows.json").write_text(str(rows))

    def job(self, room: Path, kept: Path | None, **changes: Any) -> QuantizeJob:
        (room / "output").mkdir(parents=True)
        entry = {"method": "gptq", "group_size": 64} | changes.pop("config", {})
        return QuantizeJob.model_validate(
            {
                "stage": "quantize",
                "result_file": room / "stage.result.json",
                "output_dir": room / "output",
                "name": "kept",
                "config": entry,
                "checkpoint_dir": self.folder,
                "checkpoint": self.checkpoint,
                "calibration_dir": self.root / "calibration",
                "calibration_digest": "sha256:" + "0" * 64,
                "device": "cpu",
                "dtype": "float32",
                "threads": 1,
                "kept_dir": kept,
            }
            | changes
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def whole(lab: Lab) -> StageResult:
    """Of a process that nobody killed, and that kept nothing."""
    return made(lab.job(lab.root / "whole", None))


class Work:
    """What was computed: the Linears that were rounded, and those that a Hessian was made for."""

    def __init__(self) -> None:
        self.rounded: list[str] = []
        self.measured: set[str] = set()


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(1)
    from gptqmodel.quantization.gptq import GPTQ

    seen, own, add = Work(), gptq_round.quantize, GPTQ.add_batch

    def quantize(self: Any, range_search: bool) -> Any:
        seen.rounded.append(self._named_module.full_name)
        return own(self, range_search)

    def add_batch(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.measured.add(self._named_module.full_name)
        add(self, *args, **kwargs)

    monkeypatch.setattr(gptq_round, "quantize", quantize)
    monkeypatch.setattr(GPTQ, "add_batch", add_batch)
    yield seen


def made(job: QuantizeJob) -> StageResult:
    result = quantize_stage(job, StageClock(job.result_file.with_suffix(".progress")))
    assert result.record is not None
    return result.model_copy(update={"record": result.record | {"duration_seconds": 0.0}})


def files(kept: Path) -> dict[str, Path]:
    return {path.name.removesuffix(".rounded"): path for path in (kept / "1-threads").iterdir()}


def layer(index: int, *parts: str) -> list[str]:
    places = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn"}
    return [f"model.layers.{index}.{places.get(part, 'mlp')}.{part}" for part in parts]


def killed(job: QuantizeJob, after: int) -> None:
    job_file = job.result_file.with_name("job.json")
    job_file.write_text(job.model_dump_json())
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    argv = [sys.executable, "-P", "-c", KILLED, str(job_file), str(after)]
    assert subprocess.run(argv, env=env, stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
    assert not job.result_file.exists()


@pytest.mark.thorough
def test_a_mixture_of_experts_rounds_nothing_again(tmp_path: Path) -> None:
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(1)
    apart(lambda: _make_mixture_twice(tmp_path))


def _make_mixture_twice(room: Path) -> None:
    """In a fork, since GPTQModel leaves other classes in transformers; before its threads are begun in this process."""
    record = describe(make_tiny_of("qwen3_moe", room / "model"), origin=str(room / "model"))
    rounded, own, results = [], gptq_round.quantize, []

    def quantize(self: Any, range_search: bool) -> Any:
        rounded.append(self._named_module.full_name)
        return own(self, range_search)

    gptq_round.quantize = quantize
    for number, name in enumerate(("first", "second")):
        (room / name).mkdir()
        job = quantize_job(record, "gptq", room / name)
        results.append(made(job.model_copy(update={"kept_dir": room / "kept"})))
        assert len(rounded) == len(record.linear_shapes) + 3 * number
        if number == 0:
            for path in list(files(room / "kept").values())[:3]:
                path.unlink()
    assert results[0] == results[1]


@pytest.mark.thorough
def test_killed_twice_it_comes_to_the_same_bytes_and_rounds_nothing_again(
    lab: Lab, whole: StageResult, work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    killed(lab.job(tmp_path / "first", kept), after=8)
    first = files(kept)
    assert 8 <= len(first) < LINEARS
    bytes_of_first = {name: path.read_bytes() for name, path in first.items()}
    killed(lab.job(tmp_path / "second", kept), after=9)
    second = files(kept)
    assert 17 <= len(second) < LINEARS
    assert made(lab.job(tmp_path / "third", kept)) == whole
    assert sorted(work.rounded) == sorted(lab.checkpoint.linear_shapes.keys() - second.keys())
    # A group of which one is missing is measured as a whole; groups that are whole are not.
    groups = [layer(index, *group) for index in range(LAYERS) for group in GROUPS]
    assert work.measured == {name for group in groups if not set(group) <= second.keys() for name in group}
    assert {name: path.read_bytes() for name, path in files(kept).items() if name in first} == bytes_of_first
    assert files(kept).keys() == lab.checkpoint.linear_shapes.keys()
    assert f"quantize, {len(second)} of {LINEARS} Linears were kept" in capsys.readouterr().err


MIXED = PrecisionRecord(
    budget="9 bits",
    budget_bytes=1,
    expected_bytes=1,
    module_bits={
        name: 16 if name.endswith("o_proj") else 8 if ".1.mlp" in name else 4
        for index in range(LAYERS)
        for group in GROUPS
        for name in layer(index, *group)
    },
    expected_nats=0.1,
    uniform_nats=0.2,
    sensitivity_digest="sha256:s",
)


_MIXED_PRECISION = {
    "precision": MIXED,
    "config": {"mixed_precision": {"budget": "9 bits", "choices": [4, 8, 16]}},
}


@pytest.mark.parametrize(
    ("changes", "own_passes"),
    [
        pytest.param({"dtype": "bfloat16", "config": {"bits": 8}}, False, id="bfloat16, 8 bits"),
        pytest.param({"config": {"group_size": -1}}, False, id="whole rows"),
        pytest.param({"config": {"desc_act": True, "range_search": False}}, True, id="columns over groups, own passes"),
        pytest.param(_MIXED_PRECISION, False, id="mixed precision"),
        pytest.param(_MIXED_PRECISION, True, id="mixed precision, own passes"),
    ],
)
def test_what_is_missing_is_made_anew_whatever_the_config(
    lab: Lab, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], own_passes: bool
) -> None:
    """The engine's own passes are those that run on CUDA."""
    if own_passes:
        monkeypatch.setattr("quantizers.engines.gptq_forward.one_forward_pass", nullcontext)
    kept = tmp_path / "kept"
    whole = made(lab.job(tmp_path / "whole", kept, **changes))
    there = files(kept)
    assert sorted(there) == sorted(work.rounded)
    # A later layer's result holds whether or not an earlier one's file is there.
    missing = [*layer(1, "k_proj", "gate_proj", "up_proj"), *layer(2, "down_proj")]
    for name in missing:
        there[name].unlink()
    work.rounded.clear()
    work.measured.clear()
    assert made(lab.job(tmp_path / "again", kept, **changes)) == whole
    assert sorted(work.rounded) == sorted(missing)
    assert work.measured == {*layer(1, "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), *layer(2, "down_proj")}
    work.rounded.clear()
    assert made(lab.job(tmp_path / "once more", kept, **changes)) == whole
    assert work.rounded == []


def test_a_damaged_file_is_made_anew(
    lab: Lab, whole: StageResult, work: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    assert made(lab.job(tmp_path / "first", kept)) == whole
    torn, changed = (files(kept)[name] for name in layer(1, "v_proj", "o_proj"))
    torn.write_bytes(torn.read_bytes()[:-5])
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    work.rounded.clear()
    assert made(lab.job(tmp_path / "second", kept)) == whole
    assert sorted(work.rounded) == sorted(layer(1, "v_proj", "o_proj"))
    told = capsys.readouterr().err
    assert told.count("cannot be used, it is made anew: its checksum is not that of its content") == 2
