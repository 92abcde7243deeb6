"""Loaded into vLLM's workers (`--worker-extension-cls`): they can be asked what they hold and how they compute."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any


class WorkerProbe:
    """Methods that vLLM adds to its worker class and that `/collective_rpc` calls by name."""

    model_runner: Any
    vllm_config: Any
    rank: int

    def rank_facts(self) -> dict[str, Any]:
        """What `serving_checks.engines.rank_facts.RankFacts` describes, as plain JSON."""
        config, model = self.vllm_config, self.model_runner.model
        tensors = tensor_bytes(model)
        return {
            "rank": self.rank,
            "pid": os.getpid(),
            "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
            "pipeline_parallel_size": config.parallel_config.pipeline_parallel_size,
            "tensor_bytes": tensors,
            "kernels": dict(Counter(kernels(model))),
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "eager": bool(config.model_config.enforce_eager),
            "prefix_caching": bool(config.cache_config.enable_prefix_caching),
            "max_num_seqs": config.scheduler_config.max_num_seqs,
        }


def tensor_bytes(model: Any) -> dict[str, int]:
    """Name -> bytes of everything that the model holds for weights, shared storage counted once.

    Parameters, buffers, what bitsandbytes hangs on a parameter beside its codes (block scales, look-up tables), and
    weights that vLLM's CPU Linears have handed over to a packed copy inside oneDNN, leaving an empty tensor behind
    (vllm/model_executor/layers/utils.py, and for 8-bit integers kernels/linear/scaled_mm/cpu.py): those are counted by
    their shape. Where such a Linear kept its own tensor, as an output layer does that may be the embedding too, there
    are two copies and both are counted.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    for name, tensor in _tensors(model):
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            found[name] = int(storage.nbytes())
    for name, module in model.named_modules():
        packed = _packed_bytes(module)
        if packed:
            found[f"{name}.weight (packed)"] = packed
    return found


def kernels(model: Any) -> Iterator[str]:
    """For each layer with a weight matrix, what multiplies by it."""
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if method is None or next(module.parameters(recurse=False), None) is None:
            continue
        if type(module).__name__ != "VocabParallelEmbedding":  # a look-up multiplies nothing
            yield _dense_operator(module) or _kernel_name(module)


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_buffers()
    for name, parameter in model.named_parameters():
        yield name, parameter
        for key, value in vars(parameter).items():
            if key.startswith("bnb_"):
                yield from _inside(f"{name}.{key}", value)


def _inside(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """All tensors of a container or of an object of bitsandbytes."""
    if hasattr(value, "untyped_storage"):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _inside(f"{name}.{key}", part)
    elif type(value).__module__.startswith("bitsandbytes."):
        yield from _inside(name, vars(value))


def _packed_bytes(module: Any) -> int:
    integers = getattr(_kernel(module), "dnnl_handler", None)
    if integers is not None:
        return int(integers.k * integers.n)
    weight = getattr(module, "weight", None)
    if weight is None or _dense_operator(module) in (None, "linear"):
        return 0
    if weight.numel():
        return int(weight.numel() * weight.element_size())
    return int(module.input_size_per_partition * module.output_size_per_partition * weight.element_size())


def _dense_operator(module: Any) -> str | None:
    """The operator to which vLLM's CPU dispatch has sent an unquantized Linear: what its function calls last.

    `onednn_mm`, `weight_packed_linear_cpu` (sgl-kernel), `zentorch_linear_unary`, or `linear`, torch's own, which is
    the fallback.
    """
    code = getattr(getattr(module, "cpu_linear", None), "__code__", None)
    return str(code.co_names[-1]) if code and code.co_names else None


def _kernel(module: Any) -> Any:
    """What multiplies for a quantized Linear: its method's kernel, or that of the scheme that its layer has."""
    method = getattr(module, "quant_method", None)
    scheme = getattr(module, "scheme", None) or getattr(method, "scheme", None)
    return getattr(method, "kernel", None) or getattr(scheme, "kernel", None)


def _kernel_name(module: Any) -> str:
    method = module.quant_method
    name = type(_kernel(module) or method).__name__
    if name == "BitsAndBytesLinearMethod":
        return "bitsandbytes.matmul" if method.quant_config.load_in_8bit else "bitsandbytes.matmul_4bit"
    return name
