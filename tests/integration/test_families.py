"""Every architecture of the table, by every method: made and sound, or refused before work; then served and scored."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.errors import StageError
from pipelines.environments.definition import MAIN, environment_named
from pipelines.execution.stage_job import run_job
from quantizers.base import METHODS, load_method
from quantizers.checkpoints.architectures import architecture_table
from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.expert_names import has_experts, is_router
from quantizers.engines.gptqmodel_engine import import_engine
from quantizers.methods.families import family_violations
from registry.contracts import ArtifactRecord, CheckpointRecord
from registry.contracts.base import Method, format_of
from serving_checks.processes.pulse import UNBOUNDED
from tests.model_trial import apart, inspected, made_and_inspected, quantize_job, relative_error, token_ids
from tests.tiny_families import make_tiny_of

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.thorough]

MOST_ERROR = 0.45
"""Of the logits, relative to the source's; see tools/model_table.py."""

METHODS_AND_MARKS = [
    pytest.param(method, marks=[] if load_method(method).environment == MAIN else pytest.mark.environment)
    for method in METHODS
    if method != "gguf"  # another format and other architectures: tests/integration/test_gguf.py
]
# GPTQModel leaves other classes in transformers once it has loaded a mixture of experts: dense models come first.
ARCHITECTURES = sorted(
    architecture_table().architectures, key=lambda name: architecture_table().architectures[name].experts
)
MIXTURE = {name for name, one in architecture_table().architectures.items() if one.experts}


@pytest.fixture(scope="module", params=[name for name in ARCHITECTURES if name not in MIXTURE])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRecord:
    folder = make_tiny_of(
        architecture_table().architectures[request.param].model_type, tmp_path_factory.mktemp("family") / "model"
    )
    return describe(folder, origin=str(folder))


def test_fifteen_architectures_are_here() -> None:
    assert len(ARCHITECTURES) >= 15
    assert {"MixtralForCausalLM", "Qwen3MoeForCausalLM"} <= MIXTURE


@pytest.mark.parametrize("method", METHODS_AND_MARKS)
def test_it_is_made_and_found_sound_or_refused(checkpoint: CheckpointRecord, method: Method, tmp_path: Path) -> None:
    if refused := family_violations(method, checkpoint.architecture):
        assert method in refused[0]
        return
    if method == "gptq_autogptq":
        pytest.skip("AutoGPTQ quantizes with CUDA only")
    environment = load_method(method).environment
    if environment == MAIN:
        made, found = made_and_inspected(checkpoint, method, tmp_path)
    else:
        job = quantize_job(checkpoint, method, tmp_path)
        result = run_job(
            job,
            "quantizers",
            job.name,
            job.result_file.with_suffix(".log"),
            env={},
            patience=UNBOUNDED,
            on_progress=lambda _: None,
            interpreter=environment_named(environment, "cpu"),
        )
        made = ArtifactRecord.model_validate(result.record)
        found = inspected(job, made)
    assert {module.name for module in made.quantized_modules} == set(checkpoint.linear_shapes)
    assert [check for check in found.checks if not check.passed] == []
    error = relative_error(
        Path(checkpoint.origin),
        tmp_path / "artifact",
        format_of(method),
        experts=has_experts(checkpoint.linear_shapes),
    )
    assert error < MOST_ERROR


@pytest.mark.parametrize("method", ["gptq", "awq", "rtn"])
@pytest.mark.parametrize("architecture", sorted(MIXTURE))
def test_a_mixture_of_experts_is_made_or_refused(architecture: str, method: Method, tmp_path: Path) -> None:
    import_engine(1)
    apart(lambda: make_mixture(architecture, method, tmp_path))


def make_mixture(architecture: str, method: Method, room: Path) -> None:
    """In a process of its own, since GPTQModel leaves other classes of mixtures in transformers."""
    if family_violations(method, architecture):
        return
    folder = make_tiny_of(architecture_table().architectures[architecture].model_type, room / "model")
    record = describe(folder, origin=str(folder))
    assert not [name for name in record.linear_shapes if is_router(name)]
    (room / "work").mkdir()
    made, found = made_and_inspected(record, method, room / "work")
    assert {module.name for module in made.quantized_modules} == set(record.linear_shapes)
    assert [check for check in found.checks if not check.passed] == []
    (told,) = [check for check in found.checks if check.name == "experts"]
    assert "0 of them saw no calibration token" in told.detail
    assert relative_error(folder, room / "work" / "artifact", format_of(method), experts=True) < MOST_ERROR


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_experts_that_saw_no_token_are_refused_or_told(method: Method, tmp_path: Path) -> None:
    import_engine(1)
    apart(lambda: leave_an_expert_out(method, tmp_path))


def leave_an_expert_out(method: Method, room: Path) -> None:
    """The last expert's score is zero and another's never below it: one expert a token, so nobody is sent there."""
    folder = make_tiny_of("qwen3_moe", room / "model", lonely_expert=True)
    record = describe(folder, origin=str(folder))
    (room / "refused").mkdir()
    with pytest.raises(StageError, match="no calibration token reached 2 of 8 experts") as refused:
        made_and_inspected(record, method, room / "refused")
    assert "unreached_experts: round" in refused.value.remedy
    if method == "awq":
        return
    (room / "rounded").mkdir()
    made, found = made_and_inspected(record, method, room / "rounded", unreached_experts="round")
    assert made.fallback_count == 6
    (told,) = [check for check in found.checks if check.name == "experts"]
    assert told.passed
    assert "2 of them saw no calibration token and were rounded to nearest: model.layers.0.mlp.experts.3" in told.detail


def test_they_are_served_and_score_as_transformers_says(tmp_path: Path) -> None:
    """Fifteen architectures in one engine process, each as it is, the dense ones rounded too."""
    folders: dict[str, Path] = {}
    for architecture in ARCHITECTURES:
        row = architecture_table().architectures[architecture]
        folders[architecture] = make_tiny_of(row.model_type, tmp_path / architecture / "model")
        if architecture in MIXTURE or "rtn" in row.refused:
            continue
        record = describe(folders[architecture], origin=str(folders[architecture]))
        work = tmp_path / architecture / "work"
        work.mkdir()
        made_and_inspected(record, "rtn", work)
        folders[f"{architecture}, rounded"] = work / "artifact"
    tokens = token_ids(1, 40)[0]
    job = {"folders": [str(one) for one in folders.values()], "tokens": tokens, "answers": str(tmp_path / "answers")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    subprocess.run([sys.executable, "-m", "tests.served_models", str(tmp_path / "job.json")], check=True)
    answers = json.loads((tmp_path / "answers").read_text())
    unlike = {}
    for name, folder in folders.items():
        served = answers[str(folder)]
        if isinstance(served, str) or abs(np.mean(served) - np.mean(own_logprobs(folder, tokens))) > 0.05:
            unlike[name] = served if isinstance(served, str) else np.mean(served)
    assert unlike == {}


def own_logprobs(folder: Path, tokens: list[int]) -> list[float]:
    """Of each token but the first, through transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
        logprobs = model(torch.tensor([tokens])).logits[0, :-1].float().log_softmax(-1)
    own: list[float] = logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    return own
