"""Mixed precision in a run: one sensitivity stage for all who share it, bits in the job, refusals before work."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from evals.suites.resolve import load_suite
from pipelines.planning.concurrency import waits_of
from pipelines.planning.context import JobContext
from pipelines.planning.preflight import rule_violations
from pipelines.planning.stages import Stage, stages_of
from pipelines.recipe.run_config import RunConfig
from pipelines.report.markdown import escaped
from pipelines.report.notes import notes_of
from pipelines.report.page import render_page
from quantizers.precision.telling import told_precision
from registry.contracts import PrecisionRecord
from tests.records import checkpoint_record
from tests.unit.pipelines.report_records import report_record, report_rows
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, ROOT, Bench, run_config
from tests.walks import take, walk_of

DOWN = "model.layers.0.mlp.down_proj"


def mixed(method: str, budget: str = "9 bits", **parameters: Any) -> dict[str, Any]:
    asked = {"choices": [4, 16]} | parameters.pop("asked", {})
    return {"method": method, "group_size": 64, "mixed_precision": {"budget": budget} | asked} | parameters


def stages(**methods: dict[str, Any]) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages_of(run_config(methods=methods), MACHINE, FINGERPRINTS)}


def test_one_measurement_serves_all_methods_and_budgets_of_a_group_size() -> None:
    made = stages(
        gptq=mixed("gptq", asked={"trials": 5}),
        tight=mixed("gptq", "6 bits", asked={"trials": 9}),
        awq=mixed("awq"),
        rtn=mixed("rtn"),
        wide=mixed("gptq") | {"group_size": 32},
        plain={"method": "gptq", "group_size": 64},
    )
    assert [name for name in made if name.startswith("sensitivity")] == [
        "sensitivity:group64",
        "sensitivity:group32",
    ]
    assert made["sensitivity:group64"].config["trials"] == 48
    assert made["sensitivity:group64"].config["bits"] == [4]
    assert made["sensitivity:group64"].dtype == "float32"
    assert {name: "sensitivity" in stage.inputs for name, stage in made.items() if stage.kind == "quantize"} == {
        "quantize:gptq": True,
        "quantize:tight": True,
        "quantize:awq": True,
        "quantize:rtn": True,
        "quantize:wide": True,
        "quantize:plain": False,
    }
    assert "calibration" not in made["quantize:rtn"].inputs  # it looks at no row itself
    waits = waits_of(list(made.values()))
    assert waits["sensitivity:group64"] == {"prepare", "calibrate", "soundness"}
    assert "sensitivity:group64" in waits["quantize:awq"]


def test_without_mixed_precision_every_key_is_as_it_was() -> None:
    made = stages(gptq={"method": "gptq", "group_size": 64}, rtn={"method": "rtn", "group_size": 64})
    assert not [name for name in made if name.startswith("sensitivity")]
    assert "mixed_precision" not in made["quantize:gptq"].config["method"]
    assert set(made["quantize:rtn"].inputs) == {"checkpoint"}


def test_the_job_says_each_module_s_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    # Both have the room for one: the one that loses more gets it.
    outcomes = bench.run(run_config(methods={"gptq": mixed("gptq", "13 bits")}))
    assert outcomes["sensitivity:group64"].how == "done"
    assert outcomes["measure:gptq"].how == "done"
    (job_file,) = bench.workspace.root.glob("runs/*/stages/quantize-gptq.job.json")
    job = json.loads(job_file.read_text())
    assert job["precision"]["module_bits"] == {"model.layers.0.self_attn.o_proj": 4, DOWN: 16}
    (job_file,) = bench.workspace.root.glob("runs/*/stages/sensitivity-group64.job.json")
    kept = Path(json.loads(job_file.read_text())["trials_file"])
    assert kept.parent == bench.workspace.root / "trials"
    # Another budget measures nothing anew.
    again = bench.run(run_config(methods={"gptq": mixed("gptq", "12.5 bits")}))
    assert again["sensitivity:group64"].how == "reused"
    assert again["quantize:gptq"].how == "done"


def test_trials_are_kept_for_the_next_run_until_the_record_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, config = Bench(tmp_path, monkeypatch), run_config(methods={"gptq": mixed("gptq", "13 bits")})
    assert bench.run(config, sensitivity_group64="kill")["quantize:gptq"].how == "skipped"
    (job_file,) = bench.workspace.root.glob("runs/*/stages/sensitivity-group64.job.json")
    kept = Path(json.loads(job_file.read_text())["trials_file"])
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("what the killed process had measured\n")
    assert bench.run(config)["sensitivity:group64"].how == "done"
    files = bench.workspace.root.glob("runs/*/stages/sensitivity-group64.job.json")
    assert {json.loads(file.read_text())["trials_file"] for file in files} == {str(kept)}  # the second was told of it
    assert not kept.exists()


@pytest.mark.parametrize(
    ("entry", "engine", "told"),
    [
        (mixed("gptq", "4 bits"), "vllm", "4 bits is less than the least there is"),
        (mixed("rtn", "1 GB"), "vllm", "holds the whole model as it is"),
        (mixed("awq", asked={"modules": {"model.layers.9.*": 16}}), "vllm", "no Linear of this model"),
        (
            mixed("gptq", asked={"choices": [4, 8, 16]}),
            "vllm",
            r"no CPU kernel for packed weights in 8 bits .*mixed_precision.choices: \[4, 16\]",
        ),
        (mixed("gptq"), "transformers", "transformers takes all modules of a GPTQ artifact for packed"),
    ],
)
def test_what_cannot_be_is_refused_before_work(entry: dict[str, Any], engine: str, told: str) -> None:
    config: RunConfig = run_config(methods={"mine": entry}, serving={"engine": engine})
    found = rule_violations(JobContext(config, MACHINE, load_suite("demo"), []), checkpoint_record("sha256:c"))
    text = "\n".join(found)
    assert re.search(f"mine: .*{told}", text), text


def test_the_bits_are_told_by_part_and_layer() -> None:
    bits = {
        f"model.layers.{layer}.mlp.{part}": 4 for layer in range(3) for part in ("gate_proj", "up_proj", "down_proj")
    }
    bits |= {"model.layers.2.mlp.down_proj": 16, "model.layers.0.mlp.gate_proj": 8, "model.layers.0.mlp.up_proj": 8}
    bits["model.layers.1.mlp.down_proj"] = 16
    record = PrecisionRecord(
        budget="6 bits",
        budget_bytes=1,
        expected_bytes=1,
        module_bits=bits,
        expected_nats=0.1,
        uniform_nats=0.2,
        sensitivity_digest="sha256:s",
    )
    assert told_precision(record) == (
        "within 6 bits: as they are: mlp.down_proj of layers 1, 2; 8 bits: mlp.gate_up_proj of layer 0;"
        " all others 4 bits"
    )


def test_the_walk_prints_what_the_document_says(capsys: pytest.CaptureFixture[str]) -> None:
    take(walk_of(ROOT / "docs" / "mixed-precision.md"), capsys)


def test_page_and_notes_show_modules_and_why(tmp_path: Path) -> None:
    rows = report_rows()
    place = next(place for place, row in enumerate(rows) if row.artifact)
    artifact = rows[place].artifact
    assert artifact is not None
    precision = PrecisionRecord(
        budget="4.6 bits",
        budget_bytes=1,
        expected_bytes=1,
        module_bits={DOWN: 16, "model.layers.1.mlp.down_proj": 4},
        chosen_by={DOWN: "0.25 nats a token saved with 1,000 bytes, measured"},
        expected_nats=0.125,
        uniform_nats=0.375,
        sensitivity_digest="sha256:s",
    )
    mixed_artifact = artifact.model_copy(update={"precision": precision})
    rows[place] = rows[place].model_copy(update={"artifact": mixed_artifact})
    record = report_record(tmp_path, rows=rows)
    page = render_page(record, load_suite("demo"), datetime(2026, 1, 1, tzinfo=UTC))
    told = "within 4.6 bits: as they are: mlp.down_proj of layer 0; all others 4 bits"
    assert told in page
    assert "0.25 nats a token saved with 1,000 bytes, measured" in page
    assert "modules lose 0.125 nats a token in all, and 0.375 if all had 4 bits" in page
    assert escaped(told) in notes_of(record).rows[rows[place].name]
