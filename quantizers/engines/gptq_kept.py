"""GPTQ goes on where a killed process stopped: each Linear's result is kept as it is made, and taken up by the next.

A Linear's result depends on the results before it alone, and those are equal, so a kept one is what would be made
again, bit by bit: its codes, scales and zero points give its weights by the same two operations (`column_rounding`).
Where all Linears of a group are kept, no row stops in front of it and no Hessian is made: the rows run once through the
rounded weights, for what comes after.

GPTQModel has checkpoints of its own from 7.11 on. In 7.3.6 two functions are replaced: `GPTQ.quantize`
(quantization/gptq.py) and `ForwardExecutor.run` (looper/forward_executor.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from registry.files import written_atomically

if TYPE_CHECKING:
    import torch

    from quantizers.base import QuantizeJob

_SUFFIX = ".rounded"
_SPARE_BYTES = 128 << 20


class Result(NamedTuple):
    """What `GPTQ.quantize` returns of one Linear."""

    weights: torch.Tensor
    """Dequantized, in the Linear's dtype and shape."""
    scales: torch.Tensor
    """[rows, groups], float32."""
    zeros: torch.Tensor
    """Whole numbers, [rows, groups]."""
    group_of: torch.Tensor
    """The group of each column, [columns]."""
    seconds: float
    loss: Any
    """Mean of a sample; a text that tells of a fallback where the engine found no other way."""
    damp: float
    samples: int


class KeptLinears:
    """A folder with a file for each Linear that is rounded.

    It is a help and no need: where it cannot be written or a file is damaged, one line in the log says so, and the
    Linear is made anew.

    Args:
        folder: Of this very work: one stage's key, one number of threads. Nothing is kept where it is None.
        reserve_bytes: That stay free on its disk.
    """

    def __init__(self, folder: Path | None, reserve_bytes: int = 0) -> None:
        self._folder, self._reserve_bytes = folder, reserve_bytes
        self._is_given_up = threading.Event()
        self._ready: dict[str, dict[str, torch.Tensor]] = {}

    def count(self) -> int:
        """Linears that an earlier process kept."""
        return sum(1 for _ in self._folder.glob(f"*{_SUFFIX}")) if self._folder else 0

    def has(self, names: Sequence[str]) -> bool:
        """Whether all these are there and whole; they are held until `take`, whatever becomes of the files."""
        for name in names:
            if (found := self._read(name)) is None:
                return False
            self._ready[name] = found
        return bool(names)

    def take(self, name: str, weight: torch.Tensor) -> Result | None:
        """What was kept of a Linear, dequantized; None where nothing was.

        Args:
            weight: The Linear's own, for device, dtype and shape.
        """
        found = self._ready.pop(name, None) or self._read(name)
        if found is None:
            return None
        codes, scales, zeros, group_of = (
            found[part].to(weight.device) for part in ("codes", "scales", "zeros", "group_of")
        )
        weights = _dequantized(codes, scales, zeros, group_of).reshape(weight.shape).to(weight.dtype)
        loss, damp, samples = found["facts"].tolist()
        return Result(weights, scales, zeros, group_of, 0.0, loss, damp, int(samples))

    def keep(self, name: str, result: Result) -> None:
        """Keep what a Linear came to, unless its codes would not give its weights again, or the disk has no room."""
        if self._folder is None or self._is_given_up.is_set() or not isinstance(result.loss, float):
            return
        codes = _codes_of(result)
        if codes is None:
            return
        import torch
        from safetensors.torch import save

        facts = torch.tensor([result.loss, result.damp, result.samples], dtype=torch.float64)
        parts = {"codes": codes, "scales": result.scales, "zeros": result.zeros, "group_of": result.group_of}
        content = save({part: tensor.cpu().contiguous() for part, tensor in parts.items()} | {"facts": facts})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free - len(content)
            if free < self._reserve_bytes:
                self._give_up(f"{free / 2**20:.0f} MiB would be free, and the artifact needs room")
                return
            with written_atomically(self._folder / f"{name}{_SUFFIX}") as file:
                file.write(_seal(content) + content)
        except OSError as error:
            self._give_up(str(error))

    def _read(self, name: str) -> dict[str, torch.Tensor] | None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        if self._folder is None:
            return None
        path = self._folder / f"{name}{_SUFFIX}"
        try:
            seal, _, content = path.read_bytes().partition(b"\n")
            if seal + b"\n" != _seal(content):
                raise ValueError("its checksum is not that of its content")
            tensors: dict[str, torch.Tensor] = load(content)
            return tensors
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, SafetensorError) as error:
            print(f"what was kept of {name} cannot be used, it is made anew: {error}", file=sys.stderr)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None

    def _give_up(self, why: str) -> None:
        if not self._is_given_up.is_set():
            self._is_given_up.set()
            print(
                f"from here on no Linear is kept in {self._folder}, a killed run would go on from the last one that"
                f" is: {why}",
                file=sys.stderr,
            )


def kept_linears(job: QuantizeJob) -> KeptLinears:
    """What was kept of this very job."""
    if job.kept_dir is None:
        return KeptLinears(None)
    # Sums differ in their last bits with the number of threads, which is in no stage's key.
    folder = job.kept_dir / f"{job.threads}-threads"
    # More than a run asks for before the stage: what is kept is not to stand in the way of going on.
    return KeptLinears(folder, 2 * job.checkpoint.size_bytes + _SPARE_BYTES)


def _dequantized(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, group_of: torch.Tensor
) -> torch.Tensor:
    """[rows, columns], by the operations of `column_rounding`."""
    group = group_of.long()
    return codes.to(scales.dtype).sub_(zeros[:, group]).mul_(scales[:, group])


def _codes_of(result: Result) -> torch.Tensor | None:
    """Whole numbers of one byte, [rows, columns]; None where they would not give the same weights, bit by bit."""
    import torch

    group, weights = result.group_of.long(), result.weights.flatten(1).to(result.scales.dtype)
    codes = (weights / result.scales[:, group]).round_().add_(result.zeros[:, group]).clamp_(0, 255).to(torch.uint8)
    again = _dequantized(codes, result.scales, result.zeros, result.group_of).to(result.weights.dtype)
    # As bytes: a zero has two signs.
    return codes if torch.equal(*(each.contiguous().view(torch.uint8) for each in (again, result.weights))) else None


def _seal(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"


@contextlib.contextmanager
def taken_up(kept: KeptLinears, whole_groups: bool) -> Iterator[None]:
    """Have the engine take what is kept inside the block, and keep what it makes.

    Args:
        whole_groups: Leave out the forward passes of groups that are kept. Not for mixtures of experts: tokens that
            reach an expert are counted on those.
    """
    from gptqmodel.looper.forward_executor import ForwardExecutor
    from gptqmodel.quantization.gptq import GPTQ

    originals = GPTQ.quantize, ForwardExecutor.run

    def quantize(self: Any, blocksize: int = 128) -> tuple[Any, ...]:
        name = self._named_module.full_name
        found = kept.take(name, self.module.weight)
        if found is None:
            found = Result(*originals[0](self, blocksize))
            kept.keep(name, found)
        return found

    def run(executor: Any, *, processor: Any, current_subset: Any = None, **kwargs: Any) -> list[Any]:
        if whole_groups and current_subset and kept.has([one.full_name for one in current_subset.values()]):
            for name in current_subset:
                processor.tasks[name].fwd_counter += 1  # else the engine takes it for a module that saw no token
            return []
        outputs: list[Any] = originals[1](executor, processor=processor, current_subset=current_subset, **kwargs)
        return outputs

    GPTQ.quantize, ForwardExecutor.run = quantize, run
    try:
        yield
    finally:
        GPTQ.quantize, ForwardExecutor.run = originals
