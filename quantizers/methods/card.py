"""README.md of an artifact: what it was made of and how, and what reads it. Equal work gives equal bytes: no time, no
place, no name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from quantizers.base import QuantizeJob, QuantizeOutcome
from quantizers.checkpoints.expert_names import has_experts
from quantizers.precision.telling import told_precision
from registry.contracts import PrecisionRecord
from registry.contracts.base import Method, format_of, is_imported
from registry.files import write_text_atomically

READERS: dict[Method, str] = {
    "gptq": "vLLM, and transformers 5 through optimum and GPTQModel",
    "awq": "vLLM, and transformers 5 through GPTQModel",
    "bnb_nf4": "transformers 5 with bitsandbytes, and vLLM with vllm-bnb-plugin",
    "bnb_int8": "transformers 5 with bitsandbytes, and vLLM with vllm-bnb-plugin",
    "rtn": "vLLM, and transformers 5 with compressed-tensors",
    "w8a8": "vLLM, and transformers 5 with compressed-tensors",
    "fp8": "vLLM, and transformers 5 with compressed-tensors",
    "nvfp4": "vLLM, and transformers 5 with compressed-tensors",
    "gguf": "llama.cpp and what is made of it; transformers 5 by `gguf_file`, for some architectures",
}
"""Format -> what reads it: these load and serve every artifact of a run. That transformers 4 reads each one's config
and tokenizer is tested in AutoAWQ's environment (tests/integration/test_transformers_4.py)."""


_READERS_OF_EXPERTS: dict[Method, str] = {
    "gptq": "vLLM and GPTQModel; transformers 5 fills the experts with random numbers",
    "awq": "vLLM and GPTQModel; transformers 5 fills the experts with random numbers",
    "w8a8": "vLLM; transformers 5 takes the experts' integers for packed ones, and refuses them",
}
"""The same of mixtures of experts, where it is another."""


def readers_of(method: Method, precision: PrecisionRecord | None, linears: Iterable[str]) -> str:
    """What reads an artifact.

    Args:
        method: That made it.
        precision: Of its modules, where they have several.
        linears: Names of its Linears.
    """
    kind = format_of(method)
    if kind in _READERS_OF_EXPERTS and has_experts(linears):
        return _READERS_OF_EXPERTS[kind]
    if precision and kind == "gptq":
        return "vLLM and GPTQModel; transformers takes all modules for alike, and is wrong about those named"
    return READERS[kind]


def write_card(job: QuantizeJob, outcome: QuantizeOutcome, folder: Path) -> None:
    """Write README.md into an artifact's folder."""
    parameters = job.config.model_dump(mode="json", exclude={"method"}) | outcome.found
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    calibrated = f"\n- calibration: {job.calibration_digest}" if job.calibration_dir else ""
    imported = is_imported(job.config.method)
    made = "Imported by Quantbench, which changed no weight" if imported else "Made by Quantbench"
    by = f"{outcome.engine}; {versions}; worked in {job.dtype} on {job.device}" if not imported else outcome.engine
    precisions = f"\n- precisions: {told_precision(job.precision)}" if job.precision else ""
    readers = readers_of(job.config.method, job.precision, job.checkpoint.linear_shapes)
    write_text_atomically(
        folder / "README.md",
        f"""\
# {job.checkpoint.architecture}, quantized by {job.config.method}

{made}. What it was measured to have lost and gained stands in its run's record, which knows it by the
digest of this folder.

- base model: {job.checkpoint.origin}, {job.checkpoint.digest}
- method: {job.config.method} {json.dumps(parameters, sort_keys=True)}{calibrated}{precisions}
- engine: {by}
- read by: {readers}; transformers 4 reads its config and tokenizer
""",
    )
