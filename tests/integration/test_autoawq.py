"""AutoAWQ in its environment: its fault on a CPU and the mend, rows that it would cut, and equal work, equal bytes."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import QuantbenchError
from pipelines.environments.definition import environment_named
from pipelines.environments.making import OUR_CODE, in_use
from pipelines.execution.stage_job import run_job
from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from quantizers.engines.gptqmodel_engine import import_engine
from registry.contracts import StageResult
from serving_checks.processes import supervisor
from serving_checks.processes.pulse import UNBOUNDED
from tests.model_trial import MOST_ERROR, relative_error, token_ids
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.environment

ENVIRONMENT = environment_named("autoawq", "cpu")
UNMENDED = """\
import contextlib, runpy, sys
import quantizers.engines.autoawq_engine as engine
engine._copied_weights = lambda module: contextlib.nullcontext()
runpy.run_module("quantizers", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns of unlike magnitude, as a trained model has them: the first candidate scales by their inverse."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            tensors[name] = (weight * torch.randn(weight.shape[1], generator=generator).exp()).to(weight.dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def job_in(folder: Path, source: Path, rows: list[list[int]]) -> QuantizeJob:
    output = folder / "artifact"
    output.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps(rows))
    return QuantizeJob(
        stage="quantize",
        result_file=folder / "quantize.result.json",
        output_dir=output,
        name="awq",
        config={"method": "awq_autoawq", "group_size": 32},  # type: ignore[arg-type]
        checkpoint_dir=source,
        checkpoint=describe(source, origin="a random Llama"),
        calibration_dir=folder,
        calibration_digest="sha256:0",
        device="cpu",
        dtype="float32",
        threads=1,
    )


def run(job: QuantizeJob) -> StageResult:
    told: list[str] = []
    options: dict[str, Any] = {"env": {}, "patience": UNBOUNDED, "on_progress": told.append}
    log_file = job.result_file.with_suffix(".log")
    return run_job(job, "quantizers", "quantize:awq", log_file, interpreter=ENVIRONMENT, **options)


def test_equal_work_gives_equal_bytes(source: Path, tmp_path: Path) -> None:
    rows = token_ids(16, 48)
    first, second = (run(job_in(tmp_path / name, source, rows)) for name in ("one", "two"))
    assert first.failure is None
    assert first.object is not None
    assert first.object == second.object
    assert first.versions == {name: ENVIRONMENT.versions[name] for name in ("autoawq", "torch", "transformers")}


def test_without_the_mend_the_weights_are_ruined_and_nothing_says_so(source: Path, tmp_path: Path) -> None:
    sound, ruined = (job_in(tmp_path / name, source, token_ids(16, 48)) for name in ("sound", "ruined"))
    run(sound)
    job_file = tmp_path / "job.json"
    job_file.write_text(ruined.model_dump_json())
    with in_use(ENVIRONMENT, print) as python:
        argv = [str(python), "-P", "-c", UNMENDED, str(job_file)]
        finished = supervisor.run(argv, log_file=tmp_path / "ruined.log", env=OUR_CODE)
    assert finished.ending.exit_code == 0, finished.ending.log_tail
    assert sound.output_dir is not None
    assert ruined.output_dir is not None
    import_engine(1)
    # 0.25 and 1.24 of the source's logits.
    assert relative_error(source, sound.output_dir) < MOST_ERROR
    assert relative_error(source, ruined.output_dir) > 1


def test_rows_of_several_lengths_are_refused(source: Path, tmp_path: Path) -> None:
    result = run(job_in(tmp_path, source, [*token_ids(4, 48), *token_ids(4, 32)]))
    assert result.failure is not None
    assert "rows of one length, and these have 32 to 48 tokens" in result.failure.what
    assert result.failure.blame == "recipe"
    assert result.failure.exit_code == QuantbenchError.exit_code
