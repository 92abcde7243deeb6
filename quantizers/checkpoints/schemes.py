"""What a quantized checkpoint's config.json says of its format: by GPTQ's, AWQ's, bitsandbytes' and compressed-tensors'
own words. What the tensors say is held against it in `packed_tensors.py`."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import RequestError
from registry.contracts.base import Method

Members = Mapping[str, Any]

_GPTQ_BITS = (4, 8)
_PATTERN_SECONDS = 1.0
_NF4_BLOCK = 64
"""bitsandbytes' default, which transformers does not expose."""


@dataclass(frozen=True)
class Scheme:
    """How the weights of every Linear are stored.

    Args:
        format: The method whose artifacts look like it.
        bits: Of a weight's code.
        group_size: Weights that share a scale; -1 is a whole row.
        symmetric: A scale a group and no zero point.
        reordered: Columns are grouped in the order of their activations, which `g_idx` keeps.
        nested: Scales are quantized too (NF4).
        checkpoint_format: GPTQ's: version 1 keeps every zero point less one.
        left_alone: Whether config.json says of a module that it is not quantized.
        made_by: What wrote it, where it says so.
    """

    format: Method
    bits: int
    group_size: int
    symmetric: bool
    left_alone: Callable[[str], bool]
    reordered: bool = False
    nested: bool = False
    checkpoint_format: str = "gptq"
    made_by: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """For a record: what a method of ours would have been asked for."""
        told: dict[str, Any] = {"bits": self.bits, "group_size": self.group_size, "symmetric": self.symmetric}
        return told | {"desc_act": self.reordered, "made_by": self.made_by}


def scheme_of(folder: Path, config: Members) -> Scheme:
    """Read `quantization_config`.

    Args:
        folder: Of the checkpoint, for what is said.
        config: config.json's members.

    Raises:
        RequestError: There is none, it names a format that is not read here, or it leaves out or contradicts what its
            format needs.
    """
    told = config.get("quantization_config")
    if not isinstance(told, dict):
        beside = [name for name in ("quantize_config.json", "quant_config.json") if (folder / name).is_file()]
        raise RequestError(
            f"{folder} is no quantized checkpoint: its config.json has no quantization_config"
            + (f", though {beside[0]} lies beside" if beside else ""),
            remedy=f"write the members of {beside[0]} as `quantization_config` into config.json, with its quant_method"
            if beside
            else "name it as a recipe's `source` where it is the original model",
        )
    reader = _READERS.get(str(told.get("quant_method")))
    if reader is None:
        raise _refusal(folder, f"names quant_method {told.get('quant_method')!r}", f"known are {', '.join(_READERS)}")
    return reader(folder, told)


def _gptq(folder: Path, told: Members) -> Scheme:
    bits = _one_of(folder, told, "bits", _GPTQ_BITS)
    version = told.get("checkpoint_format") or "gptq"
    if version not in ("gptq", "gptq_v2"):
        raise _refusal(folder, f"names checkpoint_format {version!r}", "known are gptq and gptq_v2")
    if told.get("lm_head"):
        raise _refusal(folder, "says that lm_head is quantized", "vLLM and the inspection read Linears of layers only")
    patterns = _texts(folder, told, "dynamic", dict)
    changed = [one for one in patterns if not one.startswith("-:")]
    if changed:
        raise _refusal(folder, f"gives {changed[0]} parameters of its own (dynamic)", "one set for all Linears is read")
    nested = told.get("modules_in_block_to_quantize") or []
    named = [name for part in nested for name in ([part] if isinstance(part, str) else part)]
    return Scheme(
        "gptq",
        bits,
        _group_size(folder, told),
        _flag(folder, told, "sym", default=True),
        _left_alone(folder, [one.removeprefix("-:") for one in patterns], only=named),
        reordered=_flag(folder, told, "desc_act", default=False),
        checkpoint_format=version,
        made_by=_quantizer(told),
    )


def _awq(folder: Path, told: Members) -> Scheme:
    _one_of(folder, told, "bits", (4,))
    version = str(told.get("version") or told.get("format") or "gemm").lower()
    if version != "gemm":
        raise _refusal(folder, f"names AWQ's version {version!r}", "vLLM reads gemm; quantize again with it")
    if not _flag(folder, told, "zero_point", default=True):
        raise _refusal(folder, "says zero_point: false", "vLLM serves AWQ with zero points only")
    names = _texts(folder, told, "modules_to_not_convert", list)
    left_alone = _left_alone(folder, [f".*{re.escape(name)}" for name in names])
    return Scheme("awq", 4, _group_size(folder, told), symmetric=False, left_alone=left_alone, made_by=_quantizer(told))


def _bitsandbytes(folder: Path, told: Members) -> Scheme:
    names = _texts(folder, told, "llm_int8_skip_modules", list)
    left_alone = _left_alone(folder, [rf"(.*\.)?{re.escape(name)}(\..*)?$" for name in names])
    kinds = [bits for bits in (4, 8) if _flag(folder, told, f"load_in_{bits}bit", default=False)]
    if len(kinds) != 1:
        raise _refusal(folder, "says load_in_4bit and load_in_8bit, or neither", "one of them has to be true")
    if kinds == [8]:
        return Scheme("bnb_int8", 8, -1, symmetric=True, left_alone=left_alone)
    kind = told.get("bnb_4bit_quant_type", "fp4")
    if kind != "nf4":
        raise _refusal(folder, f"names bnb_4bit_quant_type {kind!r}", "nf4 is read")
    if told.get("bnb_4bit_quant_storage", "uint8") != "uint8":
        raise _refusal(folder, f"names bnb_4bit_quant_storage {told['bnb_4bit_quant_storage']!r}", "uint8 is read")
    nested = _flag(folder, told, "bnb_4bit_use_double_quant", default=False)
    return Scheme("bnb_nf4", 4, _NF4_BLOCK, symmetric=True, left_alone=left_alone, nested=nested)


def _compressed_tensors(folder: Path, told: Members) -> Scheme:
    groups = told.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1 or not isinstance(group := next(iter(groups.values())), dict):
        raise _refusal(folder, "has not one of config_groups", "one scheme for all Linears is read")
    for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        if told.get(name):
            raise _refusal(folder, f"has a {name}", "weights and activations are read, and nothing beside")
    if group.get("targets") != ["Linear"]:
        raise _refusal(folder, f"targets {group.get('targets')}", "a scheme for all Linears, ['Linear'], is read")
    named = str(told.get("format"))
    kind = str(group.get("format") or named) if named in ("None", "mixed-precision") else named
    if kind not in ("pack-quantized", "int-quantized"):
        raise _refusal(folder, f"names the format {kind!r}", "pack-quantized and int-quantized are read")
    weights, inputs = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, dict) or weights.get("type", "int") != "int":
        raise _refusal(folder, "stores weights that are no integers", "integers are read")
    symmetric = _flag(folder, weights, "symmetric", default=True)
    names = _texts(folder, told, "ignore", list)
    patterns = [one.removeprefix("re:") if one.startswith("re:") else f"{re.escape(one)}$" for one in names]
    left_alone, strategy = _left_alone(folder, patterns), weights.get("strategy")
    if kind == "int-quantized":
        _one_of(folder, weights, "num_bits", (8,))
        tokens = {"dynamic": True, "num_bits": 8, "strategy": "token"}
        told_inputs = inputs if isinstance(inputs, dict) else {}
        dynamic = all(told_inputs.get(name) == value for name, value in tokens.items())
        if strategy != "channel" or not symmetric or not dynamic:
            raise _refusal(
                folder,
                "is W8A8 of another kind than symmetric rows and dynamic tokens",
                "static or asymmetric activations and groups are not read",
            )
        return Scheme("w8a8", 8, -1, symmetric=True, left_alone=left_alone)
    if inputs:
        raise _refusal(folder, "rounds the activations of packed weights", "pack-quantized is read with weights alone")
    if strategy not in ("group", "channel"):
        raise _refusal(folder, f"names the weights' strategy {strategy!r}", "group and channel are read")
    return Scheme(
        "rtn",
        _one_of(folder, weights, "num_bits", _GPTQ_BITS),
        _group_size(folder, weights) if strategy == "group" else -1,
        symmetric,
        left_alone,
        # `weight` and `static` change the order of the work, and nothing of what is stored.
        reordered=weights.get("actorder") in ("group", "dynamic", True),
    )


_READERS: dict[str, Callable[[Path, Members], Scheme]] = {
    "gptq": _gptq,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
}
"""quant_method -> its reader."""


def _refusal(folder: Path, fact: str, wanted: str) -> RequestError:
    return RequestError(
        f"quantization_config in {folder}/config.json {fact}; {wanted}",
        remedy="take another checkpoint of the model, or mend the member where it is wrong",
    )


def _one_of(folder: Path, told: Members, name: str, known: tuple[int, ...]) -> int:
    value = told.get(name)
    if type(value) is not int or value not in known:  # True is a whole number to Python.
        raise _refusal(folder, f"says {name}: {value!r:.40}", f"read is {' or '.join(map(str, known))}")
    return value


def _group_size(folder: Path, told: Members) -> int:
    value = told.get("group_size", told.get("q_group_size"))
    if type(value) is not int or not (value == -1 or value > 0):
        raise _refusal(folder, f"says group_size: {value!r:.40}", "it is a number of weights, or -1 for a whole row")
    return value


def _flag(folder: Path, told: Members, name: str, *, default: bool) -> bool:
    value = told.get(name)
    if value is not None and not isinstance(value, bool):
        raise _refusal(folder, f"says {name}: {value!r:.40}", "it is true or false")
    return default if value is None else value


def _texts(folder: Path, told: Members, name: str, kind: type[list[Any]] | type[dict[str, Any]]) -> list[str]:
    """The texts of a list, or the keys of a mapping."""
    value = told.get(name) or kind()
    if not isinstance(value, kind) or not all(isinstance(one, str) for one in value):
        raise _refusal(folder, f"says {name}: {value!r:.60}", "it holds names of modules")
    return list(value)


def _left_alone(folder: Path, patterns: list[str], only: list[str] | None = None) -> Callable[[str], bool]:
    """By regular expressions, from the name's beginning, of what is left alone; and by how the names end that alone are
    quantized, where there are any."""

    @functools.cache
    def left_alone(module: str) -> bool:
        import regex

        try:
            # A pattern that somebody wrote may take for ever, which the standard library's would let it.
            found = any(regex.match(one, module, timeout=_PATTERN_SECONDS) for one in patterns)
        except (regex.error, TimeoutError) as error:
            raise _refusal(folder, f"has a pattern of modules that is none: {error}", "mend it") from error
        return found or (bool(only) and not any(module.endswith(one) for one in only or ()))

    return left_alone


def _quantizer(told: Members) -> str | None:
    """GPTQModel's and AutoRound's word for themselves."""
    meta = told.get("meta")
    named = meta.get("quantizer") if isinstance(meta, dict) else None
    return ", ".join(map(str, named)) if isinstance(named, list) else named if isinstance(named, str) else None
