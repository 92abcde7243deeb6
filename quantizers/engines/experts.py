"""Experts while an engine works: taken apart where transformers packed them, counted where calibration reaches them."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import StageError
from configs.reading.json_text import read_json_object
from quantizers.checkpoints.expert_names import checkpoint_tensors, engine_name, expert_of, has_experts
from quantizers.checkpoints.safetensors_header import WEIGHTS_INDEX, read_headers, weight_files
from registry.contracts import QuantizedModule
from registry.files import write_text_atomically

UNREACHED = "round-to-nearest: no calibration token reached this expert"


def take_apart(model: Any, linear_shapes: Mapping[str, object]) -> None:
    """Make Linears of the experts that transformers 5 packed into one tensor a layer; GPTQModel's library does it."""
    if has_experts(linear_shapes):
        import defuser

        defuser.convert_model(model, cleanup_original=True)


def name_as_checkpoint(folder: Path, linear_shapes: Mapping[str, object]) -> None:
    """Give experts' tensors, and those of what chooses among them, the checkpoint's names again, by which vLLM knows
    them.

    Args:
        folder: Of the saved model, in which experts are apart.
        linear_shapes: By the checkpoint's names of the Linears.
    """
    if any(engine_name(module) != module for module in linear_shapes):
        _rename(folder, folder, lambda names: checkpoint_tensors(names, linear_shapes.keys()))


@contextlib.contextmanager
def by_engine_names(folder: Path) -> Iterator[Path]:
    """An artifact's folder inside the block, with the names that an engine that took experts apart knows: the folder
    itself where these are the checkpoint's. Else its weights are copied."""
    if all(engine_name(name) == name for name in read_headers(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="experts-") as room:
        for file in folder.iterdir():
            Path(room, file.name).symlink_to(file)
        _rename(folder, Path(room), lambda names: {name: engine_name(name) for name in names})
        yield Path(room)


def _rename(folder: Path, to: Path, renamed: Callable[[Iterable[str]], Mapping[str, str]]) -> None:
    """Write a folder's weights and their index into `to`, with other names; what lies there is replaced."""
    from safetensors.torch import load_file, save_file

    for file in weight_files(folder):
        tensors = load_file(file)
        names = renamed(tensors)
        # The tensors may still lie in the file that is replaced.
        written = to / f"{file.name}.renamed"
        save_file({names[name]: tensor for name, tensor in tensors.items()}, written, {"format": "pt"})
        written.replace(to / file.name)
    if (folder / WEIGHTS_INDEX).is_file():
        index = read_json_object(folder / WEIGHTS_INDEX)
        names = renamed(index["weight_map"])
        index["weight_map"] = {names[name]: file for name, file in index["weight_map"].items()}
        (to / WEIGHTS_INDEX).unlink()
        write_text_atomically(to / WEIGHTS_INDEX, json.dumps(index, indent=2) + "\n")


@contextlib.contextmanager
def counted_tokens(model: Any) -> Iterator[dict[str, int]]:
    """Count the tokens that reach each expert inside the block: expert's name -> tokens, some of them repeatedly.

    An expert that was taken apart is called itself, or its Linears are by the block, which is told of the routes.
    """
    experts = {name: module for name, module in model.named_modules() if expert_of(f"{name}.") == name}

    def count(expert: str, *given: Any) -> None:
        tokens[expert] += given[0].numel() // given[0].shape[-1]

    with counted_routes(model) as tokens, _told_before(experts, count):
        tokens.update(dict.fromkeys(experts, 0))
        yield tokens


@contextlib.contextmanager
def counted_routes(model: Any) -> Iterator[dict[str, int]]:
    """`counted_tokens` by where routers send tokens: of blocks of experts that are called with their routes, as
    transformers 5 has them while they are packed."""
    blocks = {
        name: module
        for name, module in model.named_modules()
        if name.endswith(".experts") and hasattr(module, "num_experts")
    }
    tokens = {f"{name}.{expert}": 0 for name, block in blocks.items() for expert in range(block.num_experts)}

    def count(block: str, *given: Any) -> None:
        chosen = next(one for one in given if not one.is_floating_point())
        for expert, times in enumerate(chosen.flatten().bincount().tolist()):
            tokens[f"{block}.{expert}"] += times

    with _told_before(blocks, count):
        yield tokens


@contextlib.contextmanager
def _told_before(modules: Mapping[str, Any], tell: Callable[..., None]) -> Iterator[None]:
    """Have `tell` called with a module's name and what it is given, whenever one of them is called inside the block."""

    def hook_of(name: str) -> Any:
        return lambda _, args, kwargs: tell(name, *args, *kwargs.values())

    hooks = [module.register_forward_pre_hook(hook_of(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def told_unreached(modules: Sequence[QuantizedModule], tokens: Mapping[str, int]) -> list[QuantizedModule]:
    """The engine's log, by its own names, with each module of an expert that saw no token marked as a fallback."""
    return [
        module.model_copy(update={"fallback": UNREACHED, "loss": None})
        if tokens.get(expert_of(module.name) or "", 1) == 0
        else module
        for module in modules
    ]


def unreached_experts(modules: Sequence[QuantizedModule]) -> list[str]:
    """Names of the experts that no calibration token reached."""
    found = {expert_of(module.name) for module in modules if module.fallback == UNREACHED}
    return sorted(name for name in found if name)


def refuse_unreached(modules: Sequence[QuantizedModule]) -> None:
    """Raise StageError where experts saw no calibration token."""
    if not (unreached := unreached_experts(modules)):
        return
    total = len({expert for module in modules if (expert := expert_of(module.name))})
    raise StageError(
        f"no calibration token reached {len(unreached)} of {total} experts: {', '.join(unreached[:4])}"
        + (f" and {len(unreached) - 4} more" if len(unreached) > 4 else ""),
        remedy="raise calibration.samples, or calibrate with text of more kinds; gptq rounds them to nearest"
        " instead where its entry says unreached_experts: round",
        blame="recipe",
    )
