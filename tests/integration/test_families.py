"""Two dozen of the table's architectures by every method: made and sound, or refused before work; served and scored.

`tools/model_table.py` makes all that there are, in half an hour; here are those that differ, or are asked for most.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.errors import StageError
from pipelines.environments.definition import MAIN
from quantizers.base import METHODS, MethodConfig, load_method
from quantizers.checkpoints.architectures import architecture_table
from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.expert_names import is_router
from quantizers.engines.gptqmodel_engine import import_engine
from quantizers.methods.families import MADE_BY_OTHER_ENGINES, family_violations
from registry.contracts.base import Method
from tests import stage_in_environment
from tests.model_trial import apart, check_sound, made_and_inspected, token_ids, trial
from tests.tiny_families import make_tiny_of

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.thorough]

OWN = [method for method in METHODS if load_method(method).environment == MAIN]
TRIED_ELSEWHERE = ("Qwen2ForCausalLM", "Gemma2ForCausalLM", "MixtralForCausalLM")
"""With biases, with norms in other places, and with experts; a Llama is made in each engine's own tests."""
OF_LLAMA_CPP = (
    *TRIED_ELSEWHERE,
    *("Cohere2ForCausalLM", "Gemma3ForCausalLM", "GemmaForCausalLM", "GraniteForCausalLM", "MiniCPM3ForCausalLM"),
    *("Olmo3ForCausalLM", "Phi3ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
    *("Qwen3_5ForCausalLM", "SmolLM3ForCausalLM", "StableLmForCausalLM"),
)
"""Which differ in their tensors' names, rows or metadata, or in their tokenizer."""
ELSEWHERE = [
    (architecture, method)
    for method in METHODS
    if method not in (*OWN, "gptq_autogptq")  # AutoGPTQ asks for CUDA.
    for architecture in sorted(OF_LLAMA_CPP if method == "gguf" else MADE_BY_OTHER_ENGINES.get(method, TRIED_ELSEWHERE))
]
"""What is made in environments of other engines, each by a process that imports for a quarter of a minute."""
DENSE = (
    "CohereForCausalLM",
    "Exaone4ForCausalLM",
    "GPTNeoXForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3nForCausalLM",
    "Gemma4ForCausalLM",
    "GemmaForCausalLM",
    "Glm4ForCausalLM",
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Olmo2ForCausalLM",
    "Olmo3ForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3_5ForCausalLM",
    "SmolLM3ForCausalLM",
    "Starcoder2ForCausalLM",
)
SERVED_AS: dict[str, Method] = {
    **{"Phi3ForCausalLM": "gptq", "Glm4ForCausalLM": "awq"},
    **{"Gemma4ForCausalLM": "gptq", "Qwen3_5ForCausalLM": "awq"},
}
"""Whose MLPs have one matrix where GPTQModel would make two, or which have Linears that no method rounds; of all others
round-to-nearest is served."""
MIXTURES = ("MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "Qwen3_5MoeForCausalLM")
TABLE = architecture_table().architectures


@pytest.fixture(scope="module", autouse=True)
def engines() -> None:
    """Imported once. They work in forks alone: what has worked leaves threads and locks that no fork has, and GPTQModel
    leaves other classes in transformers."""
    import_engine(1)


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("architecture", DENSE)
def test_it_is_made_and_found_sound_or_refused(architecture: str, method: Method) -> None:
    if refused := family_violations(MethodConfig(method=method), architecture):
        assert method in refused[0]
    else:
        apart(lambda: trial(TABLE[architecture].model_type, method))


@pytest.mark.environment
@pytest.mark.parametrize(("architecture", "method"), ELSEWHERE)
def test_other_engines_make_it_too_or_it_is_refused(architecture: str, method: Method) -> None:
    if not family_violations(MethodConfig(method=method), architecture):
        stage_in_environment.trial(TABLE[architecture].model_type, method)


@pytest.mark.parametrize("method", ["gptq", "awq", "rtn", "w8a8"])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixture_of_experts_is_made_or_refused(architecture: str, method: Method, tmp_path: Path) -> None:
    apart(lambda: make_mixture(architecture, method, tmp_path))


def make_mixture(architecture: str, method: Method, room: Path) -> None:
    if family_violations(MethodConfig(method=method), architecture):
        return
    folder = make_tiny_of(TABLE[architecture].model_type, room / "model")
    record = describe(folder, origin=str(folder))
    assert not [name for name in record.linear_shapes if is_router(name)]
    (room / "work").mkdir()
    made, found = made_and_inspected(record, method, room / "work")
    check_sound(record, made, found, room / "work" / "artifact")
    told = {check.name: check.detail for check in found.checks}
    assert "0 of them saw no calibration token" in told["experts"]
    assert "have their names" in told["expert_names"]


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_experts_that_saw_no_token_are_refused_or_told(method: Method, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_a_draft_head_may_be_left_behind(method: Method, tmp_path: Path) -> None:
    """Which transformers passes over: it writes none, and GPTQModel carries it along."""
    apart(lambda: make_beside_a_draft_head(method, tmp_path))


def make_beside_a_draft_head(method: Method, room: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_tiny_of("qwen3_5_text", room / "model")
    tensors = load_file(folder / "model.safetensors") | {"mtp.fc.weight": torch.rand(256, 256).bfloat16()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    record = describe(folder, origin=str(folder))
    (room / "work").mkdir()
    made, found = made_and_inspected(record, method, room / "work")
    check_sound(record, made, found, room / "work" / "artifact")


def test_they_are_served_and_score_as_transformers_says(tmp_path: Path) -> None:
    """Two dozen architectures in one engine process, each rounded; as it is where nobody here serves or makes that."""
    folders: dict[str, Path] = {}
    own: dict[str, list[float]] = {}
    tokens = token_ids(1, 40)[0]
    for architecture, method in SERVED_AS.items():
        folders[architecture], work = tiny(architecture, tmp_path)
        own[architecture] = apart(
            lambda source=folders[architecture], to=work, by=method: scored(source, by, to, tokens)
        )
        folders[architecture] = work / "artifact"
    # Last in this file: here the engines work in this process.
    for architecture in (*DENSE, *MIXTURES):
        if architecture in folders:
            continue
        folders[architecture], work = tiny(architecture, tmp_path)
        if architecture in MIXTURES or "rtn" in TABLE[architecture].refused:
            continue
        own[architecture] = scored(folders[architecture], "rtn", work, tokens)
        folders[architecture] = work / "artifact"
    job = {"folders": [str(one) for one in folders.values()], "tokens": tokens, "answers": str(tmp_path / "answers")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    subprocess.run([sys.executable, "-m", "tests.served_models", str(tmp_path / "job.json")], check=True)
    answers = json.loads((tmp_path / "answers").read_text())
    unlike = {}
    for name, folder in folders.items():
        served = answers[str(folder)]
        wanted = own.get(name) or own_logprobs(folder, tokens)
        if isinstance(served, str) or abs(np.mean(served) - np.mean(wanted)) > 0.05:
            unlike[name] = served if isinstance(served, str) else np.mean(served)
    assert unlike == {}


def tiny(architecture: str, room: Path) -> tuple[Path, Path]:
    """A tiny model's folder, and an empty one beside it."""
    folder = make_tiny_of(TABLE[architecture].model_type, room / architecture / "model")
    (room / architecture / "work").mkdir()
    return folder, room / architecture / "work"


def scored(source: Path, method: Method, work: Path, tokens: list[int]) -> list[float]:
    """Make an artifact below `work`, and score by it."""
    made_and_inspected(describe(source, origin=str(source)), method, work)
    return own_logprobs(work / "artifact", tokens)


def own_logprobs(folder: Path, tokens: list[int]) -> list[float]:
    """Of each token but the first, through transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu")
        logprobs = model(torch.tensor([tokens])).logits[0, :-1].float().log_softmax(-1)
    own: list[float] = logprobs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
    return own
