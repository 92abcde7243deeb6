"""What may be asked of a verdict, and that a config is known by all that it says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.loading import load_yaml_model
from evals.judging.pair_metrics import METRICS
from evals.judging.verdict_config import DEFAULT_LIMITS, Limits, VerdictConfig, verdict_digest


def test_every_limit_has_a_metric() -> None:
    assert set(Limits.model_fields) == set(METRICS)


def test_without_metrics_all_is_judged_that_was_recorded() -> None:
    config = VerdictConfig()
    assert (config.metrics, config.unrecorded) == (DEFAULT_LIMITS, "left out")
    assert VerdictConfig(metrics=Limits(score=0.02)).unrecorded == "inconclusive"


def test_a_config_comes_back_from_its_own_json_with_its_digest() -> None:
    for config in (VerdictConfig(), VerdictConfig(metrics=Limits(score=0.02), classes="each")):
        again = VerdictConfig.model_validate(config.model_dump(mode="json"))
        assert again == config and verdict_digest(again) == verdict_digest(config)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.01},
        {"budget_pairs": 19_999},
        {"metrics": {"score": 0.03}},
        {"metrics": {"score": 0.02, "errors": 0.01}},
        {"classes": "each"},
        {"least_class_pairs": 201},
        {"ratio_clip": 5.0},
        {"unrecorded": "left out"},
    ],
)
def test_every_change_is_another_digest(change: dict[str, object]) -> None:
    base: dict[str, object] = {"metrics": {"score": 0.02}}
    assert verdict_digest(VerdictConfig.model_validate(base | change)) != verdict_digest(
        VerdictConfig.model_validate(base)
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metrics": {}}, "nothing to judge"),
        ({"metrics": {"score": None}}, "nothing to judge"),
        ({"metrics": {"preference": 0.1}}, "opinion and no evidence"),
        ({"metrics": {"latency": 3.0}}, "`ratio_clip` has to be more"),
        ({"metrics": {"logprob": 1.0}}, "`logprob_clip` has to be more"),
        ({"metrics": {"score": 0.0}}, "greater than 0"),
        ({"metrics": {"same": 1.0}}, "less than 1"),
        ({"metrics": {"score": float("nan")}}, "number"),
        ({"metrics": {"score": True}}, "a number is wanted"),
        ({"alpha": 0.0}, "greater than or equal to 0.000001"),
        ({"alpha": 0.5}, "less than 0.5"),
        ({"budget_pairs": 0}, "greater than or equal to 1"),
        ({"budget_pairs": 100, "classes": "each"}, "no class can have the 200 pairs"),
    ],
)
def test_what_cannot_be_meant_is_refused(asked: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VerdictConfig.model_validate(asked)


def test_an_unknown_metric_names_the_line_and_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text("metrics:\n  scores: 0.02\n")
    with pytest.raises(ConfigError, match=r"limits.yaml:2: unknown key `metrics.scores`") as refused:
        load_yaml_model(path, VerdictConfig)
    assert "did you mean `score`?" in str(refused.value)
