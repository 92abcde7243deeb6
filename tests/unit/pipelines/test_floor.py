"""An artifact that does not beat round-to-nearest at its bits is told so, and no other."""

import pytest

from pipelines.records.rows import Row
from pipelines.report.floor import floor_text
from pipelines.report.plot import quality_speed_plot
from pipelines.report.summary import sentences
from registry.contracts.base import Method
from tests.unit.pipelines.loss_records import token_agreement
from tests.unit.pipelines.report_records import report_rows, row


def told(name: str, method: Method, bits: int | None, kl_nats: float) -> Row:
    made = row("nf4", method, "bfloat16", 100.0, 4.5).model_copy(update={"name": name})
    assert made.artifact is not None
    artifact = made.artifact.model_copy(update={"parameters": {} if bits is None else {"bits": bits}})
    found = token_agreement("nf4").model_copy(update={"kl_nats": kl_nats, "kl_stderr": 0.01})
    return made.model_copy(update={"artifact": artifact, "token_agreement": found})


@pytest.mark.parametrize(
    ("method", "bits", "kl_nats", "says"),
    [
        ("gptq", 4, 0.19, None),
        (
            "gptq",
            4,
            0.20,
            "does not beat round-to-nearest at 4 bits (asym): KL 0.2000 ± 0.0100 against 0.2000 ± 0.0100",
        ),
        ("bnb_nf4", None, 0.31, "does not beat round-to-nearest at 4 bits (asym): KL 0.3100 ± 0.0100"),
        ("gptq", 8, 0.31, None),
        ("bnb_int8", None, 0.31, None),
    ],
)
def test_the_best_floor_of_the_same_bits_judges(method: Method, bits: int | None, kl_nats: float, says: str) -> None:
    floors = [told("sym", "rtn", 4, 0.3), told("asym", "rtn", 4, 0.2), told("wide", "rtn", 3, 0.001)]
    mine = told("mine", method, bits, kl_nats)
    text = floor_text(mine, [report_rows()[0], mine, *floors])
    assert text is None if says is None else text is not None and text.startswith(says)


def test_the_floor_says_what_it_is_and_nothing_is_said_without_one() -> None:
    rows = report_rows()
    assert not any("round-to-nearest" in sentence.text for sentence in sentences(rows))
    floor, lost = told("rtn", "rtn", 4, 0.2), told("lost", "bnb_nf4", None, 0.4)
    by_name = {sentence.name: sentence for sentence in sentences([*rows, floor, lost])}
    assert "what other methods of 4 bits have to beat" in by_name["rtn"].text
    assert "does not beat round-to-nearest at 4 bits (rtn)" in by_name["lost"].text
    assert by_name["lost"].tone != "good"
    assert "round-to-nearest" not in by_name["int8"].text


def test_an_artifact_that_was_not_measured_is_not_judged() -> None:
    unmeasured = told("mine", "gptq", 4, 0.5).model_copy(update={"token_agreement": None})
    assert floor_text(unmeasured, [told("rtn", "rtn", 4, 0.2), unmeasured]) is None
    later = told("rtn", "rtn", 4, 0.2).model_copy(update={"token_agreement": None})
    assert floor_text(told("mine", "gptq", 4, 0.5), [later]) is None


def test_the_plot_has_a_line_for_each_floor() -> None:
    rows = report_rows()
    without = quality_speed_plot(rows)
    assert without is not None
    assert "floor" not in without
    floor = rows[1].model_copy(update={"name": "asym", "method": "rtn"})
    drawn = quality_speed_plot([*rows, floor])
    assert drawn is not None
    assert drawn.count('class="floor s') == 1
    assert "floor: asym" in drawn
