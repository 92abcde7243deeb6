"""The cost of tokens: what was paid is shared without a rest, and nothing is told of what was not measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.loading import load_yaml_model
from pipelines.recipe.gateway_config import GatewayConfig
from serving_checks.readings.cost import DevicePrice, MeasuredLoad, cost_of

ROOT = Path(__file__).parents[3]
PRICES = sorted((ROOT / "configs" / "prices").glob("*.yaml"))
TOLD = {"device": "a GPU", "currency": "USD", "per_hour": 3.6, "source": "a page", "read_on": "2026-01-02"}
PRICE = DevicePrice.model_validate(TOLD)
"""A tenth of a cent a second."""
LOAD = MeasuredLoad(
    requests=10,
    counted=10,
    busy_seconds=100.0,
    request_seconds=400.0,
    counted_seconds=400.0,
    prefill_seconds=100.0,
    decode_seconds=300.0,
    input_tokens=20_000,
    output_tokens=5_000,
)


def test_the_two_prices_times_their_tokens_are_what_was_paid() -> None:
    cost = cost_of(LOAD, PRICE)
    assert cost is not None
    assert cost.prefill_share == 0.25
    assert cost.input_per_million == pytest.approx(0.1 * 0.25 / 20_000 * 1e6)
    assert cost.output_per_million == pytest.approx(0.1 * 0.75 / 5_000 * 1e6)
    assert cost.blended_per_million == pytest.approx((3 * cost.input_per_million + cost.output_per_million) / 4)
    paid = (cost.input_per_million * 20_000 + cost.output_per_million * 5_000) / 1e6
    assert paid == pytest.approx(0.1) == cost.all_per_million * 25_000 / 1e6
    assert (cost.mean_in_flight, cost.currency, cost.made_up) == (4.0, "USD", False)


def test_two_devices_cost_twice_as_much() -> None:
    one, two = cost_of(LOAD, PRICE), cost_of(LOAD, DevicePrice.model_validate(TOLD | {"devices": 2}))
    assert one is not None and two is not None
    assert two.all_per_million == pytest.approx(2 * one.all_per_million)
    assert two.per_hour == 7.2


def test_what_was_not_counted_bears_its_part() -> None:
    half = LOAD._replace(counted=5, counted_seconds=200.0, input_tokens=10_000, output_tokens=2_500)
    cost, whole = cost_of(half, PRICE), cost_of(LOAD, PRICE)
    assert cost is not None and whole is not None
    assert cost.all_per_million == pytest.approx(whole.all_per_million)
    assert (cost.requests, cost.counted) == (10, 5)


@pytest.mark.parametrize(
    "missing",
    [
        {"busy_seconds": 0.0},
        {"request_seconds": 0.0},
        {"input_tokens": 0, "output_tokens": 0},
        {"busy_seconds": float("nan")},
    ],
)
def test_nothing_measured_is_no_cost_and_not_0(missing: dict[str, Any]) -> None:
    assert cost_of(LOAD._replace(**missing), PRICE) is None


@pytest.mark.parametrize("missing", [{"prefill_seconds": 0.0, "decode_seconds": 0.0}, {"output_tokens": 0}])
def test_what_cannot_be_told_apart_is_left_out(missing: dict[str, Any]) -> None:
    cost = cost_of(LOAD._replace(**missing), PRICE)
    assert cost is not None
    assert cost.input_per_million is cost.output_per_million is cost.blended_per_million is None
    assert cost.all_per_million > 0


@pytest.mark.parametrize("file", PRICES, ids=lambda path: path.name)
def test_a_price_file_is_included_into_a_gateway_s_config(file: Path, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"include: {file}\nversion: 1\nname: live\nmodel: demo\n")
    price = load_yaml_model(config, GatewayConfig).price
    assert price is not None
    assert price.made_up == ("CPU" in price.device) == (price.source == "made up")


def test_there_are_prices_of_both_kinds_of_device() -> None:
    assert {path.stem.partition("_")[0] for path in PRICES} == {"cpu", "h100"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("per_hour: 0", "greater than 0"),
        ("per_hour: -1", "a number from 0"),
        ("per_hour: .inf", "finite"),
        ("currency: dollars", "pattern"),
        ("read_on: last week", "date"),
        ("read_on: 86400", "a date such as"),
        ("perhour: 1", "did you mean `per_hour`"),
        ("devices: 0", "a number from 1"),
    ],
)
def test_a_wrong_price_is_told_with_its_line(tmp_path: Path, wrong: str, said: str) -> None:
    told = {**TOLD, wrong.partition(":")[0]: wrong.partition(": ")[2]}
    file = tmp_path / "gateway.yaml"
    lines = "".join(
        f"  {key}: {json.dumps(value) if key == 'read_on' and value != '86400' else value}\n"
        for key, value in told.items()
    )
    file.write_text(f"version: 1\nname: live\nmodel: demo\nprice:\n{lines}")
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(file, GatewayConfig)
    assert said in str(caught.value)
    assert "gateway.yaml" in str(caught.value)
