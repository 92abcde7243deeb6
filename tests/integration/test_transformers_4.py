"""Checkpoints and artifacts in the hands of transformers 4, in the environment of AutoAWQ: read and answered alike."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from quantizers.__main__ import quantize_stage
from quantizers.base import METHODS, MethodConfig, QuantizeJob, load_method
from quantizers.checkpoints.checkpoint import PrepareJob, describe, prepare
from quantizers.checkpoints.sources import FolderSource
from quantizers.methods.families import family_violations
from registry.contracts.base import Method
from registry.stage_process import StageClock
from serving_checks.processes import supervisor
from tests.tiny_families import make_tiny

pytestmark = pytest.mark.environment

ARCHITECTURES = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Each has something of its own (norms, kinds of layers, a sliding window, biases, fused projections); 4.51 has all."""
TEXT = "The capital of France is Paris, and 12 x 12 = 144."
READS = """\
import json, sys
import numpy, torch, transformers
folder, ids, text, found = sys.argv[1:]
config = transformers.AutoConfig.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
told = {"version": transformers.__version__, "dtype": str(config.torch_dtype), "ids": tokenizer(text)["input_ids"]}
told["special"] = sorted(tokenizer.all_special_tokens)
if not hasattr(config, "quantization_config"):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    with torch.inference_mode():
        numpy.save(found + ".npy", model(torch.tensor([json.loads(ids)])).logits.numpy())
open(found, "w").write(json.dumps(told))
"""
IDS = np.random.default_rng(0).integers(5, 500, 200).tolist()
"""More tokens than a sliding window has, none of them special."""


@pytest.fixture(scope="module")
def old_python() -> Iterator[Path]:
    with in_use(environment_named("autoawq", "cpu"), print) as python:
        yield python


def read_by_4(python: Path, folder: Path, work: Path) -> dict[str, Any]:
    """What transformers 4 makes of a folder: its version, dtype, the text's ids, and `logits` of `IDS`."""
    found, log_file = work / "found.json", work / "read.log"
    argv = [str(python), "-P", "-c", READS, str(folder), json.dumps(IDS), TEXT, str(found)]
    finished = supervisor.run(argv, log_file=log_file, env={"HF_HUB_OFFLINE": "1"})
    assert finished.ending.exit_code == 0, finished.ending.log_tail
    told: dict[str, Any] = json.loads(found.read_text())
    logits = Path(f"{found}.npy")
    return told | ({"logits": np.load(logits)} if logits.exists() else {})


def read_by_5(folder: Path) -> dict[str, Any]:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(torch.tensor([IDS])).logits.numpy()
    ids = tokenizer(TEXT)["input_ids"]
    return {"logits": logits, "ids": ids, "special": sorted(tokenizer.all_special_tokens)}


def prepared(source: Path, work: Path) -> Path:
    job = PrepareJob(
        stage="prepare",
        result_file=work / "result.json",
        output_dir=work / "checkpoint",
        source=FolderSource(kind="folder", path=source),
        dtype="bfloat16",
    )
    prepare(job, StageClock(work / "progress"))
    return work / "checkpoint"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "rope", [{}, {"rope_theta": 300_000.0, "rope_type": "linear", "factor": 2.0}], ids=["", "scaled"]
)
def test_a_prepared_checkpoint_answers_in_4_as_in_5(
    architecture: str, rope: dict[str, Any], old_python: Path, tmp_path: Path
) -> None:
    import transformers

    if rope and architecture == "Phi3ForCausalLM":
        pytest.skip("transformers 5 reads no rope of Phi-3 but longrope")
    source = make_tiny(architecture, tmp_path / "source")
    if architecture == "Qwen2ForCausalLM":
        # Its class brings rules of its own; a tokenizer.json with other ones is refused when it is prepared.
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(source)
    if rope:
        config = json.loads((source / "config.json").read_text())
        whole = config["rope_parameters"]
        whole.get("full_attention", whole).update(rope)
        (source / "config.json").write_text(json.dumps(config))
    folder = prepared(source, tmp_path)
    ours, theirs = read_by_5(folder), read_by_4(old_python, folder, tmp_path)
    assert theirs["version"].startswith("4.")
    assert theirs["dtype"] == "torch.bfloat16"
    assert (theirs["ids"], theirs["special"]) == (ours["ids"], ours["special"])
    difference = float(np.abs(theirs["logits"] - ours["logits"]).max())
    assert difference < 1e-4 * float(np.abs(ours["logits"]).max())


@pytest.mark.parametrize("method", METHODS)
def test_an_artifact_s_config_and_tokenizer_are_read_by_4(method: Method, old_python: Path, tmp_path: Path) -> None:
    if load_method(method).environment != "main":
        pytest.skip("made by transformers 4 itself; tests/integration/test_families.py reads it by 5")
    checkpoint_dir = prepared(make_tiny("LlamaForCausalLM", tmp_path / "source"), tmp_path)
    checkpoint = describe(checkpoint_dir, origin="a random Llama")
    assert family_violations(MethodConfig(method=method), checkpoint.architecture) == []
    (tmp_path / "rows.json").write_text(json.dumps([IDS[:64], IDS[64:128]] * 8))
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    parameters = {"group_size": 64} if "group_size" in load_method(method).config_type.model_fields else {}
    job = QuantizeJob(
        stage="quantize",
        result_file=tmp_path / "result.json",
        output_dir=artifact,
        name=method,
        config={"method": method, **parameters},  # type: ignore[arg-type]
        checkpoint_dir=checkpoint_dir,
        checkpoint=checkpoint,
        calibration_dir=tmp_path,
        calibration_digest="sha256:0",
        device="cpu",
        dtype="float32" if load_method(method).needs_calibration else "bfloat16",
        threads=1,
    )
    quantize_stage(job, StageClock(tmp_path / "progress"))
    told, source = read_by_4(old_python, artifact, tmp_path), read_by_4(old_python, checkpoint_dir, tmp_path)
    assert told["dtype"] == "torch.bfloat16"
    assert (told["ids"], told["special"]) == (source["ids"], source["special"])
