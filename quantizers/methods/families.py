"""Which methods cannot make a model of which architecture: what was found by trying, and what other engines know."""

from quantizers.base import MethodConfig
from quantizers.checkpoints.architectures import architecture_table
from registry.contracts.base import Method

MADE_BY_OTHER_ENGINES: dict[Method, frozenset[str]] = {
    "awq_autoawq": frozenset(
        {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM"}
    ),
    "gptq_autogptq": frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}),
}
"""What engines in environments of their own know of what is supported here, and make soundly. AutoAWQ's
(awq/models/auto.py) are each made by a test, AutoGPTQ's (auto_gptq/modeling/_const.py) need CUDA. AutoAWQ scales
Phi-3's fused Linears as if they were single ones."""


def family_violations(entry: MethodConfig, architecture: str) -> list[str]:
    """Why `entry` is not for models of `architecture`; empty where it is, or where that is not known yet ("")."""
    method = entry.method
    makes = MADE_BY_OTHER_ENGINES.get(method)
    if makes is not None and architecture and architecture not in makes:
        return [f"{method} is not for {architecture}: its engine makes {', '.join(sorted(makes))}; leave it out"]
    row = architecture_table().architectures.get(architecture)
    if row is None:
        return []
    if method in row.refused:
        because = row.refused[method]
        return [f"{method} is not for {architecture}: {because}; leave it out, other methods take this model"]
    if row.unsmoothed and getattr(entry, "smoothing_strength", None) is not None:
        return [f"{method} does not smooth {architecture}: {row.unsmoothed}; set smoothing_strength to null"]
    return []
