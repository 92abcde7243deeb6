"""What the load tests' part of a recipe does to a run: its keys, and what is refused before it begins."""

from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError
from pipelines.planning.stages import stages_of
from tests.unit.pipelines.test_runner import FINGERPRINTS, INT8, MACHINE, run_config


def shaping(load: dict[str, Any]) -> dict[str, Any]:
    stages = stages_of(run_config(methods={"int8": INT8}, load=load), MACHINE, FINGERPRINTS)
    return next(stage.config for stage in stages if stage.name == "measure:int8")


def test_a_measurement_hangs_on_the_text_of_its_prompts_and_not_on_where_it_lies(tmp_path: Path) -> None:
    for name, text in (("one", "A text."), ("same", "A text."), ("other", "Another text.")):
        (tmp_path / name).write_text(text)
    one, same, other = (shaping({"prompts": {"file": str(tmp_path / name)}}) for name in ("one", "same", "other"))
    assert one == same != other
    assert shaping({}) not in (one, other)


def test_a_text_that_is_not_there_is_told_when_the_run_is_planned(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="missing"):
        shaping({"prompts": {"file": str(tmp_path / "missing")}})


def test_a_load_longer_than_the_served_context_is_refused_with_the_recipe() -> None:
    with pytest.raises(RequestError, match="3032 tokens does not fit the server's 2048"):
        run_config(methods={"int8": INT8}, load={"prompts": {"short": 3000}})
