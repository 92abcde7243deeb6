"""GPTQ and AWQ by the real engine on a tiny random Llama."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import StageError
from quantizers.base import QuantizeOutcome
from quantizers.methods import awq, gptq
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine

LINEARS = 14
"""Linears of the tiny model's two layers."""


class Job(SimpleNamespace):
    """The fields of a QuantizeJob that a method reads."""

    precision = None
    kept_dir = None
    left_alone: list[str] = []

    @property
    def quantized_linears(self) -> dict[str, Any]:
        shapes: dict[str, Any] = self.checkpoint.linear_shapes
        return shapes

    def model_copy(self, update: dict[str, Any]) -> "Job":
        return Job(**{**vars(self), **update})


class Clock:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None, int | None]] = []

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        self.seen.append((name, None, None))
        return contextlib.nullcontext()

    def progress(self, part: str, done: int | None = None, total: int | None = None) -> None:
        self.seen.append((part, done, total))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny") / "checkpoint")


def quantize(
    method: Any, config: Any, checkpoint: Path, workplace: Path, **changes: Any
) -> tuple[QuantizeOutcome, Any]:
    from safetensors import safe_open

    (workplace / "output").mkdir(parents=True)
    (workplace / "calibration").mkdir()
    rows = [[4 + (row * 37 + column * column * 11) % 296 for column in range(64)] for row in range(16)]
    (workplace / "calibration" / "rows.json").write_text(json.dumps(rows))
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        shapes = {
            name.removesuffix(".weight"): tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118 (not a dict)
            if name.endswith("_proj.weight")
        }
    job = Job(
        name="tiny",
        config=config,
        checkpoint_dir=checkpoint,
        checkpoint=SimpleNamespace(linear_shapes=shapes, left_whole=[], dtype="bfloat16"),
        calibration_dir=workplace / "calibration",
        output_dir=workplace / "output",
        device="cpu",
        dtype="float32",
        threads=2,
    )
    clock = Clock()
    job = job.model_copy(changes)
    return method.quantize(job, clock), clock


def tensors(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


@pytest.fixture(scope="module")
def gptq_artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, QuantizeOutcome, Clock]:
    workplace = tmp_path_factory.mktemp("gptq")
    outcome, clock = quantize(gptq.GPTQ(), gptq.Config(group_size=64), checkpoint, workplace)
    return workplace, outcome, clock


def test_gptq_reports_every_module(gptq_artifact: tuple[Path, QuantizeOutcome, Clock]):
    _, outcome, clock = gptq_artifact
    assert len({module.name for module in outcome.modules}) == LINEARS
    assert all(module.loss is not None and module.loss > 0 for module in outcome.modules)
    assert not any(module.fallback for module in outcome.modules)
    assert outcome.engine == "gptqmodel"
    assert set(outcome.versions) == {"gptqmodel", "torch", "transformers"}
    assert [seen for seen in clock.seen if seen[1] is not None] == [("quantize", 1, 2), ("quantize", 2, 2)]


def test_gptq_artifact_is_complete_and_nothing_else(
    gptq_artifact: tuple[Path, QuantizeOutcome, Clock], checkpoint: Path
):
    workplace, _, _ = gptq_artifact
    output = workplace / "output"
    assert {path.name for path in workplace.iterdir()} == {"output", "calibration"}
    assert not (output / "quant_log.csv").exists()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (output / name).read_bytes() == (checkpoint / name).read_bytes()
    quantization = json.loads((output / "config.json").read_text())["quantization_config"]
    assert (quantization["quant_method"], quantization["bits"], quantization["group_size"]) == ("gptq", 4, 64)
    assert str(workplace) not in (output / "config.json").read_text()
    saved = tensors(output)
    assert sum(name.endswith(".qweight") for name in saved) == LINEARS
    assert str(saved["model.embed_tokens.weight"].dtype) == "torch.bfloat16"


def test_gptq_in_one_pass_equals_the_engines_own(
    gptq_artifact: tuple[Path, QuantizeOutcome, Clock],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    import torch

    monkeypatch.setattr("quantizers.engines.gptq_forward.one_forward_pass", contextlib.nullcontext)
    theirs, _ = quantize(gptq.GPTQ(), gptq.Config(group_size=64), checkpoint, tmp_path)
    ours = gptq_artifact[1]
    assert theirs.modules == ours.modules
    expected, found = tensors(tmp_path / "output"), tensors(gptq_artifact[0] / "output")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_on_cuda_the_inspection_names_a_kernel_that_takes_every_shape(
    gptq_artifact: tuple[Path, QuantizeOutcome, Clock], checkpoint: Path, tmp_path: Path
):
    """On a Hopper GPU the engine's own choice refuses a layer of 192 rows; here its kernel is at least taken."""
    import torch
    from transformers import AutoModelForCausalLM

    from quantizers.inspection.inspection import _config_to_reload

    quantize(awq.AWQ(), awq.Config(group_size=64), checkpoint, tmp_path)
    kernels = {"TorchLinear": gptq_artifact[0] / "output", "AwqTorchLinear": tmp_path / "output"}
    for kernel, artifact in kernels.items():
        assert "backend" not in _config_to_reload(artifact, "cpu").quantization_config
        model = AutoModelForCausalLM.from_pretrained(
            artifact, config=_config_to_reload(artifact, "cuda"), dtype=torch.bfloat16, device_map="cpu"
        )
        assert type(model.model.layers[0].mlp.up_proj).__name__ == kernel
        assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_awq_weights_agree_with_the_source(checkpoint: Path, tmp_path: Path, dtype: str):
    import torch

    outcome, _ = quantize(awq.AWQ(), awq.Config(group_size=64), checkpoint, tmp_path, dtype=dtype)
    assert len(outcome.modules) == LINEARS
    source, found = tensors(checkpoint), tensors(tmp_path / "output")
    # o_proj follows no norm and, with grouped key-value heads, is not scaled: its weights compare as they are.
    name = "model.layers.0.self_attn.o_proj"
    order = [0, 4, 1, 5, 2, 6, 3, 7]

    def unpack(packed: torch.Tensor) -> torch.Tensor:
        return torch.stack([(packed >> (4 * nibble)) & 15 for nibble in order], dim=2).flatten(1)

    group = torch.arange(128) // 64
    zeros, scales = unpack(found[f"{name}.qzeros"]), found[f"{name}.scales"].float()
    dequantized = ((unpack(found[f"{name}.qweight"]) - zeros[group]) * scales[group]).T
    pair = torch.stack([dequantized.flatten(), source[f"{name}.weight"].float().flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.98


def test_an_engine_failure_is_explained(checkpoint: Path, tmp_path: Path):
    with pytest.raises(StageError, match="gave up"):
        quantize(gptq.GPTQ(), gptq.Config(group_size=64), checkpoint, tmp_path, dtype="int8")
    assert {path.name for path in tmp_path.iterdir()} == {"output", "calibration"}
