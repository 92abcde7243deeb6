"""Which modules get which bits: what a recipe may ask for, the choice within a budget, what readers are told."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from configs.errors import RequestError
from quantizers.base import mixed_precision_of, packing_of, parse_config
from quantizers.precision.choice import choose_precision, precision_violations
from quantizers.precision.config import Budget, MixedPrecision, parse_budget
from quantizers.precision.rules import declared_bits, dynamic_rules
from quantizers.precision.storage import Packing, stored_bytes
from quantizers.precision.units import units_of
from registry.contracts import CheckpointRecord, PrecisionRecord, SensitivityRecord, UnitSensitivity
from tests.records import checkpoint_record

PARTS = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"), (128, 128)),
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (256, 128)),
    "mlp.down_proj": (128, 256),
}
SHAPES = {f"model.layers.{layer}.{part}": shape for layer in range(12) for part, shape in PARTS.items()}
WEIGHTS = sum(rows * columns for rows, columns in SHAPES.values())
PACKING = Packing("gptq", 64, False)
DOWN = "model.layers.{}.mlp.down_proj"


def checkpoint() -> CheckpointRecord:
    return checkpoint_record("sha256:c").model_copy(
        update={"linear_shapes": SHAPES, "size_bytes": 2 * WEIGHTS + 100_000}
    )


def sensitivity(nats: dict[str, float], measured: dict[str, float] | None = None) -> SensitivityRecord:
    """Estimated losses in 4 bits, 1e-4 where none is given; a two-hundredth of them in 8."""

    def both(loss: float) -> dict[int, float]:
        return {4: loss, 8: loss / 200}

    return SensitivityRecord(
        checkpoint_digest="sha256:c",
        calibration_digest="sha256:r",
        group_size=64,
        units=[
            UnitSensitivity(
                name=unit.name,
                modules=list(unit.modules),
                weights=unit.weights,
                estimated_nats=both(nats.get(unit.name, 1e-4)),
                measured_nats=both(measured[unit.name]) if measured and unit.name in measured else {},
            )
            for unit in units_of(SHAPES)
        ],
        uniform_nats={4: 0.1},
        estimate_tokens=1024,
        held_out_tokens=1024,
        dtype="float32",
    )


def chosen(
    budget: str, nats: dict[str, float], measured: dict[str, float] | None = None, **asked: Any
) -> PrecisionRecord:
    mixed = MixedPrecision.model_validate({"budget": budget} | asked)
    return choose_precision(mixed, PACKING, checkpoint(), sensitivity(nats, measured))


def more_than_4(record: PrecisionRecord) -> dict[str, int]:
    return {module: bits for module, bits in record.module_bits.items() if bits != 4}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4.6 bits", Budget(4.6, None)),
        ("95 MB", Budget(None, 95_000_000)),
        ("1.5GiB", Budget(None, 3 << 29)),
    ],
)
def test_a_budget_is_bits_a_weight_or_a_size(text: str, expected: Budget) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    "text", ["4.6", "bits", "-4 bits", "4,6 bits", "0 MB", "1e3 bits", "nan bits", "95 mb", "", 4.6, None]
)
def test_any_other_budget_is_refused(text: object) -> None:
    with pytest.raises(ValidationError, match=r"a budget is `4\.6 bits`"):
        MixedPrecision.model_validate({"budget": text})


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"choices": [8, 4]}, "`choices` rise"),
        ({"choices": [4, 4]}, "`choices` rise"),
        ({"choices": [4]}, "at least 2"),
        ({"choices": [4, 6]}, "Input should be 4, 8 or 16"),
        ({"choices": [4, 16], "modules": {"*": 8}}, "none of `choices`"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"bits": 4}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_no_choice_is_refused(entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MixedPrecision.model_validate({"budget": "5 bits"} | entry)


@pytest.mark.parametrize(
    ("entry", "choices", "told"),
    [
        ({"method": "gptq"}, [8, 16], r"mixes 4, 8, 16, beginning with 4"),
        ({"method": "gptq", "bits": 8}, [4, 8], r"mixes 8, 16, beginning with 8"),
        ({"method": "awq"}, [4, 8, 16], r"mixes 4, 16, beginning with 4"),
        ({"method": "w8a8"}, [4, 8], r"mixes 8, 16, beginning with 8"),
        ({"method": "bnb_nf4"}, [4, 16], "Extra inputs are not permitted"),
    ],
)
def test_a_method_mixes_what_its_format_stores(entry: dict[str, Any], choices: list[int], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        parse_config(entry | {"mixed_precision": {"budget": "9 bits", "choices": choices}})


def test_an_entry_without_it_has_the_key_that_it_always_had() -> None:
    for method in ("gptq", "awq", "rtn", "w8a8"):
        assert "mixed_precision" not in parse_config({"method": method}).model_dump(mode="json")
    entry = {"method": "awq", "mixed_precision": {"budget": "5 bits", "choices": [4, 16]}}
    config = parse_config(entry)
    assert parse_config(config.model_dump(mode="json")) == config
    assert mixed_precision_of(config) is not None
    assert packing_of(config) == Packing("awq", 128, True)


def test_what_is_served_as_one_matrix_has_one_precision() -> None:
    units = {unit.name: unit.modules for unit in units_of(SHAPES)}
    assert len(units) == 4 * 12
    assert len(units["model.layers.3.self_attn.qkv_proj"]) == 3
    assert len(units["model.layers.3.mlp.gate_up_proj"]) == 2
    record = chosen("5.5 bits", {"model.layers.3.self_attn.qkv_proj": 1.0})
    bits = {record.module_bits[f"model.layers.3.self_attn.{one}_proj"] for one in "qkv"}
    assert len(bits) == 1
    assert bits != {4}


def test_experts_of_a_layer_are_one_unit() -> None:
    shapes = {f"model.layers.0.mlp.experts.{one}.{part}": (64, 64) for one in range(3) for part in ("up_proj", "w1")}
    (unit,) = units_of(shapes)
    assert unit.name == "model.layers.0.mlp.experts"


def test_the_budget_goes_where_a_byte_saves_most() -> None:
    nats = {DOWN.format(7): 0.5, DOWN.format(2): 0.3, "model.layers.0.mlp.gate_up_proj": 0.4}
    # A byte of gate and up projection saves less than one of a down projection: they have twice the weights.
    room = 4.75 * WEIGHTS / 8 - chosen("4.75 bits", {}, choices=[4, 16], modules={"*": 4}).expected_bytes
    of_one = stored_bytes(PACKING, (128, 256), 16, "bfloat16") - stored_bytes(PACKING, (128, 256), 4, "bfloat16")
    assert of_one < room < 2 * of_one
    assert more_than_4(chosen("4.75 bits", nats, choices=[4, 16])) == {DOWN.format(7): 16}
    assert set(more_than_4(chosen("5 bits", nats, choices=[4, 16]))) >= {DOWN.format(7), DOWN.format(2)}


def test_a_trial_s_word_is_taken_over_an_estimate_s() -> None:
    nats = {DOWN.format(7): 0.5, DOWN.format(2): 0.3}
    record = chosen("4.75 bits", nats, {DOWN.format(7): 0.05, DOWN.format(2): 0.25}, choices=[4, 16])
    assert more_than_4(record) == {DOWN.format(2): 16}
    assert "measured" in record.chosen_by[DOWN.format(2)]


def test_estimates_are_corrected_by_what_trials_showed() -> None:
    # Estimates are ten times too high: an estimated 0.4 is less than a measured 0.05.
    nats = {DOWN.format(7): 0.5, DOWN.format(2): 0.4}
    record = chosen("4.75 bits", nats, {DOWN.format(7): 0.05}, choices=[4, 16])
    assert more_than_4(record) == {DOWN.format(7): 16}


def test_eight_bits_are_taken_before_sixteen_where_they_save_nearly_all() -> None:
    record = chosen("4.75 bits", {DOWN.format(one): 0.5 for one in range(3)})
    assert {DOWN.format(one): 8 for one in range(3)}.items() <= more_than_4(record).items()
    assert 16 not in record.module_bits.values()


@pytest.mark.parametrize("budget", ["4.6 bits", "5 bits", "6 bits", "1.3 MB", "1.6 MB"])
def test_the_size_is_kept_and_used(budget: str) -> None:
    record = chosen(budget, {DOWN.format(one): 0.1 * one for one in range(12)})
    assert record.expected_bytes <= record.budget_bytes
    # What is left is less than the smallest step.
    smallest = stored_bytes(PACKING, (128, 128), 8, "bfloat16") - stored_bytes(PACKING, (128, 128), 4, "bfloat16")
    assert record.budget_bytes - record.expected_bytes < smallest
    assert record.expected_nats < record.uniform_nats
    assert record == chosen(budget, {DOWN.format(one): 0.1 * one for one in range(12)})


def test_the_recipe_s_own_words_come_first() -> None:
    record = chosen("5.5 bits", {DOWN.format(7): 0.5}, choices=[4, 16], modules={DOWN.format(7): 4, DOWN.format(1): 16})
    assert record.module_bits[DOWN.format(7)] == 4
    assert record.module_bits[DOWN.format(1)] == 16
    assert record.chosen_by[DOWN.format(1)] == "the recipe names it"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"budget": "4.2 bits"},
            r"4\.2 bits is less than the least there is, 4\.5\d\d bits with all modules in 4 bits",
        ),
        ({"budget": "0.5 MB"}, r"0\.5 MB is less than the least there is, 1\.\d+ MB"),
        ({"budget": "16 bits"}, r"holds the whole model as it is, 16\.000 bits"),
        ({"budget": "1 GB"}, r"holds the whole model as it is, \d\.\d+ MB"),
        (
            {"budget": "4.6 bits", "modules": {"model.layers.*": 16}},
            r"less than the least there is, 16\.000 bits with all modules in 4 bits and 48 units as `modules` says",
        ),
        (
            {"budget": "5 bits", "modules": {"model.layers.0.mlp.downproj": 16}},
            r"no Linear of this model; did you mean model\.layers\.0\.mlp\.down_proj\?",
        ),
        ({"budget": "5 bits", "modules": {"lm_head": 16}}, "names lm_head, which is no Linear of this model"),
        (
            {"budget": "5 bits", "modules": {"model.layers.0.self_attn.v_proj": 8}},
            r"leaves out \S+q_proj, \S+k_proj, served as one matrix with what it names; name \S+qkv_proj",
        ),
        ({"budget": "9 bits", "modules": {"*.0.*": 8, "*down_proj": 16}}, "down_proj several precisions"),
    ],
)
def test_what_no_choice_keeps_is_told_with_its_number(asked: dict[str, Any], told: str) -> None:
    mixed = MixedPrecision.model_validate(asked)
    (line, *_) = precision_violations(mixed, PACKING, checkpoint())
    assert re.search(told, line)
    with pytest.raises(RequestError):
        choose_precision(mixed, PACKING, checkpoint(), sensitivity({}))


def test_both_readers_find_their_names_in_the_rules() -> None:
    modules = {DOWN.format(1): 16, "model.layers.0.self_attn.qkv_proj": 8}
    record = chosen("6 bits", {}, modules=modules)
    rules = dynamic_rules(record, 4)
    config = {"bits": 4, "dynamic": rules}
    for module, bits in record.module_bits.items():
        assert declared_bits(config, module) == bits
    for unit in units_of(SHAPES):
        assert declared_bits(config, unit.name) == record.module_bits[unit.modules[0]]
    # Layer 1 is not layer 11, and a name that goes on is another module's.
    assert declared_bits(config, DOWN.format(1)) == 16
    assert declared_bits({"bits": 4, "dynamic": {next(iter(rules or {})): {}}}, DOWN.format(11)) == 4
    assert dynamic_rules(None, 4) is None


def test_a_gate_is_left_alone_by_its_own_name_and_by_that_of_its_matrix() -> None:
    gates = [f"model.layers.{layer}.linear_attn.in_proj_{one}" for layer in range(12) for one in "ab"]
    rules = dynamic_rules(None, 4, gates)
    assert rules is not None and len(rules) == 1
    config = {"bits": 4, "dynamic": rules}
    for name in (*gates, "model.layers.0.linear_attn.in_proj_ba"):
        assert declared_bits(config, name) == 16
    assert declared_bits(config, "model.layers.0.linear_attn.in_proj_qkvz") == 4


def test_linear_attention_s_inputs_are_one_unit() -> None:
    part = "model.layers.0.linear_attn."
    units = units_of({f"{part}in_proj_qkv": (8, 8), f"{part}in_proj_z": (4, 8), f"{part}out_proj": (8, 4)})
    assert [unit.name for unit in units] == [f"{part}in_proj_qkvz", f"{part}out_proj"]
