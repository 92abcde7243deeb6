"""Gates: Linears of a few numbers a token, which say where it goes or how much of it counts, and stay in 16 bits.

A mixture's routers, the decay and strength of linear attention (Qwen3-Next, Qwen3.5), the weights of an indexer's heads
(DeepSeek V3.2), what mixes parallel streams (Gemma 3n). They are thousandths of a model's weights, and all that follows
hangs on them. GPTQModel's definitions leave them out, as releases in FP8 do; vLLM has some of them in 16 bits whatever
an artifact says (vllm/model_executor/models/deepseek_v2.py, `Indexer`). All methods here but llama.cpp's leave them
alone, so that these compare.
"""

from quantizers.checkpoints.expert_names import ROUTERS

GATES = ROUTERS | {
    *("in_proj_a", "in_proj_b", "in_proj_ba", "weights_proj"),
    *("modality_router", "prediction_coefs", "correction_coefs"),
}
GATE_PATTERN = rf"re:.*\.({'|'.join(sorted(GATES))})(\.[^.]+)?$"
"""Of modules for which `is_gate` holds, in compressed-tensors' terms."""


def is_gate(module: str) -> bool:
    """Whether a module of this name is a gate, or a part of one."""
    return not GATES.isdisjoint(module.split(".")[-2:])
