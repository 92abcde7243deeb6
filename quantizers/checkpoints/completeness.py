"""Are the tensors that are there those that the model's class expects? Asked of transformers, on its meta device.

transformers fills what is missing with random numbers and passes over what it does not know, each with a line in a log.
Other engines see the same files and do otherwise: vLLM ties an output embedding where transformers finds two and unties
them. So names and shapes have to be the class's own, which all engines read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.errors import RequestError
from quantizers.checkpoints.expert_names import is_expert
from quantizers.checkpoints.model_gates import is_gate
from quantizers.checkpoints.safetensors_header import FLOATS, TensorInfo, read_headers

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SHOWN = 4
_NOT_WHOLE = "fetch the checkpoint again, or name the config.json that belongs to these weights"


class WholeCheckpoint(NamedTuple):
    """What the model's class says of a checkpoint that is whole."""

    config: PretrainedConfig
    """As the class reads it, complete with its defaults."""
    linears: frozenset[str]
    """Names, in the files, of the Linears in its layers and of its experts' matrices, gates left out."""
    left_whole: frozenset[str]
    """Names of all other Linears but the output layer."""
    passed_over: frozenset[str]
    """Names of tensors that the class leaves in the files, as those of a draft head."""


def refuse_incomplete(folder: Path) -> WholeCheckpoint:
    """Refuse a folder whose tensors are not those of its architecture (RequestError); no weight is read.

    Only an output embedding that is stored beside the input embedding it is tied to is read, to compare the two.
    """
    from transformers import AutoModelForCausalLM

    headers = read_headers(folder)
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            dtype="auto",
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever a config makes it stumble over.
        raise RequestError(
            f"transformers cannot make a model of {folder}/config.json: {type(error).__name__}: {error}",
            remedy=_NOT_WHOLE,
        ) from error
    stored = _as_stored(model)
    expected = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    tied = dict(model.all_tied_weights_keys) if model.config.tie_word_embeddings else {}
    missing = {name for name in expected if name not in headers and name not in tied} | loaded["missing_keys"]
    refuse_gaps(f"the weights in {folder}", missing, loaded["unexpected_keys"])
    misshapen = {name: info for name, info in headers.items() if expected.get(name, info.shape) != info.shape}
    if misshapen:
        shown = [
            f"{name} is {_by(misshapen[name].shape)} instead of {_by(expected[name])}" for name in sorted(misshapen)
        ]
        raise RequestError(
            f"the weights in {folder} do not have the shapes that config.json promises: {_listed(shown)}",
            remedy=_NOT_WHOLE,
        )
    _refuse_dtypes(folder, {name for name, tensor in stored.items() if tensor.is_floating_point()}, headers)
    _refuse_two_heads(folder, tied, headers)
    all_linears = _linears(model, stored)
    linears = frozenset(name for name in all_linears if ".layers." in name and not is_gate(name))
    return WholeCheckpoint(model.config, linears, all_linears - linears, frozenset(headers.keys() - expected.keys()))


def _as_stored(model: Any) -> dict[str, Any]:
    """The model's tensors by the names and in the shapes that files have: transformers packs experts when it loads."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, Any] = revert_weight_conversion(model, model.state_dict())
    return found


def _linears(model: Any, stored: Mapping[str, Any]) -> frozenset[str]:
    """Names, in the files, of the model's Linears and its experts' matrices, its output layer left out."""
    import torch

    head = model.get_output_embeddings()
    own = {name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and one is not head}
    matrices = {
        name.removesuffix(".weight") for name, tensor in stored.items() if name.endswith(".weight") and tensor.ndim == 2
    }
    return frozenset(name for name in matrices if name in own or is_expert(name))


def _refuse_dtypes(folder: Path, weights: Iterable[str], headers: Mapping[str, TensorInfo]) -> None:
    """Weights that are stored as whole numbers were quantized or rounded away: engines read them as they lie."""
    others = {name: headers[name].dtype for name in weights if name in headers and headers[name].dtype not in FLOATS}
    if others:
        raise RequestError(
            f"weights in {folder} are stored in a dtype that is not one of {', '.join(FLOATS)}:"
            f" {_listed([f'{name} as {others[name]}' for name in sorted(others)])}",
            remedy="fetch the checkpoint again, or save it in one of these",
        )


def refuse_gaps(what: str, missing: Iterable[str], foreign: Iterable[str]) -> None:
    """Refuse missing and foreign tensors by name (RequestError)."""
    missing, foreign = sorted(missing), sorted(foreign)
    lines = [f"missing: {_listed(missing)}"] if missing else []
    lines += [f"not part of it: {_listed(foreign)}"] if foreign else []
    if lines:
        raise RequestError(
            f"{what} are not those of the architecture that the model names; {'; '.join(lines)}", remedy=_NOT_WHOLE
        )


def _refuse_two_heads(folder: Path, tied: Mapping[str, str], headers: Mapping[str, TensorInfo]) -> None:
    """Tied tensors that are both stored have to be equal: engines differ in which of them they believe."""
    import torch

    for target, origin in tied.items():
        if target not in headers or origin not in headers:
            continue
        if not torch.equal(_read(headers[target].file, target), _read(headers[origin].file, origin)):
            raise RequestError(
                f"config.json in {folder} says that {target} is {origin} (tie_word_embeddings), and the files hold"
                " different numbers for them",
                remedy="set tie_word_embeddings to false in config.json where the model has an output embedding of its"
                f" own; take {target} out of the file where it has none",
            )


def _read(file: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
