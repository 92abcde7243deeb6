"""README.md of an artifact: what it was made of and how, and what reads it. Equal work gives equal bytes: no time, no
place, no name."""

from __future__ import annotations

import json
from pathlib import Path

from quantizers.base import QuantizeJob, QuantizeOutcome
from registry.contracts.base import Method, format_of
from registry.files import write_text_atomically

_TRANSFORMERS_4 = "transformers 4 reads its config and tokenizer"
READERS: dict[Method, str] = {
    "gptq": f"vLLM, and transformers 5 through optimum and GPTQModel; {_TRANSFORMERS_4}",
    "awq": f"vLLM, and transformers 5 through GPTQModel; {_TRANSFORMERS_4}",
    "bnb_nf4": f"transformers 5 with bitsandbytes, and vLLM with vllm-bnb-plugin; {_TRANSFORMERS_4}",
    "bnb_int8": f"transformers 5 with bitsandbytes, and vLLM with vllm-bnb-plugin; {_TRANSFORMERS_4}",
    "rtn": f"vLLM, and transformers 5 with compressed-tensors; {_TRANSFORMERS_4}",
    "w8a8": f"vLLM, and transformers 5 with compressed-tensors; {_TRANSFORMERS_4}",
}
"""Format -> what reads it: the first two load and serve every artifact of a run, the last is tested in AutoAWQ's
environment (tests/integration/test_transformers_4.py)."""


def write_card(job: QuantizeJob, outcome: QuantizeOutcome, folder: Path) -> None:
    """Write README.md into an artifact's folder."""
    parameters = job.config.model_dump(mode="json", exclude={"method"})
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    calibrated = f"\n- calibration: {job.calibration_digest}" if job.calibration_dir else ""
    write_text_atomically(
        folder / "README.md",
        f"""\
# {job.checkpoint.architecture}, quantized by {job.config.method}

Made by Quantbench. What it was measured to have lost and gained stands in its run's record, which knows it by the
digest of this folder.

- base model: {job.checkpoint.origin}, {job.checkpoint.digest}
- method: {job.config.method} {json.dumps(parameters, sort_keys=True)}{calibrated}
- engine: {outcome.engine}; {versions}; worked in {job.dtype} on {job.device}
- read by: {READERS[format_of(job.config.method)]}
""",
    )
