"""The bill is valid CycloneDX, names what the artifact was made of by digest, and is the same at every export."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from pipelines.records.artifact_of_run import ArtifactOfRun
from pipelines.report import bill_of_materials as module
from pipelines.report.bill_of_materials import bill_of_materials
from tests.unit.pipelines.export_records import CALIBRATION, CHECKPOINT, SUITE, found_in, workspace_with
from tests.unit.pipelines.test_model_card import hostile, of_checkpoint


@pytest.fixture
def found(tmp_path: Path) -> ArtifactOfRun:
    return found_in(*workspace_with(tmp_path))


def bill(found: ArtifactOfRun) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(bill_of_materials(found))
    return read


def hashed(component: dict[str, Any]) -> str:
    (one,) = component["hashes"]
    assert one["alg"] == "SHA-256"
    return f"sha256:{one['content']}"


def test_the_model_and_what_it_was_made_of(found: ArtifactOfRun) -> None:
    told = bill(found)
    model = told["metadata"]["component"]
    assert (model["type"], hashed(model)) == ("machine-learning-model", found.artifact.digest)
    assert {one["name"]: hashed(one) for one in model["components"]} == {
        name: entry.digest for name, entry in found.files.items() if name != "README.md"
    }
    (ancestor,) = model["pedigree"]["ancestors"]
    parts = {one["bom-ref"]: one for one in told["components"]}
    assert len(parts) == len(told["components"])
    base = parts["base-model"]
    assert ancestor == {key: value for key, value in base.items() if key != "bom-ref"}
    assert (base["group"], base["name"]) == ("HuggingFaceTB", "SmolLM2-135M-Instruct")
    assert hashed(base) == CHECKPOINT
    assert base["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert hashed(parts["calibration-data"]) == CALIBRATION
    assert hashed(parts["evaluation-suite"]) == SUITE
    assert told["dependencies"][0] == {"ref": "artifact", "dependsOn": list(parts)}


def test_two_versions_of_one_library_are_both_told(found: ArtifactOfRun) -> None:
    libraries = {one["bom-ref"]: one for one in bill(found)["components"] if one["type"] == "library"}
    used = {reference: one["properties"][0]["value"] for reference, one in libraries.items()}
    assert used == {
        "pkg:pypi/gptqmodel@7.3.6": "quantizing",
        "pkg:pypi/lm-eval@0.4.13": "measuring",
        "pkg:pypi/torch@2.13.0%2Bcpu": "measuring",
        "pkg:pypi/torch@2.6.0": "quantizing",
    }


def test_the_model_card_holds_the_numbers_with_their_intervals(found: ArtifactOfRun) -> None:
    card = bill(found)["metadata"]["component"]["modelCard"]
    metrics = {(one["type"], one["slice"]): one for one in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["recovery", "arithmetic"] == {
        "type": "recovery",
        "slice": "arithmetic",
        "value": "0.81",
        "confidenceInterval": {"lowerBound": "0.73", "upperBound": "0.89"},
    }
    assert metrics["word_perplexity", "language"]["value"] == "25.1613"
    limits = card["considerations"]["technicalLimitations"]
    assert limits[0].startswith("The weights were rounded to 4 bits")


def test_a_second_bill_is_the_same_and_another_run_s_is_not(found: ArtifactOfRun) -> None:
    assert bill_of_materials(found) == bill_of_materials(found)
    other = found._replace(run=found.run.model_copy(update={"run_id": "another"}))
    assert bill(other)["serialNumber"] != bill(found)["serialNumber"]
    # 850 s after the start.
    assert bill(found)["metadata"]["timestamp"] == "2026-05-01T12:14:10Z"


def test_a_licence_without_an_spdx_name_keeps_its_own(found: ArtifactOfRun) -> None:
    parts = bill(of_checkpoint(found, license="llama3.2"))["components"]
    assert parts[0]["licenses"] == [{"license": {"name": "llama3.2", "acknowledgement": "declared"}}]
    assert "licenses" not in bill(of_checkpoint(found, license=None))["components"][0]


def test_texts_from_outside_break_nothing(found: ArtifactOfRun) -> None:
    text = bill_of_materials(hostile(found))
    assert not re.search(r"(?<!\\)\\u001b|\x1b", text)
    assert json.loads(text)["metadata"]["component"]["name"].startswith("a | b --- # c <img")


def test_an_invalid_bill_is_a_mistake_of_ours(found: ArtifactOfRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_hashes", lambda digest: [{"alg": "SHA-256", "content": "no digest"}])
    with pytest.raises(StageError, match=r"not as CycloneDX 1\.6 has it") as caught:
        bill_of_materials(found)
    assert caught.value.blame == "quantbench"


def test_where_the_run_knows_less(found: ArtifactOfRun) -> None:
    row = found.row.model_copy(update={"measurement": None, "retention": None, "characterization": None})
    artifact = found.artifact.model_copy(update={"calibration_digest": None})
    baseline = found.run.rows[0].model_copy(update={"checkpoint": None})
    run = found.run.model_copy(update={"rows": [baseline, row], "config": {"name": "demo"}})
    told = bill(ArtifactOfRun(run, row, artifact, found.files))
    assert told["components"][0]["name"] == "unknown"
    assert [one["bom-ref"] for one in told["components"] if one["type"] == "data"] == []
