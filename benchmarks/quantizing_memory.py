"""Peak memory of quantizing: the model plus one layer's work? `python -m benchmarks.quantizing_memory FOLDER METHOD...`

Each method works as a process of its own on a prepared checkpoint folder, or on a random mixture of experts of about
1 B parameters where the folder is `moe-1b`. A row: the weights as they are held, what the engine takes, the peak of the
process, and what of it is neither model nor engine, in layers. The engine's part is what is held after it has made a
tiny model, since engines import much on the way. Memory is what the process has for itself (RssAnon of proc(5), looked
at twenty times a second): pages of files that it has mapped go when somebody else needs the room. The peak with those
is told too.
"""

import gc
import json
import resource
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from math import prod
from pathlib import Path

from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.safetensors_header import read_headers
from registry.contracts.base import Method
from tests.model_trial import quantize_job
from tests.tiny_llama import make_tiny_llama, make_tiny_tokenizer

GIB = 2**30
WIDTH = {"float32": 4, "bfloat16": 2}


def random_mixture(path: Path) -> Path:
    """A Qwen3-MoE of 1.0 B random parameters in bfloat16: 12 layers of 32 experts, two of them a token."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        hidden_size=1024,
        num_hidden_layers=12,
        moe_intermediate_size=768,
        num_experts=32,
        num_experts_per_tok=2,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        vocab_size=32768,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.set_default_dtype(torch.bfloat16)
    Qwen3MoeForCausalLM(config).save_pretrained(path)
    make_tiny_tokenizer(path)
    return path


def layer_elements(folder: Path) -> int:
    """Weights of the largest decoder layer."""
    layers: dict[str, int] = defaultdict(int)
    for name, info in read_headers(folder).items():
        if ".layers." in name:
            layers[name.split(".layers.")[1].split(".")[0]] += prod(info.shape)
    return max(layers.values())


def child(tiny_file: str, job_file: str) -> None:
    """Quantize a tiny model and the one asked about; print what is held after the first, and the peaks, in bytes."""
    from quantizers.__main__ import quantize_stage
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

    tiny, job = (QuantizeJob.model_validate_json(Path(file).read_text()) for file in (tiny_file, job_file))
    quantize_stage(tiny, StageClock(tiny.output_dir.parent / "progress"))
    gc.collect()
    before, ended, seen = own_bytes(), threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(0.05):
            seen[0] = max(seen[0], own_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    quantize_stage(job, StageClock(job.output_dir.parent / "progress"))
    ended.set()
    watching.join()
    print(json.dumps([before, seen[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def own_bytes() -> int:
    """What this process holds in memory that is in no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])


def main(folder: str, methods: list[Method]) -> None:
    """A row a method."""
    with tempfile.TemporaryDirectory() as room:
        source = random_mixture(Path(room) / "model") if folder == "moe-1b" else Path(folder).resolve()
        record = describe(source, origin=str(source))
        small = make_tiny_llama(Path(room) / "tiny")
        tiny = describe(small, origin=str(small))
        layer = layer_elements(source)
        print(f"{record.parameters / 1e9:.2f} B parameters, {layer / 1e6:.1f} M in the largest layer")
        for method in methods:
            # A random router may leave an expert out; that it is rounded then is no matter here.
            parameters = {"unreached_experts": "round"} if method == "gptq" else {}
            files = []
            for checkpoint, name in ((tiny, "tiny"), (record, "whole")):
                work = Path(room) / method / name
                work.mkdir(parents=True)
                job = quantize_job(checkpoint, method, work, **parameters)
                files.append(work / "job.json")
                files[-1].write_text(job.model_dump_json())
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.quantizing_memory", "--child", *files],
                check=True,
                stdout=subprocess.PIPE,
            )
            before, peak, with_files = json.loads(done.stdout.splitlines()[-1])
            width = WIDTH[job.dtype]
            model = record.parameters * width
            beyond = (peak - before - model) / (layer * width)
            print(
                f"{method} in {job.dtype}: model {model / GIB:.2f} GiB, engine {before / GIB:.2f} GiB, peak"
                f" {peak / GIB:.2f} GiB ({with_files / GIB:.2f} with files); beyond both"
                f" {(peak - before - model) / GIB:.2f} GiB, {beyond:.1f} layers' weights",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(*sys.argv[2:])
    else:
        main(sys.argv[1], sys.argv[2:])  # type: ignore[arg-type]
