"""What may be asked of the load tests, and what is refused with which words."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.base import StrictModel
from configs.errors import ConfigError, RequestError
from configs.loading import load_yaml_model
from serving_checks.load import LoadConfig
from serving_checks.load.adapter import Load
from serving_checks.load.generator import loads

SLO = {"ttft_seconds": 0.5}


class Recipe(StrictModel):
    load: LoadConfig


def test_the_default_is_a_closed_loop_at_four_levels() -> None:
    assert loads(LoadConfig()) == [Load("short", level, None) for level in (1, 4, 10, 32)]


def test_every_profile_meets_every_mix() -> None:
    config = LoadConfig.model_validate(
        {
            "profiles": [
                {"kind": "synchronous"},
                {"kind": "poisson", "requests_per_second": [0.5, 2]},
                {"kind": "sweep", "ceiling_concurrency": 8},
            ],
            "prompts": {"mixes": ["short", "mixed"]},
            "slo": SLO,
        }
    )
    assert [str(load) for load in loads(config)] == [
        "short prompts, concurrency 1",
        "mixed prompts, concurrency 1",
        "short prompts, 0.5 requests/s",
        "short prompts, 2 requests/s",
        "mixed prompts, 0.5 requests/s",
        "mixed prompts, 2 requests/s",
    ]
    assert config.highest_concurrency == 8
    assert config.most_in_flight == config.requests


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"profiles": []}, "at least 1 item"),
        ({"profiles": [{"kind": "concurrent", "levels": []}]}, "at least 1 item"),
        ({"profiles": [{"kind": "concurrent", "levels": [0]}]}, "greater than or equal to 1"),
        ({"profiles": [{"kind": "concurrent", "levels": [17]}], "requests": 16}, "17 requests in flight need as many"),
        ({"profiles": [{"kind": "constant"}]}, "'synchronous', 'concurrent', 'poisson', 'sweep'"),
        ({"profiles": [{"kind": "poisson", "requests_per_second": [0]}]}, "greater than 0"),
        ({"profiles": [{"kind": "poisson", "requests_per_second": [float("inf")]}]}, "finite"),
        ({"profiles": [{"kind": "poisson"}]}, "Field required"),
        ({"profiles": [{"kind": "sweep"}]}, "write an `slo` beside it"),
        ({"profiles": [{"kind": "sweep"}, {"kind": "sweep"}], "slo": SLO}, "more than one `sweep`"),
        ({"profiles": [{"kind": "sweep", "share": 0}], "slo": SLO}, "greater than 0"),
        ({"slo": {}}, "`slo` needs at least one"),
        ({"slo": {"ttft_seconds": -1}}, "from 0 to"),
        ({"slo": {"ttft_seconds": 0}}, "each above 0"),
        ({"prompts": {"mixes": ["tiny"]}}, "'short', 'medium', 'long' or 'mixed'"),
        ({"prompts": {"mixes": ["short", "short"]}}, "a mix stands twice"),
        ({"prompts": {"short": 1}}, "greater than or equal to 2"),
        ({"output_tokens": 1}, "greater than or equal to 2"),
        ({"concurrency": [1, 8]}, "Extra inputs"),
    ],
)
def test_what_cannot_be_run_is_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LoadConfig.model_validate(bad)
    assert said in str(caught.value)


def test_a_mistake_in_a_recipe_is_told_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        textwrap.dedent("""\
        load:
          profiles:
            - {kind: synchronous}
            - kind: concurrent
              level: [1, 2]
        """)
    )
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(recipe, Recipe)
    assert caught.value.line == 5
    assert "did you mean `levels`?" in str(caught.value)


def test_the_longest_request_has_to_fit() -> None:
    prompts = {"mixes": ["short", "mixed"], "short": 10, "medium": 20, "long": 90}
    config = LoadConfig.model_validate({"prompts": prompts, "output_tokens": 10})
    config.check_fits(100)
    with pytest.raises(RequestError, match="100 tokens does not fit the server's 99") as caught:
        config.check_fits(99)
    assert "max_model_len" in caught.value.remedy


def test_a_length_that_no_mix_uses_may_be_longer_than_the_context() -> None:
    config = LoadConfig.model_validate({"prompts": {"mixes": ["short"], "short": 10, "long": 5000}})
    config.check_fits(64)
