"""Are a quantized checkpoint's tensors those that its config.json promises? By names, dtypes and shapes, and then by
the numbers that a wrong promise would make another model of, without a word from any engine.

Layouts as in `quantizers/inspection/dequantize.py`, which turns them back into weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import RequestError, UnreadableError
from configs.reading.json_text import parse_json
from quantizers.checkpoints.first_look import outline_of_folder
from quantizers.checkpoints.recognition import PACKED_NAMES
from quantizers.checkpoints.safetensors_header import FLOATS, TensorInfo, read_headers
from quantizers.checkpoints.schemes import Scheme, scheme_of
from quantizers.checkpoints.sources import check_files
from registry.contracts.base import Method

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, int]]
Headers = Mapping[str, TensorInfo]

_SHOWN = 4
_WORD_BITS = 32
_NESTED_BLOCK = 256
"""Scales that share a scale (bitsandbytes/functional.py, `quantize_4bit`)."""
_INTEGERS = ("I32", "I64")
_ANOTHER = "fetch the checkpoint again, or take another: engines would read other weights than its maker had"


class _Tensor(NamedTuple):
    """What one tensor of a Linear has to be."""

    dtypes: tuple[str, ...]
    shape: tuple[int, ...] | None
    """None where any will do."""
    needed: bool = True


def check_quantized(folder: Path) -> tuple[Scheme, Shapes]:
    """Refuse a folder that is no safe and complete quantized checkpoint, from names and headers: milliseconds.

    Returns:
        How its weights are stored, and its Linears by config.json's sizes.

    Raises:
        RequestError: Pickle weights, code beside them, an unsupported architecture or format, or tensors that are not
            those that config.json promises; all that was found is told together.
    """
    config, headers = check_files(folder)
    scheme = scheme_of(folder, config)
    shapes = outline_of_folder(folder).linear_shapes
    if not any(PACKED_NAMES.search(name) or name.endswith(".weight_format") for name in headers):
        raise RequestError(
            f"the weights in {folder} are not quantized, though its config.json has a quantization_config"
            f" ({scheme.format})",
            remedy="take the quantization_config out and name the folder as a `source`, or fetch the quantized weights",
        )
    found = [*_mislaid(scheme, shapes, headers), *_misshapen(scheme, shapes, headers)]
    found += _outside(shapes, headers)
    if found:
        raise RequestError(
            f"the tensors in {folder} are not those that its config.json promises:"
            + "".join(f"\n  - {line}" for line in found),
            remedy=_ANOTHER,
        )
    return scheme, shapes


def check_rest(folder: Path, shapes: Shapes, source: Headers, *, tied: bool) -> None:
    """Refuse what is beside the Linears where it is not as the source has it (RequestError).

    Args:
        folder: The quantized checkpoint.
        shapes: The source's Linears.
        source: Its tensors.
        tied: Whether the output embedding is the input embedding: then it may be stored or not.
    """
    rest = {name: info.shape for name, info in read_headers(folder).items() if _linear_of(name, shapes) is None}
    wanted = {name: info.shape for name, info in source.items() if _linear_of(name, shapes) is None}
    if tied:
        rest.pop("lm_head.weight", None)
        wanted.pop("lm_head.weight", None)
    lines = _told("missing", wanted.keys() - rest.keys()) + _told("not the source's", rest.keys() - wanted.keys())
    lines += [
        f"{name} is {_by(rest[name])}, and the source's {_by(wanted[name])}"
        for name in sorted(rest.keys() & wanted.keys())
        if rest[name] != wanted[name]
    ]
    if lines:
        raise RequestError(
            f"{folder} is no quantized form of the recipe's source:" + "".join(f"\n  - {one}" for one in lines),
            remedy="name the model that it was made of as the recipe's source",
        )


def check_numbers(folder: Path, scheme: Scheme, shapes: Shapes) -> None:
    """Read every tensor but the codes once, and refuse numbers that contradict config.json, or are none (RequestError).

    Args:
        folder: A quantized checkpoint whose headers were found right.
        scheme: Of its config.json.
        shapes: Its Linears.
    """
    from safetensors import safe_open

    found: dict[str, list[str]] = {}
    headers = read_headers(folder)
    for file in sorted({info.file for info in headers.values()}):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                if fact := _fact(name, headers[name], opened, scheme, shapes):
                    found.setdefault(fact, []).append(name)
    if found:
        raise RequestError(
            f"the numbers in {folder} are not what its config.json promises:"
            + "".join(f"\n  - {fact}: {_listed(names)}" for fact, names in found.items()),
            remedy=_ANOTHER,
        )


def _fact(name: str, info: TensorInfo, opened: Any, scheme: Scheme, shapes: Shapes) -> str | None:
    """What is wrong with a tensor's numbers, in words that do not name it."""
    import torch

    if info.dtype in FLOATS:
        return None if bool(torch.isfinite(opened.get_tensor(name)).all()) else "NaN or infinity"
    module = _linear_of(name, shapes) or ""
    own, shape = name.removeprefix(f"{module}."), shapes.get(module, (0, 0))
    fact = None
    if own == "qzeros" and scheme.symmetric:
        fact = _zero_fact(opened.get_tensor(name), scheme)
    elif own in ("g_idx", "weight_g_idx"):
        fact = _group_fact(opened.get_tensor(name), scheme, shape[1])
    elif own == "weight_shape" and tuple(opened.get_tensor(name).tolist()) != shape:
        fact = "another shape than the Linear's"
    elif own.startswith("weight.quant_state."):
        fact = _state_fact(bytes(opened.get_tensor(name).tolist()), scheme, shape)
    return fact


def _zero_fact(words: torch.Tensor, scheme: Scheme) -> str | None:
    middle = 2 ** (scheme.bits - 1) - (0 if scheme.checkpoint_format == "gptq_v2" else 1)
    if bool((words == _repeated(middle, scheme.bits)).all()):
        return None
    return f"zero points other than {middle}, which sym: true and {scheme.checkpoint_format} mean"


def _group_fact(groups: torch.Tensor, scheme: Scheme, columns: int) -> str | None:
    import torch

    size = columns if scheme.group_size == -1 else scheme.group_size
    in_order = torch.arange(columns, dtype=groups.dtype) // size
    if scheme.reordered:
        # Each group has as many columns as the others, whichever they are.
        return None if torch.equal(groups.sort().values, in_order) else "columns of groups that do not exist"
    return None if torch.equal(groups, in_order) else "columns in another order, which desc_act: false denies"


def _state_fact(text: bytes, scheme: Scheme, shape: tuple[int, int]) -> str | None:
    try:
        state = parse_json(text)
    except (UnreadableError, ValueError):
        return "no JSON"
    wanted: dict[str, Any] = {"quant_type": "nf4", "blocksize": scheme.group_size, "shape": list(shape)}
    if scheme.nested:
        wanted["nested_blocksize"] = _NESTED_BLOCK
    elif isinstance(state, dict) and "nested_blocksize" in state:
        return "nested scales, which bnb_4bit_use_double_quant: false denies"
    told = state if isinstance(state, dict) else {}
    wrong = [key for key, value in wanted.items() if told.get(key) != value]
    if not wrong and scheme.nested and not math.isfinite(_number(told.get("nested_offset"))):
        wrong = ["nested_offset"]
    return f"{wrong[0]}: {told.get(wrong[0])!r:.40}" if wrong else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _repeated(code: int, bits: int) -> int:
    """The signed word that holds nothing but `code`."""
    word = sum(code << place for place in range(0, _WORD_BITS, bits))
    return word - 2**_WORD_BITS if word >= 2 ** (_WORD_BITS - 1) else word


def _mislaid(scheme: Scheme, shapes: Shapes, headers: Headers) -> Iterator[str]:
    """Linears that are quantized against config.json's word, or not quantized."""
    packed = {name for name in shapes if not _is_plain(name, scheme.format, headers)}
    denied = [name for name in shapes if name in packed and scheme.left_alone(name)]
    plain = [name for name in shapes if name not in packed]
    if denied:
        yield f"it says that {_listed(denied)} stay as they are, and their tensors are quantized"
    promised = [name for name in plain if not scheme.left_alone(name)]
    if promised:
        yield f"it says that {_listed(promised)} are quantized as {scheme.format}, and their tensors are not"
    if rest := sorted(set(plain) - set(promised)):
        yield f"{_listed(rest)} are not quantized, as it says; only checkpoints with all Linears of layers are read"


def _is_plain(module: str, kind: Method, headers: Headers) -> bool:
    dense, codes = headers.get(f"{module}.weight"), _CODES.get(kind, "weight")
    return dense is not None and dense.dtype in FLOATS and (codes == "weight" or f"{module}.{codes}" not in headers)


_CODES: dict[Method, str] = {"gptq": "qweight", "awq": "qweight", "rtn": "weight_packed"}
"""Format -> where its codes are; `weight` in the others."""


def _misshapen(scheme: Scheme, shapes: Shapes, headers: Headers) -> list[str]:
    """Tensors of quantized Linears that are missing, foreign, or of another dtype or shape; a line a kind."""
    missing: list[str] = []
    foreign: list[str] = []
    wrong: dict[str, list[str]] = {}
    of_module: dict[str, dict[str, TensorInfo]] = {}
    for name, info in headers.items():
        if module := _linear_of(name, shapes):
            of_module.setdefault(module, {})[name.removeprefix(f"{module}.")] = info
    for module, shape in shapes.items():
        there = of_module.get(module, {})
        if there and _is_plain(module, scheme.format, headers):
            continue
        size = scheme.group_size
        if size > 0 and scheme.format != "bnb_nf4" and shape[1] % size:
            wrong.setdefault(f"group_size {size} does not divide {shape[1]} inputs", []).append(module)
            continue
        wanted = _tensors(scheme, shape)
        missing += [f"{module}.{own}" for own, one in wanted.items() if one.needed and own not in there]
        foreign += [f"{module}.{own}" for own in there if own not in wanted]
        for own in there.keys() & wanted.keys():
            info, one = there[own], wanted[own]
            if info.dtype not in one.dtypes:
                wrong.setdefault(f"{own} is stored as {info.dtype}, not {one.dtypes[0]}", []).append(module)
            elif one.shape is not None and info.shape != one.shape:
                fact = f"{own} is {_by(info.shape)} instead of {_by(one.shape)} ({_asked(scheme)})"
                wrong.setdefault(fact, []).append(module)
    lines = [*_told("missing", missing), *_told(f"not part of {scheme.format}", foreign)]
    return lines + [f"{fact}: {_listed(sorted(modules))}" for fact, modules in wrong.items()]


def _tensors(scheme: Scheme, shape: tuple[int, int]) -> dict[str, _Tensor]:
    """Name below its module -> what it has to be, of a Linear [out_features, in_features]."""
    rows, columns = shape
    floats, per_word = tuple(FLOATS), _WORD_BITS // scheme.bits
    groups = columns // scheme.group_size if scheme.group_size > 0 else 1
    bias = {"bias": _Tensor(floats, (rows,), needed=False)}
    match scheme.format:
        case "gptq":
            return bias | {
                "qweight": _Tensor(("I32",), (columns // per_word, rows)),
                "qzeros": _Tensor(("I32",), (groups, rows // per_word)),
                "scales": _Tensor(floats, (groups, rows)),
                "g_idx": _Tensor(("I32",), (columns,)),
            }
        case "awq":
            return bias | {
                "qweight": _Tensor(("I32",), (columns, rows // per_word)),
                "qzeros": _Tensor(("I32",), (groups, rows // per_word)),
                "scales": _Tensor(floats, (groups, rows)),
            }
        case "bnb_nf4":
            return bias | _nf4(scheme, rows * columns)
        case "bnb_int8":
            codes = {"weight": _Tensor(("I8",), shape), "SCB": _Tensor(("F32",), (rows,))}
            return bias | codes | {"weight_format": _Tensor(("U8",), None, needed=False)}
        case "rtn":
            words = math.ceil(columns / per_word)
            return bias | {
                "weight_packed": _Tensor(("I32",), (rows, words)),
                "weight_scale": _Tensor(floats, (rows, groups)),
                "weight_shape": _Tensor(_INTEGERS, (2,), needed=False),
                **(
                    {}
                    if scheme.symmetric
                    else {"weight_zero_point": _Tensor(("I32",), (math.ceil(rows / per_word), groups))}
                ),
                **({"weight_g_idx": _Tensor(_INTEGERS, (columns,))} if scheme.reordered else {}),
            }
        case _:
            return bias | {"weight": _Tensor(("I8",), shape), "weight_scale": _Tensor(floats, (rows, 1))}


def _nf4(scheme: Scheme, weights: int) -> dict[str, _Tensor]:
    blocks = math.ceil(weights / scheme.group_size)
    nested = {
        "weight.nested_absmax": _Tensor(("F32",), (math.ceil(blocks / _NESTED_BLOCK),)),
        "weight.nested_quant_map": _Tensor(("F32",), (256,)),
    }
    return {
        "weight": _Tensor(("U8",), (math.ceil(weights / 2), 1)),
        "weight.absmax": _Tensor(("U8",) if scheme.nested else ("F32",), (blocks,)),
        "weight.quant_map": _Tensor(("F32",), (16,)),
        "weight.quant_state.bitsandbytes__nf4": _Tensor(("U8",), None),
        **(nested if scheme.nested else {}),
    }


def _outside(shapes: Shapes, headers: Headers) -> list[str]:
    """Quantized tensors that belong to no Linear of a layer, such as an output embedding's."""
    names = [name for name in headers if PACKED_NAMES.search(name) and _linear_of(name, shapes) is None]
    return _told("quantized, and no part of a Linear of its layers", names)


def _linear_of(tensor: str, shapes: Shapes) -> str | None:
    parts = tensor.split(".")
    return next((name for end in range(len(parts) - 1, 0, -1) if (name := ".".join(parts[:end])) in shapes), None)


def _asked(scheme: Scheme) -> str:
    size = "" if scheme.format in ("bnb_nf4", "bnb_int8", "w8a8") else f", group_size {scheme.group_size}"
    return f"{scheme.bits} bits{size}"


def _told(fact: str, names: Any) -> list[str]:
    return [f"{fact}: {_listed(sorted(names))}"] if names else []


def _listed(names: list[str]) -> str:
    """Names that differ in their layer only are told once."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    told = [same[0] if len(same) == 1 else f"{kind} ({len(same)})" for kind, same in kinds.items()]
    return ", ".join(told[:_SHOWN]) + (f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else "")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
