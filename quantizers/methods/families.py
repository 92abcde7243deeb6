"""Which methods cannot make a model of which architecture, as data with sources; all others are proved by a test."""

from typing import NamedTuple

from registry.contracts.base import Method

GPTQMODEL_VERSION = "7.3.6"
"""The version that the rows were read from."""


class Refusal(NamedTuple):
    """A method that would make another model of an architecture, or leave parts of it out."""

    methods: tuple[Method, ...]
    architecture: str
    because: str
    source: str
    """File, below the environment's packages, that the row was read from."""
    says: str
    """A piece of that file; when it is gone, the row has to be read anew."""


_OTHER_NORM = (
    "GPTQModel folds the scales of gate and up projection into the norm after attention, as for Llama, where this model"
    " has another norm before them"
)
REFUSALS = (
    Refusal(
        methods=("awq",),
        architecture="Gemma2ForCausalLM",
        because=_OTHER_NORM,
        source="gptqmodel/models/definitions/gemma2.py",
        says="class Gemma2QModel(LlamaQModel)",
    ),
    Refusal(
        methods=("awq",),
        architecture="Gemma3ForCausalLM",
        because=f"{_OTHER_NORM}, and calls its rotary table without the kind of layer",
        source="gptqmodel/models/definitions/gemma3.py",
        says="class Gemma3QModel(LlamaQModel)",
    ),
    Refusal(
        methods=("gptq", "awq"),
        architecture="Phi3ForCausalLM",
        because="GPTQModel leaves gate_up_proj out: it looks for gate and up projection as two Linears",
        source="gptqmodel/models/definitions/phi3.py",
        says='"mlp": ("gate_proj:0", "up_proj:0", "down_proj:1")',
    ),
)


MADE_BY_OLDER_ENGINES: dict[Method, frozenset[str]] = {
    "awq_autoawq": frozenset(
        {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM"}
    ),
    "gptq_autogptq": frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}),
}
"""What the two archived engines know of what is supported here (awq/models/auto.py, auto_gptq/modeling/_const.py), and
make soundly: AutoAWQ's are each made by a test, AutoGPTQ's need CUDA. AutoAWQ scales Phi-3's fused Linears as if they
were single ones."""


def family_violations(method: Method, architecture: str) -> list[str]:
    """Why `method` is not for models of `architecture`; empty where it is, or where that is not known yet ("")."""
    makes = MADE_BY_OLDER_ENGINES.get(method)
    if makes is not None and architecture and architecture not in makes:
        return [f"{method} is not for {architecture}: its engine makes {', '.join(sorted(makes))}; leave it out"]
    return [
        f"{method} is not for {architecture}: {row.because} ({row.source}); leave it out, other methods take this model"
        for row in REFUSALS
        if method in row.methods and architecture == row.architecture
    ]
