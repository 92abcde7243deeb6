"""What a stage keeps while it works is there for the next run if it is killed, and gone once its result is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.execution.workspace import Workspace
from pipelines.planning.stages import stages_of
from tests.unit.pipelines.test_runner import FINGERPRINTS, GPTQ, MACHINE, Bench, run_config


def test_rounded_modules_are_kept_for_the_next_run_until_the_artifact_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, config = Bench(tmp_path, monkeypatch), run_config(methods={"gptq": GPTQ})
    assert bench.run(config, quantize_gptq="kill")["quantize:gptq"].how == "failed"
    (job_file,) = bench.workspace.root.glob("runs/*/stages/quantize-gptq.job.json")
    kept = Path(json.loads(job_file.read_text())["kept_dir"])
    assert kept.parent == bench.workspace.root / "rounded"
    (kept / "1-threads").mkdir(parents=True)
    (kept / "1-threads" / "model.layers.0.mlp.up_proj.rounded").write_text("what the killed process had rounded")
    assert bench.run(config)["quantize:gptq"].how == "done"
    jobs = bench.workspace.root.glob("runs/*/stages/quantize-gptq.job.json")
    assert {json.loads(file.read_text())["kept_dir"] for file in jobs} == {str(kept)}  # the second was told of it
    assert not kept.exists()


def test_another_config_has_another_place(tmp_path: Path) -> None:
    def place(method: dict[str, Any], **changes: Any) -> Path:
        made = stages_of(run_config(methods={"gptq": GPTQ | method}, **changes), MACHINE, FINGERPRINTS)
        (stage,) = [stage for stage in made if stage.name == "quantize:gptq"]
        return Workspace(tmp_path).kept_dir(stage.shaping)

    places = [place({}), place({"damp_percent": 0.01}), place({}, dtype={"quantize": "bfloat16"})]
    assert len(set(places)) == 3
    assert place({}) == places[0]
