"""The card is one that the hub's own library reads, says what the records say, and lets no foreign text through."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from pipelines.records.artifact_of_run import ArtifactOfRun
from pipelines.report.model_card import model_card
from pipelines.report.table import UNKNOWN
from tests.unit.pipelines.export_records import CALIBRATION, CHECKPOINT, HUB_ID, found_in, workspace_with

EVIL = "a | b\n---\n# c <img src=x onerror=alert(1)> [d](javascript:e) `f` \x1b[2J&lt;g&gt; {{h}}: *i*"


@pytest.fixture
def found(tmp_path: Path) -> ArtifactOfRun:
    return found_in(*workspace_with(tmp_path))


def changed(found: ArtifactOfRun, **update: Any) -> ArtifactOfRun:
    return found._replace(row=found.row.model_copy(update=update))


def of_checkpoint(found: ArtifactOfRun, **update: Any) -> ArtifactOfRun:
    baseline, *others = found.run.rows
    assert baseline.checkpoint is not None
    rows = [baseline.model_copy(update={"checkpoint": baseline.checkpoint.model_copy(update=update)}), *others]
    return found._replace(run=found.run.model_copy(update={"rows": rows}))


def read(card: str) -> ModelCard:
    return ModelCard(card, ignore_metadata_errors=False)


def rendered(card: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(read(card).text)


def test_the_hub_s_library_reads_the_metadata(found: ArtifactOfRun) -> None:
    data = read(model_card(found)).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("transformers", "apache-2.0", "text-generation")
    assert (data.base_model, data.base_model_relation) == (HUB_ID, "quantized")
    assert data.tags == ["quantbench", "quantized", "5-bit", "gptq"]
    assert data.model_name == "smollm2-135m-demo-gptq"
    results = {one.task_name: one for one in data.eval_results}
    assert list(results) == ["knowledge", "grammar", "arithmetic", "commonsense", "instruction", "language"]
    assert results["knowledge"].metric_value == pytest.approx(0.54 * 0.93)
    assert (results["language"].metric_type, results["language"].verified) == ("word_perplexity", False)
    assert results["language"].dataset_name == "Quantbench suite demo, version 2"


def test_what_is_not_known_is_not_made_up(found: ArtifactOfRun) -> None:
    local = found._replace(run=found.run.model_copy(update={"config": {"name": "demo", "source": {"kind": "gguf"}}}))
    data = read(model_card(of_checkpoint(local, license=None))).data
    assert not {"base_model", "base_model_relation", "license"} & set(data.to_dict())
    assert "Licence of the base model: not known." in model_card(of_checkpoint(found, license=None))


def test_the_text_says_what_was_measured(found: ArtifactOfRun) -> None:
    text = model_card(found)
    assert "| arithmetic | 31.0 % | 25.7 % | 0.81 [0.73, 0.89] | 120 |" in text
    assert "| language | 23.40 | 25.16 | 0.93 | 120 |" in text
    assert "undecided in" in text or "fails in" in text
    assert f"4 rows, 64 tokens from self, seed 0; `{CALIBRATION}`" in text
    assert f"`{CHECKPOINT}`" in text and f"`{found.artifact.digest}`" in text
    assert "| on disk, MiB | 257 | 109 |" in text
    assert "| output tokens/s, 8 requests at a time | 88.0 | 97.4 |" in text
    assert "vllm serve . --dtype bfloat16 --max-model-len 512\n" in text
    assert "About the base model: The weights were rounded to 4 bits (GGUF Q4\\_1) once before" in text
    assert found.files["model.safetensors"].digest.removeprefix("sha256:") in text
    assert found.files["README.md"].digest.removeprefix("sha256:") not in text
    assert text == model_card(found), "equal records give equal bytes"


def test_a_load_test_that_must_not_be_believed_has_no_speed(found: ArtifactOfRun) -> None:
    int8 = next(row for row in found.run.rows if row.name == "int8")
    text = model_card(found._replace(row=int8))
    assert f"| output tokens/s, 8 requests at a time | 88.0 | {UNKNOWN} |" in text
    assert "- quantized, 8 requests at a time: invalid: the client counted 2,048 output tokens" in text


def test_no_place_of_this_machine_is_told(found: ArtifactOfRun) -> None:
    assert str(found.run.run_dir.parent) not in model_card(found)
    assert ".venv" not in model_card(found)


@pytest.mark.parametrize("what", ["failure", "not compared", "not measured"])
def test_an_artifact_that_has_less_to_tell(found: ArtifactOfRun, what: str) -> None:
    changes: dict[str, Any] = {
        "failure": {"failure": "measure:gptq: the server died", "retention": None},
        "not compared": {"retention": None},
        "not measured": {"measurement": None, "retention": None},
    }[what]
    fewer = changed(found, **changes)
    rows = [fewer.row if row.name == "gptq" else row for row in found.run.rows]
    text = model_card(fewer._replace(run=found.run.model_copy(update={"rows": rows})))
    said = {
        "failure": "failed in measure:gptq: the server died",
        "not compared": "It was not compared with its base model.",
        "not measured": "It was not measured.",
    }[what]
    assert said in text
    assert ("model-index" in text) == (what != "not measured")
    read(text)


def test_a_score_that_is_no_number_is_left_out_of_the_index(found: ArtifactOfRun) -> None:
    assert found.row.measurement is not None
    evaluation = found.row.measurement.evaluation
    categories = [evaluation.categories[0].model_copy(update={"value": float("nan")}), *evaluation.categories[1:]]
    told = {"evaluation": evaluation.model_copy(update={"categories": categories})}
    card = model_card(changed(found, measurement=found.row.measurement.model_copy(update=told)))
    assert read(card).data.eval_results[0].task_name == "grammar"


def hostile(found: ArtifactOfRun) -> ArtifactOfRun:
    """Every text that somebody else may have written is one that wants out."""
    assert found.row.measurement is not None and found.row.retention is not None
    record = found.row.measurement
    scores = [record.evaluation.categories[0].model_copy(update={"category": EVIL, "metric": EVIL})]
    kept = [found.row.retention.categories[0].model_copy(update={"category": EVIL, "verdict_reason": EVIL})]
    serving = record.serving.model_copy(update={"device_name": EVIL, "quantization_kernel": EVIL})
    evaluation = record.evaluation.model_copy(update={"categories": scores, "suite": EVIL, "suite_version": EVIL})
    row = found.row.model_copy(
        update={
            "name": EVIL,
            "measurement": record.model_copy(update={"evaluation": evaluation, "serving": serving}),
            "retention": found.row.retention.model_copy(update={"categories": kept, "verdict_reason": EVIL}),
        }
    )
    told = of_checkpoint(found, origin=EVIL, note=EVIL, license=EVIL)
    rows = [*told.run.rows[:3], row]
    run = told.run.model_copy(update={"config": {"name": EVIL}, "rows": rows, "run_id": EVIL})
    artifact = found.artifact.model_copy(
        update={"parameters": {"bits": 4, EVIL: EVIL}, "engine_versions": {EVIL: EVIL}}
    )
    files = {EVIL: next(iter(found.files.values()))}
    return ArtifactOfRun(run, row.model_copy(update={"artifact": artifact}), artifact, files)


def test_no_foreign_text_leaves_its_place(found: ArtifactOfRun) -> None:
    card = model_card(hostile(found))
    assert "\x1b" not in card
    page = rendered(card)
    for tag in ("<img", "<a ", "<em>", "<code>f", "<h1># c", "<s>"):
        assert tag not in page
    assert page.count("<h1>") == 1 and page.count("<hr") == 0
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "&amp;lt;g&amp;gt;" in page
    data = read(card).data
    assert data.license.startswith("a | b --- # c <img")
    assert data.model_name == f"{data.license}-{data.license}"
    assert [one.metric_type for one in data.eval_results] == [data.license]
    assert set(data.to_dict()) == {"library_name", "pipeline_tag", "license", "tags", "model-index"}
    for table in page.split("<table>")[1:]:
        head, *rows = table.split("</table>")[0].split("<tr>")[1:]
        assert {row.count("<td") for row in rows} == {head.count("<th")}
