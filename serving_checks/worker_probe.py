"""Loaded into vLLM's workers (`--worker-extension-cls`) so that they can be asked what they hold."""

from typing import Any


class WorkerProbe:
    """Methods that vLLM adds to its worker class and that `/collective_rpc` calls by name."""

    model_runner: Any

    def resident_weight_bytes(self) -> int:
        """Bytes of this rank's parameters and buffers, shared storage counted once.

        vLLM's CPU Linears hand a dense weight over to a packed copy inside oneDNN and leave an empty tensor behind
        (vllm/model_executor/layers/utils.py); such a weight is counted by its shape.
        """
        model = self.model_runner.model
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in [*model.parameters(), *model.buffers()]
        }
        return int(sum(storages.values())) + sum(map(_packed_bytes, model.modules()))


def _packed_bytes(module: Any) -> int:
    weight = getattr(module, "weight", None)
    outputs = getattr(module, "output_size_per_partition", None)
    if weight is None or weight.numel() or outputs is None:
        return 0
    return int(module.input_size_per_partition * outputs * weight.element_size())
