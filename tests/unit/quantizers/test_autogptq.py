"""What AutoGPTQ's log tells of its progress; that it says so is looked up in tests/integration/test_environments.py."""

import json
import logging
from pathlib import Path

import pytest

from quantizers.engines import autogptq_engine
from registry.stage_process import StageClock


def test_each_layer_of_its_log_is_progress_and_the_logger_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "progress"
    logger = logging.getLogger(autogptq_engine.LOGGER)
    logger.setLevel(logging.INFO)
    before = list(logger.handlers)
    with autogptq_engine._layers_told(StageClock(file)):
        logger.info("Start quantizing layer 12/30")
        logger.info("Quantizing self_attn.k_proj in layer 12/30...")
        assert json.loads(file.read_text()) == {"part": "quantize", "done": 11, "total": 30}
    assert logger.handlers == before


def test_what_it_does_not_know_of_its_log_is_no_progress(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with autogptq_engine._layers_told(StageClock(tmp_path / "progress")):
        logging.getLogger(autogptq_engine.LOGGER).warning("Start quantizing layer one of many")
    assert not (tmp_path / "progress").exists()
