"""A champion for tests of rendered deployments: made up, or a tiny model that is really served."""

import re
from pathlib import Path
from typing import Any

from pipelines.recipe.deploy_config import DeployConfig
from pipelines.rendering.deploy.champion import Champion, champion_of
from tests.unit.pipelines.report_records import report_record

DIGEST = "sha256:" + "d" * 64
CONFIG = {"serving": {"max_model_len": 512, "max_num_seqs": 16, "kv_cache_gib": 1}}
"""As the made-up rows were measured."""
SETTINGS: dict[str, dict[str, Any]] = {
    "kserve": {"storage": "pvc://models/gptq"},
    "llm-d": {"storage": "pvc://models/gptq"},
    "triton": {"image": "nvcr.io/nvidia/tritonserver:26.10-vllm-python-py3"},
    "sagemaker": {
        "storage": "s3://models/gptq",
        "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/vllm:v0.32.0",
        "role": "arn:aws:iam::123456789012:role/serving",
        "machine": "ml.g6.xlarge",
    },
    "vertex": {
        "storage": "gs://models/gptq",
        "image": "europe-docker.pkg.dev/project/serving/vllm:v0.32.0",
        "machine": "g2-standard-12",
        "accelerator": "NVIDIA_L4",
    },
}
"""What each target cannot know by itself."""


def champion(
    target: str = "docker-compose",
    *,
    name: str = "gptq",
    config: dict[str, Any] = CONFIG,
    serving: dict[str, Any] | None = None,
    memory: dict[str, Any] | None = None,
    unmeasured: bool = False,
    **settings: Any,
) -> Champion:
    """The row of `report_records`, as if it had been measured otherwise.

    Args:
        serving: Changes of its serving record.
        memory: Of the memory in it.
        unmeasured: It stays as it is.
        settings: On top of those that the target wants.
    """
    (row,) = [row for row in report_record(Path("nowhere")).rows if row.name == name]
    asked = DeployConfig.model_validate({**SETTINGS.get(target, {}), **settings})
    if unmeasured:
        return champion_of(row, "run-1", "smollm2", config, None, asked)
    assert row.measurement is not None
    served = row.measurement.serving
    changed = {"device": "cuda", "device_name": "NVIDIA L4"} if target == "triton" else {}
    changed |= {"memory": served.memory.model_copy(update=memory or {}), **(serving or {})}
    measurement = row.measurement.model_copy(update={"serving": served.model_copy(update=changed)})
    update: dict[str, Any] = {"measurement": measurement}
    if row.artifact is not None:
        update["artifact"] = row.artifact.model_copy(update={"digest": DIGEST})
    return champion_of(row.model_copy(update=update), "run-1", "smollm2", config, "3", asked)


def unit_commands(unit: str) -> tuple[list[str], list[str]]:
    """ExecStart and ExecStartPost of a rendered unit, as systemd reads them (systemd.syntax, "Quoting")."""
    lines = dict(line.partition("=")[::2] for line in unit.splitlines() if line.startswith("Exec"))
    return _words(lines["ExecStart"]), _words(lines["ExecStartPost"])


def unit_environment(unit: str) -> dict[str, str]:
    """Its variables, as far as they are quoted."""
    told = [_words(line.removeprefix("Environment=")) for line in unit.splitlines() if line.startswith('Environment="')]
    return dict(word.partition("=")[::2] for (word,) in told)


def _words(line: str) -> list[str]:
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    escapes = {"n": "\n"}
    read = (re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), word) for word in quoted)
    return [word.replace("%%", "%").replace("$$", "$") for word in read]
