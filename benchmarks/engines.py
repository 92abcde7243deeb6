"""GPTQModel beside the engines that it came from, on the same checkpoint and rows.

    quantbench run configs/recipes/originals.yaml
    PYTHONPATH=. python -P benchmarks/engines.py workspace/runs/<id>/result.json TEXT [--layer 0] [--threads 2]

Two tables. *Artifacts*: what each entry of the run took and gave, read from its record, with the perplexity of TEXT
(its first 8 x 512 tokens, float32 arithmetic on dequantized weights) and the error of each decoder layer's output on
them, the layer's own input given: |artifact - source| / |what the layer adds|, mean of the layers. *One layer*: each
Linear of one decoder layer rounded from the same inputs of the unquantized model: by the algorithm as the GPTQ paper
has it (arXiv 2210.17323, algorithm 1) in float64, by AutoGPTQ's class in its environment (on a CPU too: only its model
class asks for CUDA), and by ours. `equal` is the share of weights that are the reference's to a hundredth of the mean
weight.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.quality import held_out_rows, perplexity_of, take_weights
from pipelines.environments.definition import environment_named
from pipelines.environments.making import in_use
from pipelines.records.run_record import RunRecord
from quantizers.engines.column_rounding import order_of_groups, round_columns
from quantizers.engines.gptqmodel_engine import import_engine
from registry.contracts import CheckpointRecord
from registry.contracts.base import format_of
from registry.sealed import read_sealed

GROUP, BITS, DAMP = 64, 4, 0.01
_AUTOGPTQ = """\
import sys, time, torch
from safetensors.torch import load_file, save_file
torch.cuda.synchronize = lambda *_: None
from auto_gptq.quantization import GPTQ
tensors, found, seconds = load_file(sys.argv[1]), {}, 0.0
torch.set_num_threads(int(sys.argv[3]))
for name in {key.rpartition(":")[0] for key in tensors}:
    weight, inputs = tensors[name + ":weight"], tensors[name + ":inputs"]
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data = weight.clone()
    one = GPTQ(linear)
    one.quantizer.configure(4, perchannel=True, sym=True, mse=False)
    for row in inputs: one.add_batch(row[None], None)
    start = time.perf_counter()
    one.fasterquant(percdamp=0.01, group_size=64, actorder=False, static_groups=False)
    seconds += time.perf_counter() - start
    found[name] = linear.weight.data.clone()
found["seconds"] = torch.tensor(seconds)
save_file(found, sys.argv[2])
"""


def paper(weight: Any, inputs: Any) -> Any:
    """Algorithm 1 of the paper in float64, columns as they lie; symmetric ranges of 15 steps, as wide as each group is
    when its first column's turn comes.

    Args:
        weight: [rows, columns].
        inputs: [tokens, columns].
    """
    import torch

    w, x = weight.double().clone(), inputs.double()
    hessian = 2 * x.T @ x
    hessian.diagonal().add_(DAMP * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    for column in range(w.shape[1]):
        if column % GROUP == 0:
            step = w[:, column : column + GROUP].abs().amax(1) * 2 / (2**BITS - 1)
        level = (w[:, column] / step).round().clamp(-(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1)
        error = (w[:, column] - level * step) / upper[column, column]
        w[:, column] = level * step
        w[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return w


def ours(weight: Any, inputs: Any, *, ordered: bool, range_search: bool) -> Any:
    """What the methods `gptq` and `awq` round by."""
    import torch

    hessian = inputs.T @ inputs
    hessian.diagonal().add_(DAMP * hessian.diagonal().mean())
    order = order_of_groups(hessian.diagonal(), GROUP)
    if not ordered:
        order = order._replace(columns=torch.arange(len(hessian)), groups=torch.arange(len(hessian) // GROUP))
    lower = torch.linalg.cholesky(hessian[order.columns][:, order.columns])
    factor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return round_columns(
        weight, factor, order, group_size=GROUP, bits=BITS, symmetric=True, range_search=range_search
    ).weights


def by_autogptq(layer: dict[str, tuple[Any, Any]], threads: int) -> tuple[dict[str, Any], float]:
    """The layer's Linears rounded by AutoGPTQ's GPTQ, and its seconds; columns as they lie."""
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.safetensors", Path(folder) / "found.safetensors"
        save_file(
            {
                f"{name}:{part}": one.contiguous()
                for name, both in layer.items()
                for part, one in zip(("weight", "inputs"), both, strict=True)
            },
            given,
        )
        with in_use(environment_named("autogptq", "cpu"), lambda text: print(text, file=sys.stderr)) as python:
            argv = [python, "-P", "-c", _AUTOGPTQ, given, found, str(threads)]
            subprocess.run([str(one) for one in argv], check=True, stdout=sys.stderr)
        rounded = load_file(found)
    return rounded, float(rounded.pop("seconds"))


class Models:
    """The source, and a twin that takes one artifact's weights after the other."""

    def __init__(self, record: RunRecord, text: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.store = record.run_dir.parent.parent / "store" / "objects"
        prepared = next(one.result.record for one in record.outcomes if one.name == "prepare")
        checkpoint = CheckpointRecord.model_validate(prepared)
        self.shapes = checkpoint.linear_shapes
        self.folder = self.path(checkpoint.digest)
        self.rows = torch.tensor(held_out_rows(text, AutoTokenizer.from_pretrained(self.folder)))
        calibration = next(one.result for one in record.outcomes if one.name == "calibrate")
        rows = json.loads((self.path(calibration.object.digest) / "rows.json").read_text())  # type: ignore[union-attr]
        self.calibration = torch.tensor(rows)
        self.source = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        self.twin = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()

    def path(self, digest: str) -> Path:
        """Of an object of the run's store."""
        return self.store / digest.removeprefix("sha256:")

    def layer_errors(self) -> list[float]:
        """Of each decoder layer of the twin, the source's input given."""
        import torch

        errors: list[float] = []

        def compare(layer: Any, twin: Any) -> Any:
            def hook(_: Any, args: Any, kwargs: Any, output: Any) -> None:
                whole = output[0] if isinstance(output, tuple) else output
                other = twin(*args, **kwargs)
                other = other[0] if isinstance(other, tuple) else other
                errors.append(float((other - whole).norm() / (whole - args[0]).norm()))

            return layer.register_forward_hook(hook, with_kwargs=True)

        pairs = zip(self.source.model.layers, self.twin.model.layers, strict=True)
        hooks = [compare(layer, twin) for layer, twin in pairs]
        with torch.inference_mode():
            self.source(self.rows[:4], use_cache=False)
        for hook in hooks:
            hook.remove()
        return errors

    def inputs_of(self, layer: int, rows: Any) -> dict[str, Any]:
        """Linear of a decoder layer -> what the unquantized model feeds it, [rows, tokens, columns]."""
        import torch

        seen: dict[str, Any] = {}
        prefix = f"model.layers.{layer}."
        modules = {name: one for name, one in self.source.named_modules() if name in self.shapes}
        hooks = [
            one.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].clone()))
            for name, one in modules.items()
            if name.startswith(prefix)
        ]
        with torch.inference_mode():
            self.source(rows, use_cache=False)
        for hook in hooks:
            hook.remove()
        return seen


def artifacts(record: RunRecord, models: Models) -> None:
    """Print a line an entry."""
    print(
        json.dumps({"entry": "source", "perplexity": round(perplexity_of(models.source, models.rows), 2)}), flush=True
    )
    for row in record.rows:
        if row.artifact is None:
            continue
        made = row.artifact
        take_weights(models.twin, models.path(made.digest), format_of(made.method), models.shapes)
        errors = models.layer_errors()
        outcome = next(one.result for one in record.outcomes if one.name == f"quantize:{row.name}")
        kept = row.retention.categories if row.retention else []
        told = {
            "entry": row.name,
            "engine": f"{made.engine} {made.engine_versions[made.engine]}",
            "MB": round(made.size_bytes / 1e6, 1),
            "quantize_seconds": round(made.duration_seconds, 1),
            "peak_GiB": round((outcome.peak_memory_bytes or 0) / 2**30, 2),
            "layer_error_percent": round(100 * sum(errors) / len(errors), 2),
            "perplexity": round(perplexity_of(models.twin, models.rows), 2),
            "differences": {one.category: round(one.difference, 4) for one in kept if one.difference is not None},
        }
        print(json.dumps(told), flush=True)


def one_layer(models: Models, layer: int, threads: int) -> None:
    """Print a line a way to round the Linears of a decoder layer."""
    seen, held_out = models.inputs_of(layer, models.calibration), models.inputs_of(layer, models.rows[:4])
    weights = {name: models.source.get_parameter(f"{name}.weight").detach() for name in seen}
    both = {name: (weights[name], seen[name]) for name in seen}
    flat = {name: inputs.flatten(0, 1) for name, inputs in seen.items()}

    def each(by: Any) -> tuple[dict[str, Any], float]:
        start = time.perf_counter()
        found = {name: by(weights[name], flat[name]) for name in seen}
        return found, time.perf_counter() - start

    reference, seconds = each(paper)
    ways = {
        "the paper's algorithm, float64": (reference, seconds),
        "AutoGPTQ's class": by_autogptq(both, threads),
        "ours, columns as they lie, whole ranges": each(lambda *a: ours(*a, ordered=False, range_search=False)),
        "ours, columns in order inside groups": each(lambda *a: ours(*a, ordered=True, range_search=False)),
        "ours, and ranges searched": each(lambda *a: ours(*a, ordered=True, range_search=True)),
    }
    for way, (found, seconds) in ways.items():
        equal, count, errors = 0, 0, []
        for name, other in reference.items():
            step = weights[name].abs().mean() / 100
            equal += int(((found[name].double() - other).abs() < step).sum())
            count += other.numel()
            x, w = held_out[name].flatten(0, 1), weights[name]
            errors.append(float((x @ (found[name].float() - w).T).norm() / (x @ w.T).norm()))
        told = {
            "way": way,
            "equal_percent": round(100 * equal / count, 2),
            "output_error_percent": round(100 * sum(errors) / len(errors), 2),
            "seconds": round(seconds, 1),
        }
        print(json.dumps(told), flush=True)


def main() -> None:
    """Print a line an entry, then a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result.json of a run of configs/recipes/originals.yaml")
    parser.add_argument("text", type=Path, help="what is predicted: .txt, or .jsonl whose rows have one string")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    import_engine(arguments.threads)
    record = read_sealed(arguments.result, RunRecord)
    models = Models(record, arguments.text)
    one_layer(models, arguments.layer, arguments.threads)
    artifacts(record, models)


if __name__ == "__main__":
    main()
