"""GPTQ with a layer's forward passes run once and with the engine's own, alternated, on the first layers of a model.

Run: python -P benchmarks/gptq_forward.py CHECKPOINT [--layers 6] [--rows 64] [--tokens 128] [--repeats 2] [--threads 2]
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from quantizers.methods.gptq import GPTQ, Config
from registry.stage_process import StageClock


def shorten(checkpoint: Path, layers: int, output: Path) -> None:
    """Write the first `layers` decoder layers of a checkpoint, with its embeddings and tokenizer, into `output`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="auto", num_hidden_layers=layers)
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(output)


def quantize(checkpoint: Path, rows: list[list[int]], threads: int, own_passes: bool) -> tuple[float, dict[str, Any]]:
    """(seconds of the engine's quantization, tensors of the artifact), groups of 64, float32."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "output").mkdir()
        (folder / "rows.json").write_text(json.dumps(rows))
        job = QuantizeJob.model_validate(
            {
                "stage": "quantize",
                "result_file": folder / "result.json",
                "output_dir": folder / "output",
                "name": "benchmark",
                "config": Config(group_size=64),
                "checkpoint_dir": checkpoint,
                "checkpoint": describe(checkpoint, origin="benchmark"),
                "calibration_dir": folder,
                "calibration_digest": None,
                "device": "cpu",
                "dtype": "float32",
                "threads": threads,
            }
        )
        if own_passes:
            stack.enter_context(patch("quantizers.engines.gptq_forward.one_forward_pass", contextlib.nullcontext))
        clock = StageClock(folder / "progress")
        GPTQ().quantize(job, clock)
        return clock.timings_seconds["quantize"], load_file(folder / "output" / "model.safetensors")


def main() -> None:
    """Print the seconds of each run, the ratio of the best ones, and whether all tensors are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    for name, default in (("layers", 6), ("rows", 64), ("tokens", 128), ("repeats", 2), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    tensors: dict[bool, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        shorten(arguments.checkpoint, 1, Path(name) / "warm")
        shorten(arguments.checkpoint, arguments.layers, Path(name) / "model")
        rows = [
            [(row * 37 + place * place * 11) % 1000 for place in range(arguments.tokens)]
            for row in range(arguments.rows)
        ]
        quantize(Path(name) / "warm", rows[:8], arguments.threads, own_passes=False)  # first uses
        for _ in range(arguments.repeats):
            for own_passes in (True, False):
                spent, tensors[own_passes] = quantize(Path(name) / "model", rows, arguments.threads, own_passes)
                seconds[own_passes].append(spent)
                print("engine's passes" if own_passes else "one pass", f"{spent:.1f} s", file=sys.stderr)
    import torch

    equal = tensors[True].keys() == tensors[False].keys() and all(
        torch.equal(tensor, tensors[False][key]) for key, tensor in tensors[True].items()
    )
    print(
        f"float32, {arguments.threads} threads, {arguments.layers} layers, {arguments.rows} x {arguments.tokens} tokens"
    )
    print("engine_seconds", [round(value, 1) for value in seconds[True]])
    print("ours_seconds", [round(value, 1) for value in seconds[False]])
    print(f"ratio {min(seconds[True]) / min(seconds[False]):.2f}, all tensors equal: {equal}")


if __name__ == "__main__":
    main()
