"""The quantizers' stages on a tiny Llama: real bitsandbytes, and artifacts that were ruined on purpose."""

import json
import shutil
from pathlib import Path

import pytest

from configs.errors import RequestError
from quantizers.__main__ import calibrate_stage, inspect_stage, quantize_stage
from quantizers.base import QuantizeJob
from quantizers.calibration.config import CalibrateJob
from quantizers.checkpoints.checkpoint import PrepareJob, describe, prepare
from quantizers.checkpoints.sources import FolderSource
from quantizers.inspection.inspection import InspectJob
from registry.contracts import ArtifactRecord, CheckpointRecord, InspectionRecord
from registry.hashing import manifest_of
from registry.stage_process import StageClock
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine

PARAMETERS: dict[str, dict[str, object]] = {"bnb_nf4": {}, "bnb_int8": {}, "rtn": {"group_size": 64}, "w8a8": {}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckpointRecord]:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return folder, describe(folder, origin="a random Llama")


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> StageClock:
    return StageClock(tmp_path_factory.mktemp("clock") / "progress")


def test_the_source_s_own_licence_is_recorded(
    checkpoint: tuple[Path, CheckpointRecord], clock: StageClock, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(checkpoint[0], tmp_path / "source"))
    for card, expected in (("---\nlicense: mit\n---\n", "mit"), ("no metadata", None)):
        (source / "README.md").write_text(card)
        if expected is None:
            (source / "model.safetensors").chmod(0o444)
        output = tmp_path / str(expected)
        job = PrepareJob(
            stage="prepare",
            result_file=tmp_path / "result.json",
            output_dir=output,
            source=FolderSource(kind="folder", path=source),
            dtype="bfloat16",
        )
        record, _ = prepare(job, clock)
        assert record.license == expected
        # Cloned where this disk can.
        assert record.weights in ("cloned", "linked" if expected is None else "copied")
        links = (output / "model.safetensors").stat().st_nlink
        assert links == (2 if record.weights == "linked" else 1)
        assert not (output / "README.md").exists()


def calibration_job(checkpoint: tuple[Path, CheckpointRecord], output: Path, **config: object) -> CalibrateJob:
    output.mkdir(exist_ok=True)
    return CalibrateJob.model_validate(
        {
            "stage": "calibrate",
            "result_file": output / "../result.json",
            "output_dir": output,
            "config": {"samples": 4, "tokens": 32} | config,
            "checkpoint_dir": checkpoint[0],
            "checkpoint": checkpoint[1],
            "excluded_texts": [],
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
        }
    )


@pytest.fixture(scope="module")
def artifacts(
    checkpoint: tuple[Path, CheckpointRecord], clock: StageClock, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, ArtifactRecord]]:
    made = {}
    for method, parameters in PARAMETERS.items():
        output = tmp_path_factory.mktemp(method)
        job = QuantizeJob.model_validate(
            {
                "stage": "quantize",
                "result_file": output / "../result.json",
                "output_dir": output,
                "name": method,
                "config": {"method": method, **parameters},
                "checkpoint_dir": checkpoint[0],
                "checkpoint": checkpoint[1],
                "calibration_dir": None,
                "calibration_digest": None,
                "device": "cpu",
                "dtype": "float32" if method == "bnb_int8" else "bfloat16",
                "threads": 1,
            }
        )
        record = ArtifactRecord.model_validate(quantize_stage(job, clock).record)
        made[method] = (output, record)
    return made


def inspected(
    checkpoint: tuple[Path, CheckpointRecord], artifact: tuple[Path, ArtifactRecord], clock: StageClock
) -> InspectionRecord:
    job = InspectJob(
        stage="inspect",
        result_file=artifact[0] / "../result.json",
        checkpoint_dir=checkpoint[0],
        checkpoint=checkpoint[1],
        artifact_dir=artifact[0],
        artifact=artifact[1],
        device="cpu",
        dtype="bfloat16",
        threads=1,
    )
    return InspectionRecord.model_validate(inspect_stage(job, clock).record)


def failed(record: InspectionRecord) -> list[str]:
    return [check.name for check in record.checks if not check.passed]


def copy_of(artifact: tuple[Path, ArtifactRecord], folder: Path) -> Path:
    return Path(shutil.copytree(artifact[0], folder))


def with_digest(folder: Path, record: ArtifactRecord) -> tuple[Path, ArtifactRecord]:
    """The ruined artifact under its own digest: as an engine would have written it."""
    return folder, record.model_copy(update={"digest": manifest_of(folder).digest})


@pytest.mark.parametrize(
    ("method", "bits", "correlation"),
    [("bnb_nf4", 4, 0.99), ("bnb_int8", 8, 0.999), ("rtn", 4, 0.99), ("w8a8", 8, 0.999)],
)
def test_a_sound_artifact_passes(
    checkpoint: tuple[Path, CheckpointRecord],
    artifacts: dict[str, tuple[Path, ArtifactRecord]],
    clock: StageClock,
    method: str,
    bits: int,
    correlation: float,
) -> None:
    artifact = artifacts[method][1]
    assert {module.name for module in artifact.quantized_modules} == set(checkpoint[1].linear_shapes)
    assert bits < artifact.bits_per_weight < bits + 2
    record = inspected(checkpoint, artifacts[method], clock)
    assert failed(record) == []
    assert min(record.module_correlation.values()) > correlation
    assert record.probe_answer


@pytest.mark.parametrize("method", list(PARAMETERS))
def test_shuffled_weights_are_caught(
    checkpoint: tuple[Path, CheckpointRecord],
    artifacts: dict[str, tuple[Path, ArtifactRecord]],
    clock: StageClock,
    tmp_path: Path,
    method: str,
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    ruined = copy_of(artifacts[method], tmp_path / "ruined")
    tensors = load_file(ruined / "model.safetensors")
    name = "model.layers.1.mlp.down_proj." + ("weight_packed" if method == "rtn" else "weight")
    tensors[name] = tensors[name].flatten()[torch.randperm(tensors[name].numel())].view_as(tensors[name])
    save_file(tensors, ruined / "model.safetensors", metadata={"format": "pt"})
    record = inspected(checkpoint, with_digest(ruined, artifacts[method][1]), clock)
    assert failed(record) == ["weight_agreement"]
    assert abs(record.module_correlation["model.layers.1.mlp.down_proj"]) < 0.2
    (detail,) = (check.detail for check in record.checks if check.name == "weight_agreement")
    assert "model.layers.1.mlp.down_proj" in detail
    assert "quantize again" in detail


def test_a_changed_file_an_unquantized_model_and_another_tokenizer_are_caught(
    checkpoint: tuple[Path, CheckpointRecord],
    artifacts: dict[str, tuple[Path, ArtifactRecord]],
    clock: StageClock,
    tmp_path: Path,
) -> None:
    folder, artifact = artifacts["bnb_nf4"]
    changed = copy_of((folder, artifact), tmp_path / "changed")
    (changed / "generation_config.json").write_text("{}")
    assert failed(inspected(checkpoint, (changed, artifact), clock)) == ["digest"]

    plain = Path(shutil.copytree(checkpoint[0], tmp_path / "plain"))
    assert {"packed_dtypes", "size"} <= set(failed(inspected(checkpoint, with_digest(plain, artifact), clock)))

    other = copy_of((folder, artifact), tmp_path / "other")
    (other / "chat_template.jinja").write_text("{{ messages }}")
    record = inspected(checkpoint, with_digest(other, artifact), clock)
    assert failed(record) == ["tokenizer"]


def test_self_calibration_is_seeded_and_whole(
    checkpoint: tuple[Path, CheckpointRecord], clock: StageClock, tmp_path: Path
) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        job = calibration_job(checkpoint, tmp_path / name, source="self", seed=seed, chat_template=True)
        result = calibrate_stage(job, clock)
        assert result.record is not None
        digests.append(result.record["token_digest"])
        rows = json.loads((tmp_path / name / "rows.json").read_text())
        assert [len(row) for row in rows] == [32] * 4
    assert digests[0] == digests[1] != digests[2]


def test_too_few_tokens_are_refused_with_the_counts(
    checkpoint: tuple[Path, CheckpointRecord], clock: StageClock, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Only a few words here.")
    job = calibration_job(checkpoint, tmp_path / "output", source="file", path=text)
    with pytest.raises(RequestError, match="gives 0 tokens in whole rows of 32, 128 are asked for"):
        calibrate_stage(job, clock)
    assert list((tmp_path / "output").iterdir()) == []


def test_a_tokenizer_of_more_tokens_than_the_embedding_is_sampled_inside_it(
    checkpoint: tuple[Path, CheckpointRecord], clock: StageClock, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(checkpoint[0], tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(300)])
    tokenizer.save_pretrained(folder)
    longer = folder, describe(folder, origin="a long tokenizer")
    calibrate_stage(calibration_job(longer, tmp_path / "self", source="self", samples=64), clock)
    rows = json.loads((tmp_path / "self" / "rows.json").read_text())
    assert max(map(max, rows)) < longer[1].embedding_rows
    text = tmp_path / "text.txt"
    text.write_text("<extra_299> " * 200)
    with pytest.raises(RequestError, match="<extra_299>"):
        calibrate_stage(calibration_job(longer, tmp_path / "file", source="file", path=text), clock)


@pytest.mark.parametrize("method", list(PARAMETERS))
def test_a_generation_config_that_the_engine_refuses_is_kept_as_it_is(
    checkpoint: tuple[Path, CheckpointRecord], clock: StageClock, tmp_path: Path, method: str
) -> None:
    folder = Path(shutil.copytree(checkpoint[0], tmp_path / "model"))
    odd = json.dumps({"do_sample": False, "temperature": 0.6, "top_p": 0.9})
    (folder / "generation_config.json").write_text(odd)
    output = tmp_path / "output"
    output.mkdir()
    job = QuantizeJob.model_validate(
        {
            "stage": "quantize",
            "result_file": tmp_path / "result.json",
            "output_dir": output,
            "name": method,
            "config": {"method": method},
            "checkpoint_dir": folder,
            "checkpoint": describe(folder, origin="an odd generation config"),
            "calibration_dir": None,
            "calibration_digest": None,
            "device": "cpu",
            "dtype": "bfloat16",
            "threads": 1,
        }
    )
    quantize_stage(job, clock)
    assert (output / "generation_config.json").read_text() == odd
