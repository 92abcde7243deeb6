"""What quantization settings cost in perplexity: each made by the real stages, dequantized, and read in float32.

Run: python -P benchmarks/quality.py CHECKPOINT TEXT SETTINGS [--threads 2] [--dtype bfloat16] [--work FOLDER]
         [--categories arithmetic knowledge]

CHECKPOINT is a prepared folder. TEXT is what is predicted: .txt, or .jsonl whose rows have one string; its first 8 rows
of 512 tokens are read, each beginning as the model expects a text to begin. SETTINGS is a JSON file of method
entries as in a recipe, those of calibrated methods with a calibration of their own:

    {"nf4": {"method": "bnb_nf4"},
     "gptq": {"method": "gptq", "group_size": 64, "calibration": {"source": "self", "samples": 64, "tokens": 128}}}

An entry may ask for mixed precision; what it is chosen by is measured once for all entries with one group size. Beside
each perplexity stand the bits a weight, so that settings of equal size can be compared (mixed_precision.json).

Perplexity is of whole artifacts on one text; differences of one or two per cent are not evidence. Categories are of the
suite `demo`: the share of their items that lm-eval's own `hf` scores as right, of each kind and of all.
"""

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from configs.reading.json_text import read_json_lines, read_json_object
from evals.suites.resolve import load_suite, resolve
from quantizers.base import (
    LinearShapes,
    MethodConfig,
    QuantizeJob,
    load_method,
    mixed_precision_of,
    packing_of,
    parse_config,
)
from quantizers.calibration.calibration import ROWS_FILE, calibrate
from quantizers.calibration.config import CalibrateJob
from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.safetensors_header import read_headers
from quantizers.checkpoints.sources import read_config
from quantizers.inspection.dequantize import TensorFiles, dequantize
from quantizers.inspection.inspection import bits_per_weight
from quantizers.precision.choice import choose_precision
from quantizers.sensitivity.stage import SensitivityJob, measure_sensitivity
from registry.contracts import CheckpointRecord, PrecisionRecord, SensitivityRecord
from registry.contracts.base import Method
from registry.hashing import digest_of
from registry.stage_process import StageClock
from registry.texts import opening_of

ROWS, TOKENS = 8, 512


class Bench:
    """One checkpoint, one text, and the calibration sets that several settings share."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(arguments.threads)
        self.folder: Path = arguments.checkpoint
        self.record: CheckpointRecord = describe(self.folder, origin="benchmark")
        self.common = {"result_file": work / "result.json", "device": "cpu", "threads": arguments.threads}
        self.common |= {"checkpoint_dir": self.folder, "checkpoint": self.record, "dtype": arguments.dtype}
        self.work, self.clock = work, StageClock(work / "progress")
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.rows = torch.tensor(held_out_rows(arguments.text, tokenizer))
        self.model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32).eval()
        # Whole: how many items a category has depends on how many there are.
        self.suite = resolve(load_suite("demo"))
        self.categories = [one for one in self.suite.suite.categories if one.name in arguments.categories]
        self.tokenizer = tokenizer

    def perplexity(self) -> float:
        """Of the model as its weights are now."""
        return perplexity_of(self.model, self.rows)

    def scores(self) -> dict[str, float]:
        """`category` and `category, kind` -> share of items that are right, of the model as its weights are now."""
        if not self.categories:
            return {}
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        tasks = {task.name: task for category in self.categories for task in self.suite.of(category.name)}
        with contextlib.redirect_stdout(sys.stderr):
            found = simple_evaluate(
                model=HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=16),
                tasks=[task.lm_eval_config() for task in tasks.values()],
                samples={name: task.sampled_ids(task.documents or 0) for name, task in tasks.items()},
                bootstrap_iters=0,
                fewshot_random_seed=self.suite.suite.seed,
            )["samples"]
        right: dict[str, list[float]] = defaultdict(list)
        for category in self.categories:
            for task in self.suite.of(category.name):
                for item in found[task.name]:
                    for name in (category.name, f"{category.name}, {item['doc'].get(category.kind)}"):
                        right[name].append(float(item[category.metric]))
        return {name: round(sum(values) / len(values), 3) for name, values in right.items()}

    def quantize(self, name: str, setting: dict[str, Any]) -> dict[str, Any]:
        """Give the model the weights of one setting; seconds, and the bits that they take."""
        setting = dict(setting)
        calibration = setting.pop("calibration", None)
        rows, calibrate_seconds = self._calibrated(calibration) if calibration else (None, 0.0)
        config = parse_config(setting)
        with tempfile.TemporaryDirectory(dir=self.work) as output:
            job = QuantizeJob(
                stage="quantize",
                output_dir=Path(output),
                name=name,
                config=config,
                calibration_dir=rows,
                calibration_digest=None,
                precision=self._precision(config, rows),
                **self.common,  # type: ignore[arg-type]
            )
            start = time.perf_counter()
            load_method(config.method).quantize(job, self.clock)
            seconds = time.perf_counter() - start
            take_weights(self.model, Path(output), config.method, self.record.linear_shapes)
            bits = bits_per_weight(read_headers(Path(output)), self.record.linear_shapes)
        more = Counter(job.precision.module_bits.values()) if job.precision else {}
        return {
            "calibrate_seconds": round(calibrate_seconds, 1),
            "quantize_seconds": round(seconds, 1),
            "bits_per_weight": round(bits, 4),
            **({"modules": dict(sorted(more.items()))} if more else {}),
        }

    def _precision(self, config: MethodConfig, rows: Path | None) -> PrecisionRecord | None:
        """What mixed precision chooses, from losses that are measured once for a group size and its rows."""
        mixed, packing = mixed_precision_of(config), packing_of(config)
        if mixed is None:
            return None
        if rows is None:
            raise ValueError("mixed precision is chosen by calibration rows; give the setting a `calibration`")
        kept = self.work / f"sensitivity-{rows.name}-{packing.group_size}-{mixed.trials}.json"
        if not kept.exists():
            common = self.common | {"dtype": "float32", "calibration_dir": rows, "calibration_digest": rows.name}
            job = SensitivityJob(
                stage="sensitivity",
                group_size=packing.group_size,
                bits=[4, 8],
                trials=mixed.trials,
                trials_file=kept.with_suffix(".jsonl"),
                **common,  # type: ignore[arg-type]
            )
            kept.write_text(measure_sensitivity(job, self.clock)[0].model_dump_json(indent=1))
        sensitivity = SensitivityRecord.model_validate_json(kept.read_text())
        return choose_precision(mixed, packing, self.record, sensitivity)

    def _calibrated(self, config: dict[str, Any]) -> tuple[Path, float]:
        """The folder with the rows, and how long they took; 0 where they are there already."""
        output = self.work / f"calibration-{digest_of(config).removeprefix('sha256:')[:12]}"
        if (output / ROWS_FILE).exists():
            return output, 0.0
        output.mkdir(exist_ok=True)
        job = CalibrateJob(stage="calibrate", output_dir=output, config=config, excluded_texts=[], **self.common)  # type: ignore[arg-type]
        start = time.perf_counter()
        calibrate(job, self.clock)
        return output, time.perf_counter() - start


def perplexity_of(model: Any, rows: Any) -> float:
    """Of a model on rows of token ids, [rows, tokens]."""
    import torch

    losses = []
    with torch.inference_mode():
        for row in rows.split(2):
            logits = model(row).logits[:, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), row[:, 1:].flatten()).double())
    return math.exp(float(torch.stack(losses).mean()))


def take_weights(model: Any, artifact: Path, method: Method, linear_shapes: LinearShapes) -> None:
    """Give a model an artifact's weights, dequantized."""
    config = read_config(artifact)["quantization_config"]
    with TensorFiles(artifact) as files:
        for name, parameter in model.named_parameters():
            module = name.removesuffix(".weight")
            if module in linear_shapes:
                parameter.data = dequantize(files, module, method, config)
            elif name in files:
                parameter.data = files.read(name).float()


def held_out_rows(path: Path, tokenizer: Any) -> list[list[int]]:
    """The first rows of a text, [ROWS][TOKENS]."""
    if path.suffix == ".jsonl":
        text = "".join(
            next(value for value in row.values() if isinstance(value, str)) for _, row in read_json_lines(path)
        )
    else:
        text = path.read_text(encoding="utf-8")
    opening = opening_of(tokenizer)
    size = TOKENS - len(opening)
    ids = tokenizer(text[: 40 * ROWS * TOKENS], add_special_tokens=False)["input_ids"]
    return [opening + ids[start : start + size] for start in range(0, ROWS * size, size)]


def main() -> None:
    """Print a line a setting as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "text", "settings"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", help="what the engines work in")
    parser.add_argument("--work", type=Path, help="keeps calibration sets from run to run")
    parser.add_argument("--categories", nargs="*", default=[], help="of the suite demo, scored beside the perplexity")
    arguments = parser.parse_args()
    settings = read_json_object(arguments.settings)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments, work.resolve())
        for name, setting in {"source": None, **settings}.items():
            took = {}
            try:
                if setting is not None:
                    took = bench.quantize(name, setting)
                found = {"setting": name, "perplexity": round(bench.perplexity(), 2)}
                print(json.dumps(found | took | bench.scores()), flush=True)
            except Exception as error:  # The next setting may do.
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
