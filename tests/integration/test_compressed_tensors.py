"""Round-to-nearest through compressed-tensors: nearest levels, equal bytes each time, read by transformers as by us."""

from pathlib import Path
from typing import Any

import pytest

from quantizers.__main__ import quantize_stage
from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.sources import read_config
from quantizers.inspection.dequantize import TensorFiles, dequantize
from registry.contracts import ArtifactRecord, CheckpointRecord
from registry.stage_process import StageClock
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine

ENTRIES: dict[str, dict[str, Any]] = {
    "symmetric": {"method": "rtn", "group_size": 64},
    "asymmetric": {"method": "rtn", "group_size": 32, "symmetric": False},
    "row": {"method": "rtn", "group_size": -1},
    "8 bits": {"method": "rtn", "bits": 8, "group_size": 64, "symmetric": False},
    "w8a8": {"method": "w8a8"},
    "fp8": {"method": "fp8"},
}
LEVELS = {"symmetric": 15, "asymmetric": 15, "row": 15, "8 bits": 255, "w8a8": 255}
_SCALE_ROUNDING = 2**-9
"""Of a scale that is stored in bfloat16, relative."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRecord:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return describe(folder, origin=str(folder))


def quantized(checkpoint: CheckpointRecord, entry: dict[str, Any], output: Path) -> ArtifactRecord:
    output.mkdir()
    job = QuantizeJob(
        stage="quantize",
        result_file=output.parent / "result.json",
        output_dir=output,
        name="mine",
        config=entry,  # type: ignore[arg-type]
        checkpoint_dir=Path(checkpoint.origin),
        checkpoint=checkpoint,
        calibration_dir=None,
        calibration_digest=None,
        device="cpu",
        dtype="bfloat16",
        threads=1,
    )
    return ArtifactRecord.model_validate(quantize_stage(job, StageClock(output.parent / "progress")).record)


@pytest.mark.parametrize("kind", list(LEVELS))
def test_every_weight_is_its_group_s_nearest_level(checkpoint: CheckpointRecord, kind: str, tmp_path: Path) -> None:
    entry = ENTRIES[kind]
    quantized(checkpoint, entry, tmp_path / "artifact")
    config = read_config(tmp_path / "artifact")["quantization_config"]
    with TensorFiles(Path(checkpoint.origin)) as source, TensorFiles(tmp_path / "artifact") as artifact:
        for module, (_, inputs) in checkpoint.linear_shapes.items():
            group = entry.get("group_size", -1)
            original = source.read(f"{module}.weight").float().unflatten(1, (-1, group if group > 0 else inputs))
            restored = dequantize(artifact, module, entry["method"], config).view_as(original)
            low, high = original.amin(-1), original.amax(-1)
            symmetric = entry.get("symmetric", True)
            step = (2 * original.abs().amax(-1) if symmetric else high - low) / LEVELS[kind]
            # Half a step; a rounded scale moves the levels at the ends, and a zero point is a whole number.
            most = step * ((0.5 if symmetric else 1.0) + LEVELS[kind] * _SCALE_ROUNDING)
            assert bool(((restored - original).abs() <= most[..., None]).all()), module
            assert float((restored - original).norm() / original.norm()) < (0.2 if LEVELS[kind] == 15 else 0.02)


def test_fp8_keeps_three_bits_behind_the_point(checkpoint: CheckpointRecord, tmp_path: Path) -> None:
    quantized(checkpoint, ENTRIES["fp8"], tmp_path / "artifact")
    with TensorFiles(Path(checkpoint.origin)) as source, TensorFiles(tmp_path / "artifact") as artifact:
        for module in checkpoint.linear_shapes:
            original = source.read(f"{module}.weight").float()
            restored = dequantize(artifact, module, "fp8", {})
            # Half of the last bit of each number, and of the smallest step that numbers near zero have, 2^-9 of 448.
            smallest = original.abs().amax(1, keepdim=True) / 448 * 2**-10
            assert bool(((restored - original).abs() <= original.abs() * (2**-4 + 2**-8) + smallest * 1.01).all())


def test_the_same_weights_give_the_same_bytes(checkpoint: CheckpointRecord, tmp_path: Path) -> None:
    one, other = (quantized(checkpoint, ENTRIES["symmetric"], tmp_path / name) for name in ("one", "other"))
    assert one.digest == other.digest


@pytest.mark.parametrize("kind", list(ENTRIES))
def test_transformers_reads_the_weights_that_are_inspected(
    checkpoint: CheckpointRecord, kind: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "artifact"
    quantized(checkpoint, ENTRIES[kind], folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        model(torch.tensor([[5, 6, 7]]))  # The first pass unpacks.
    config = read_config(folder)["quantization_config"]
    with TensorFiles(folder) as artifact:
        for module in checkpoint.linear_shapes:
            read = model.get_submodule(module).weight.float()
            torch.testing.assert_close(read, dequantize(artifact, module, ENTRIES[kind]["method"], config))
