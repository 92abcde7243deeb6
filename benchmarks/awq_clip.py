"""AWQ's clip search: the engine's function and ours, side by side on layers of SmolLM2-135M's shapes.

Run: python -P benchmarks/awq_clip.py [--threads 2] [--tokens 4096]
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

SHAPES = {"v_proj": (192, 576), "o_proj": (576, 576), "up_proj": (1536, 576), "down_proj": (576, 1536)}
GROUP_SIZE = 64


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of one call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    """Print, for each layer, both times, their ratio and whether the clips are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096)
    arguments = parser.parse_args()

    from quantizers.engines.awq_clip import compute_best_clip
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(arguments.threads)
    import torch
    from gptqmodel.looper.awq_processor import AWQProcessor

    processor = AWQProcessor.__new__(AWQProcessor)
    processor.qcfg = SimpleNamespace(group_size=GROUP_SIZE, sym=False, bits=4)
    generator = torch.Generator().manual_seed(0)
    print(f"float32, {arguments.threads} threads, {arguments.tokens} tokens, group size {GROUP_SIZE}")
    print(f"{'layer':10} {'shape':>12} {'engine_seconds':>15} {'ours_seconds':>13} {'ratio':>7}  equal clips")
    for name, (outputs, inputs) in SHAPES.items():
        weights = torch.randn(outputs, inputs, generator=generator)
        features = torch.randn(1, arguments.tokens, inputs, generator=generator)
        features *= torch.rand(inputs, generator=generator).pow(4) * 8 + 0.1
        ours_seconds, ours = timed(lambda w=weights, x=features: compute_best_clip(processor, w, x))  # type: ignore[misc]
        engine_seconds, theirs = timed(lambda w=weights, x=features: processor._compute_best_clip(w, x))  # type: ignore[misc]
        equal = float((ours == theirs).float().mean())
        print(
            f"{name:10} {f'{outputs}x{inputs}':>12} {engine_seconds:15.3f} {ours_seconds:13.4f}"
            f" {engine_seconds / ours_seconds:6.1f}x  {equal:.2%}"
        )


if __name__ == "__main__":
    main()
