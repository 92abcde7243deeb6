"""What is kept of a Linear comes back bit by bit, or not at all; that it cannot be kept ends nothing."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.planning.preflight import _SPARE_BYTES
from quantizers.base import QuantizeJob
from quantizers.engines.gptq_kept import KeptLinears, Result, kept_linears
from tests.full_disk import full_disk

pytestmark = pytest.mark.engine

ROWS, COLUMNS, GROUP = 24, 64, 16
NAME = "model.layers.3.mlp.up_proj"


def rounded(dtype: str, bits: int, symmetric: bool, scale: float = 0.01) -> Result:
    """As `column_rounding` makes it: dequantized in float32, then in the Linear's dtype."""
    import torch

    generator = torch.Generator().manual_seed(bits)
    top = 2**bits - 1
    scales = torch.rand(ROWS, COLUMNS // GROUP, generator=generator).add_(0.1).mul_(scale)
    zeros = torch.full_like(scales, 2 ** (bits - 1))
    if not symmetric:
        zeros = torch.randint(0, top + 1, scales.shape, generator=generator).to(scales.dtype)
    codes = torch.randint(0, top + 1, (ROWS, COLUMNS), generator=generator).to(scales.dtype)
    codes[:, 0], codes[:, 1] = 0, top
    group_of = torch.randperm(COLUMNS, generator=generator).to(torch.int32) % (COLUMNS // GROUP)
    group = group_of.long()
    weights = codes.sub_(zeros[:, group]).mul_(scales[:, group]).to(getattr(torch, dtype))
    return Result(weights, scales, zeros, group_of, 1.5, 0.1 + 0.2, 0.05, 2**40 + 1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_linear_comes_back_bit_by_bit(tmp_path: Path, dtype: str, bits: int, symmetric: bool) -> None:
    import torch

    result = rounded(dtype, bits, symmetric)
    KeptLinears(tmp_path).keep(NAME, result)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < 2 * ROWS * COLUMNS + 2000  # a byte a weight; of so small a Linear, the rest shows
    later = KeptLinears(tmp_path)
    assert later.count() == 1
    found = later.take(NAME, torch.empty_like(result.weights))
    assert found is not None
    for mine, own in zip(found[:4], result[:4], strict=True):
        assert mine.dtype == own.dtype
        assert mine.shape == own.shape
        assert torch.equal(mine.contiguous().view(torch.uint8), own.contiguous().view(torch.uint8))
    assert found[4:] == (0.0, *result[5:])


@pytest.mark.parametrize("how", ["other weights", "a fallback", "scales beyond float16's grid"])
def test_what_would_not_come_back_is_not_kept(tmp_path: Path, how: str) -> None:
    result = rounded("float16", 4, symmetric=True, scale=1e-8 if "scales" in how else 0.01)
    if how == "other weights":
        result.weights[2, 3] += 0.001
    if how == "a fallback":
        result = result._replace(loss="rtn fallback")
    kept = KeptLinears(tmp_path)
    kept.keep(NAME, result)
    assert kept.take(NAME, result.weights) is None
    assert kept.count() == 0


def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, kept = rounded("float32", 4, symmetric=True), KeptLinears(tmp_path / "kept")
    kept.keep("first", result)
    with full_disk(tmp_path, room=0):
        kept.keep("second", result)
        kept.keep("third", result)
    told = capsys.readouterr().err
    assert told.count("no Linear is kept") == 1
    assert "No space left on device" in told
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["first.rounded"]
    assert KeptLinears(tmp_path / "kept").take("first", result.weights) is not None


def test_something_in_the_folder_s_place_is_told_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rounded").write_text("no folder")
    result, kept = rounded("float32", 4, symmetric=True), KeptLinears(tmp_path / "rounded" / "key" / "2-threads")
    for name in ("first", "second"):
        assert kept.take(name, result.weights) is None
        kept.keep(name, result)
    assert not kept.has(["first"])
    assert kept.count() == 0
    assert capsys.readouterr().err.count("\n") == 1


def test_the_artifact_s_room_is_left_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = SimpleNamespace(size_bytes=1 << 30)
    kept = kept_linears(cast(QuantizeJob, SimpleNamespace(kept_dir=tmp_path, threads=3, checkpoint=checkpoint)))
    # What a run asks for before it begins a quantization: twice the checkpoint, and something to spare.
    asked = 2 * checkpoint.size_bytes + _SPARE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=asked))
    kept.keep(NAME, rounded("float32", 4, symmetric=True))
    assert kept.count() == 0
    assert "the artifact needs room" in capsys.readouterr().err


def test_another_number_of_threads_has_a_folder_of_its_own(tmp_path: Path) -> None:
    def of(threads: int, kept_dir: Path | None = tmp_path) -> KeptLinears:
        told: Any = SimpleNamespace(kept_dir=kept_dir, threads=threads, checkpoint=SimpleNamespace(size_bytes=0))
        return kept_linears(told)

    result = rounded("float32", 4, symmetric=True)
    of(2).keep(NAME, result)
    assert (of(2).count(), of(3).count(), of(2, None).count()) == (1, 0, 0)
    assert of(3).take(NAME, result.weights) is None
    of(2, None).keep(NAME, result)
    assert of(2, None).take(NAME, result.weights) is None


def test_two_processes_do_not_stand_in_each_other_s_way(tmp_path: Path) -> None:
    """The one that is done first removes the folder under the other."""
    result, folder = rounded("float32", 4, symmetric=True), tmp_path / "kept"
    kept = KeptLinears(folder)
    kept.keep("one", result)
    kept.keep("two", result)
    assert kept.has(["one"])
    assert not kept.has(["two", "three"])
    shutil.rmtree(folder)
    assert kept.take("one", result.weights) is not None
    assert kept.take("two", result.weights) is not None  # found whole before it went
    assert kept.take("one", result.weights) is None
    kept.keep("three", result)
    assert KeptLinears(folder).has(["three"])
