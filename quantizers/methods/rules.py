"""Rules about shapes that several methods share. All are pure finders: sentences out, nothing raised.

Policy: whatever the quantizing engine or the serving engine would refuse later is an error now, with every layer named;
whatever only costs speed is not. Finder and raiser (`quantizers.base.check_rules`) are apart, so that a plan can show
all violations of all methods together.
"""

import re
from collections.abc import Mapping, Sequence

from quantizers.base import LinearShapes
from quantizers.precision.units import fused_name
from registry.contracts import CheckpointRecord
from registry.contracts.base import Device

GROUP_SIZES = (128, 64, 32)
"""Group sizes with kernels in vLLM (model_executor/layers/quantization/auto_gptq.py, auto_awq.py), widest first."""

_ROW_PARALLEL = ("o_proj", "down_proj", "dense", "fc2")
"""Linears whose inputs vLLM splits over the tensor-parallel ranks; all others have their outputs split."""

_INT32_BITS = 32

_CPU_KERNEL_MULTIPLE = 32


def shard_shape(name: str, shape: tuple[int, int], tensor_parallel: int) -> tuple[float, float]:
    """(out_features, in_features) that one rank holds; a fraction where the split does not come out even."""
    out_features, in_features = shape
    if name.rsplit(".", 1)[-1] in _ROW_PARALLEL:
        return out_features, in_features / tensor_parallel
    return out_features / tensor_parallel, in_features


def packed_violations(
    linear_shapes: LinearShapes, bits: int, group_size: int, tensor_parallel: int, device: Device
) -> list[str]:
    """Layers that weights packed in groups are not made of, or not served of: groups, words and the CPU's kernel."""
    return [
        *group_size_violations(linear_shapes, group_size, tensor_parallel),
        *packing_violations(linear_shapes, bits, tensor_parallel),
        *cpu_kernel_violations(linear_shapes, tensor_parallel, device),
    ]


def group_size_violations(linear_shapes: LinearShapes, group_size: int, tensor_parallel: int) -> list[str]:
    """Layers whose rows cannot be cut into whole groups, on one rank or after the tensor-parallel split.

    Args:
        linear_shapes: Module name -> (out_features, in_features).
        group_size: Weights that share a scale along in_features; -1 is one group a row, which fits on one rank only
            as far as the row itself does and is not judged here.
        tensor_parallel: Ranks that the artifact is going to be served on.
    """
    if group_size == -1:
        return []
    unfit = {
        name: shard_shape(name, shape, tensor_parallel)[1]
        for name, shape in linear_shapes.items()
        if shard_shape(name, shape, tensor_parallel)[1] % group_size
    }
    if not unfit:
        return []
    fitting = [
        size
        for size in GROUP_SIZES
        if not any(shard_shape(name, shape, tensor_parallel)[1] % size for name, shape in linear_shapes.items())
    ]
    remedy = f"use group_size {fitting[0]}" if fitting else "use group_size -1 or fewer tensor-parallel ranks"
    split = f" on each of {tensor_parallel} tensor-parallel ranks" if tensor_parallel > 1 else ""
    return [
        f"group_size {group_size} does not divide the {features:g} inputs of {layers}{split}; {remedy}"
        for layers, features in _summarize(unfit)
    ]


def packing_violations(linear_shapes: LinearShapes, bits: int, tensor_parallel: int) -> list[str]:
    """Layers whose outputs or inputs do not fill whole 32-bit words of packed `bits`-bit weights."""
    per_word = _INT32_BITS // bits
    unfit: dict[str, float] = {}
    for name, shape in linear_shapes.items():
        for features in shard_shape(name, shape, tensor_parallel):
            if features % per_word:
                unfit[name] = features
    return [
        f"{features:g} features of {layers} do not fill words of {per_word} packed {bits}-bit weights"
        f" at tensor parallel {tensor_parallel}; use fewer tensor-parallel ranks or a bitsandbytes method"
        for layers, features in _summarize(unfit)
    ]


def cpu_kernel_violations(linear_shapes: LinearShapes, tensor_parallel: int, device: Device) -> list[str]:
    """Layers that vLLM's CPU kernel for packed 4-bit weights does not take.

    It wants multiples of 32 on both sides (vllm/model_executor/kernels/linear/mixed_precision/cpu.py), and sees what
    vLLM loads as one matrix: queries, keys and values, and a gated layer's two inputs.
    """
    if device != "cpu":
        return []
    outputs: dict[str, float] = {}
    unfit: dict[str, float] = {}
    for name, shape in linear_shapes.items():
        rows, columns = shard_shape(name, shape, tensor_parallel)
        if columns % _CPU_KERNEL_MULTIPLE:
            unfit[name] = columns
        outputs[fused_name(name)] = outputs.get(fused_name(name), 0) + rows
    unfit |= {name: features for name, features in outputs.items() if features % _CPU_KERNEL_MULTIPLE}
    return [
        f"the CPU kernel for packed weights takes multiples of {_CPU_KERNEL_MULTIPLE} features, and {layers} has"
        f" {features:g} at tensor parallel {tensor_parallel}; use a bitsandbytes method, or serve on a GPU"
        for layers, features in _summarize(unfit)
    ]


def range_violations(beyond_float16: Mapping[str, float], dtypes: Sequence[str], why: str = "") -> list[str]:
    """Weights that float16 cannot hold, where one of `dtypes` is float16.

    Args:
        beyond_float16: Tensor name -> its largest magnitude, of those that exceed float16.
        dtypes: What the weights are going to be held in.
        why: Goes behind the word float16.
    """
    if "float16" not in dtypes or not beyond_float16:
        return []
    worst = max(beyond_float16, key=lambda name: beyond_float16[name])
    more = f" and {len(beyond_float16) - 1} more tensors" if len(beyond_float16) > 1 else ""
    return [
        f"the weights of {worst}{more} reach {beyond_float16[worst]:g}, and float16{why} ends at 65504; take bnb_nf4"
        " with compute_dtype bfloat16, and bfloat16 wherever the recipe names a dtype"
    ]


def tensor_parallel_violations(checkpoint: CheckpointRecord, tensor_parallel: int) -> list[str]:
    """Attention heads that cannot be dealt out evenly (vllm/config/model.py, `verify_with_parallel_config`)."""
    heads, kv_heads = checkpoint.num_attention_heads, checkpoint.num_key_value_heads
    if heads % tensor_parallel == 0 and (kv_heads % tensor_parallel == 0 or tensor_parallel % kv_heads == 0):
        return []
    fitting = [
        ranks
        for ranks in range(1, heads + 1)
        if heads % ranks == 0 and (kv_heads % ranks == 0 or ranks % kv_heads == 0)
    ]
    return [
        f"tensor parallel {tensor_parallel} cannot share {heads} attention heads and {kv_heads} key-value heads;"
        f" this model takes {', '.join(map(str, fitting))}"
    ]


def _summarize(unfit: dict[str, float]) -> list[tuple[str, float]]:
    """Layers that differ in their index only become one line: `model.layers.*.mlp.down_proj (30 layers)`."""
    kinds: dict[tuple[str, float], list[str]] = {}
    for name, features in unfit.items():
        kinds.setdefault((re.sub(r"\.\d+\.", ".*.", name), features), []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{pattern} ({len(names)} layers)", features)
        for (pattern, features), names in kinds.items()
    ]
