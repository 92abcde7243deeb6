"""Where the machine runs out of something, no artifact and no source is blamed for it, and nothing is kept of it."""

import errno
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from quantizers.inspection import inspection
from quantizers.inspection.inspection import InspectJob
from tests.records import artifact_record, checkpoint_record


def job(tmp_path: Path) -> InspectJob:
    return InspectJob(
        stage="inspect",
        result_file=tmp_path / "result.json",
        checkpoint_dir=tmp_path,
        checkpoint=checkpoint_record("sha256:a"),
        artifact_dir=tmp_path,
        artifact=artifact_record("sha256:b"),
        device="cpu",
        dtype="float32",
        threads=1,
    )


def reload_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> Any:
    class Failing:
        @classmethod
        def from_pretrained(cls, *_: Any, **__: Any) -> None:
            raise error

    library = types.SimpleNamespace(AutoModelForCausalLM=Failing, AutoTokenizer=Failing)
    monkeypatch.setitem(sys.modules, "transformers", library)  # type: ignore[arg-type]
    return inspection._reload(job(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: tried 9 bytes. Error code 12 (Cannot allocate memory)"
        ),
    ],
)
def test_want_of_a_resource_is_no_finding_about_the_artifact(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(StageError) as caught:
        reload_with(monkeypatch, tmp_path, error)
    assert caught.value.blame == "machine"


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), FileNotFoundError(errno.ENOENT, "no such file", "model.safetensors")]
)
def test_what_is_wrong_with_the_artifact_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    check, answer = reload_with(monkeypatch, tmp_path, error)
    assert not check.passed
    assert answer == ""
