"""The card of an artifact."""

from pathlib import Path
from typing import get_args

import pytest

from quantizers.base import QuantizeJob, QuantizeOutcome
from quantizers.methods.card import READERS, readers_of, write_card
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


@pytest.mark.parametrize("method", ["gptq", "autoround", "awq", "w8a8", "w8a8_gptq"])
def test_experts_are_read_by_fewer(method: Method) -> None:
    expert = "model.layers.0.mlp.experts.3.up_proj"
    assert readers_of(method, None, [expert]) != readers_of(method, None, ["model.layers.0.mlp.up_proj"])
    assert readers_of("fp8", None, [expert]) == READERS["fp8"]
