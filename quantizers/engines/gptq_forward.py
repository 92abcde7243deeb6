"""GPTQ's calibration forward passes, each layer once: a row's forward pass waits while the engine rounds a group.

GPTQ rounds a decoder layer group by group (query, key and value; output; gate and up; down), each group on inputs
that the rounded groups before it have made. GPTQModel 7.3.6 (looper/stage_subset.py, looper/forward_executor.py) starts
every row of the calibration set anew for each group, stops it behind the group, and runs the layer a last time for the
next layer's inputs: about 3.4 times the work of one pass. Here each row runs in a thread of its own, one thread at a
time, and waits in front of the group that is to be rounded; when its turn comes it goes on, through rounded weights,
from where it stood. The same operations see the same operands, so the artifact is equal bit by bit.

A group's Linears share their input by definition, so its Hessian X^T X is computed once and copied.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any


class _Abandoned(BaseException):
    """Ends the thread of a row whose layer is not gone on with."""


class _Row(threading.Thread):
    """One calibration row's forward pass through one layer; it runs only inside `advance`."""

    def __init__(self, forward: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._forward = forward
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._abandoned = False
        self._error: BaseException | None = None
        self.group_input: Any = None
        self.outputs: Any = None
        self.start()

    def run(self) -> None:
        try:
            self._go.acquire()
            if not self._abandoned:
                self.outputs = self._forward()
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._stopped.release()

    def advance(self) -> None:
        """Let the row run until it waits or ends; raise here what it raised there."""
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Called in the row's own thread: stand still until the next `advance`."""
        self._stopped.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned

    def abandon(self) -> None:
        """Have a waiting row end without going on."""
        if self.is_alive():
            self._abandoned = True
            self._go.release()
            self.join()


class _OnePass:
    """The engine functions that stand in for its own, and what they share."""

    def __init__(self, run_single: Any, linear_forward: Any, process_batch: Any) -> None:
        self._run_single, self._linear_forward, self._process_batch = run_single, linear_forward, process_batch
        self._layer: Any = None
        self._rows: list[_Row] = []
        self._group: list[Any] = []
        self._hessian: tuple[int, Any, Any] | None = None

    def run_single(self, executor: Any, *, module: Any, current_subset: Any = None, **kwargs: Any) -> list[Any]:
        """Bring every row to the group `current_subset`, or to the layer's end where it is None."""
        if module is not self._layer:
            self.close()
            self._layer = module
            self._rows = [
                self._new_row(executor, module, index, kwargs) for index in range(len(kwargs["layer_inputs"]))
            ]
        self._group = [getattr(named, "module", named) for named in (current_subset or {}).values()]
        for row in self._rows:
            row.advance()
        if current_subset is not None:
            return []
        outputs = [row.outputs[0] for row in self._rows]
        self.close()
        return outputs

    def _new_row(self, executor: Any, module: Any, index: int, kwargs: dict[str, Any]) -> _Row:
        import torch

        per_row = ("layer_inputs", "layer_input_kwargs", "attention_masks", "position_ids")
        own = {name: kwargs[name][index : index + 1] for name in per_row}
        progress = {name: None for name in kwargs if name.startswith("progress_")}

        def forward() -> Any:
            with torch.inference_mode():
                return self._run_single(executor, module=module, **{**kwargs, **own, **progress, "need_outputs": True})

        return _Row(forward)

    def linear_forward(self, linear: Any, input: Any) -> Any:
        """In front of a group that is to be rounded: hand its input to all of its hooks, wait, then go on."""
        row = threading.current_thread()
        if isinstance(row, _Row):
            if linear.forward_hook is not None:
                self._hessian = None
                for member in self._group:
                    member.forward_hook(member, (input,), input)
                members = set(map(id, self._group))
                row.group_input = (members, input)
                row.wait()
            elif row.group_input is not None and id(linear) in row.group_input[0] and input is not row.group_input[1]:
                raise RuntimeError("the Linears of a group do not share their input in this architecture")
        return self._linear_forward(linear, input)

    def process_batch(self, task: Any, inputs: Any) -> tuple[int, Any, Any]:
        """X^T X of one row, computed for the first Linear of a group and copied for the others."""
        if not isinstance(threading.current_thread(), _Row):
            result: tuple[int, Any, Any] = self._process_batch(task, inputs)
            return result
        if self._hessian is None:
            self._hessian = self._process_batch(task, inputs)
        tokens, xtx, device = self._hessian
        return tokens, None if xtx is None else xtx.clone(), device

    def close(self) -> None:
        for row in self._rows:
            row.abandon()
        self._rows, self._layer = [], None


@contextlib.contextmanager
def one_forward_pass() -> Iterator[None]:
    """Have the engine run every layer once for each calibration row inside the block (batch size 1, one device)."""
    from gptqmodel.looper.forward_executor import ForwardExecutor
    from gptqmodel.nn_modules.hooked_linear import HookedLinear
    from gptqmodel.quantization.gptq import GPTQ

    originals = (ForwardExecutor.run_single, HookedLinear.forward, GPTQ.process_batch)
    one_pass = _OnePass(*originals)
    # Functions and not bound methods: a class hands its instance only to a function.
    ForwardExecutor.run_single = lambda executor, **kwargs: one_pass.run_single(executor, **kwargs)  # noqa: PLW0108
    HookedLinear.forward = lambda linear, input: one_pass.linear_forward(linear, input)  # noqa: PLW0108
    GPTQ.process_batch = lambda task, inputs: one_pass.process_batch(task, inputs)  # noqa: PLW0108
    try:
        yield
    finally:
        one_pass.close()
        ForwardExecutor.run_single, HookedLinear.forward, GPTQ.process_batch = originals
