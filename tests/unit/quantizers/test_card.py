"""The card of an artifact."""

from pathlib import Path
from typing import get_args

from quantizers.base import QuantizeJob, QuantizeOutcome
from quantizers.methods.card import READERS, write_card
from registry.contracts.base import Method, format_of
from tests.records import checkpoint_record


def test_every_format_has_readers() -> None:
    assert set(READERS) == {format_of(method) for method in get_args(Method)}


def test_equal_work_has_an_equal_card_whatever_it_is_called(tmp_path: Path) -> None:
    def card(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        job = QuantizeJob(
            stage="quantize",
            result_file=folder / "result.json",
            output_dir=folder,
            name=name,
            config={"method": "awq_autoawq", "group_size": 64},  # type: ignore[arg-type]
            checkpoint_dir=tmp_path / name,
            checkpoint=checkpoint_record("sha256:c"),
            calibration_dir=tmp_path,
            calibration_digest="sha256:rows",
            device="cpu",
            dtype="float32",
            threads=1,
        )
        write_card(job, QuantizeOutcome(modules=[], versions={"autoawq": "0.2.9"}, engine="autoawq"), folder)
        return (folder / "README.md").read_text()

    one = card("one")
    assert one == card("another")
    assert str(tmp_path) not in one
    assert 'awq_autoawq {"bits": 4, "calibration_rows": null, "group_size": 64}' in one
    assert "calibration: sha256:rows" in one
    assert "autoawq 0.2.9" in one
    assert READERS["awq"] in one
