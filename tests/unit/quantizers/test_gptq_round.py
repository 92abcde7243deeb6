"""GPTQ's rounding beside the engine's own on the same Hessian, and that the range which is found is the cheapest."""

from typing import Any

import pytest

pytestmark = pytest.mark.engine

ROWS, COLUMNS, TOKENS = 48, 256, 600


@pytest.fixture(scope="module")
def engine() -> Any:
    from quantizers.engines.gptqmodel_engine import import_engine

    import_engine(threads=2)
    from gptqmodel.quantization.gptq import GPTQ

    return GPTQ


def prepared(engine: Any, *, dead: bool = False, **config: Any) -> Any:
    """The engine's GPTQ of a Linear with heavy tails, which has seen inputs with a few large channels."""
    import torch
    from gptqmodel.quantization.config import QuantizeConfig

    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    tails = torch.rand(ROWS, COLUMNS, generator=generator).reciprocal().clamp(max=6)
    linear.weight.data = torch.randn(ROWS, COLUMNS, generator=generator) * tails
    features = torch.randn(TOKENS, COLUMNS, generator=generator)
    features *= torch.rand(COLUMNS, generator=generator).pow(4) * 8 + 0.1
    if dead:
        features[:, 5:9] = 0
    settings = {"bits": 4, "group_size": 64, "sym": True, "desc_act": False, "act_group_aware": False}
    qcfg = QuantizeConfig(**(settings | {"damp_percent": 0.05} | config))
    qcfg.fallback = None
    made = engine(linear, qcfg)
    made.quantizer.configure(perchannel=True)
    made.add_batch(features[None], linear(features)[None])
    return made


@pytest.mark.parametrize(
    "config",
    [
        {"group_size": 128},
        {"group_size": 64, "act_group_aware": True},
        {"group_size": 32, "desc_act": True},
        {"group_size": 64, "sym": False},
        {"group_size": -1},
        {"group_size": 64, "bits": 8, "act_group_aware": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dead", [False, True], ids=["", "dead columns"])
def test_whole_ranges_give_the_engine_s_own_result(engine: Any, config: dict[str, Any], dead: bool) -> None:
    """In blocks of a group, since the engine looks at a group with what the blocks before it have left."""
    import torch

    from quantizers.engines.gptq_round import quantize

    if dead and config["group_size"] < 0:
        pytest.skip("the engine takes the range of a whole row with the columns that it clears afterwards")
    block = config["group_size"] if config["group_size"] > 0 else 128
    theirs = prepared(engine, dead=dead, **config).quantize(blocksize=block)
    ours = quantize(prepared(engine, dead=dead, **config), range_search=False)
    assert ours is not None
    for mine, other in zip(ours[1:4], theirs[1:4], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    # A weight between two levels may fall to either; what comes after differs by rounding only.
    assert float((ours[0] - theirs[0]).abs().gt(1e-3).float().mean()) < 0.002
    assert ours[5] == pytest.approx(theirs[5], rel=1e-3)
    assert ours[6:] == theirs[6:]


def test_the_search_lowers_the_loss_and_the_output_s_error(engine: Any) -> None:
    from quantizers.engines.gptq_round import quantize

    def lost(range_search: bool) -> tuple[float, float]:
        made = prepared(engine, act_group_aware=True)
        found = quantize(made, range_search)
        assert found is not None
        change = found[0] - made.module.weight.detach()
        return found[5], float(((change @ prepared(engine).finalize_hessian()) * change).sum())

    whole, searched = lost(False), lost(True)
    assert searched[0] < 0.9 * whole[0]
    assert searched[1] < 0.9 * whole[1]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_range_is_the_cheapest_of_those_tried(symmetric: bool) -> None:
    import torch

    from quantizers.engines.column_rounding import _SHARES, _levels

    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(32, 7, generator=generator) ** 3
    weights[:, 6] = 0
    costs = torch.rand(32, generator=generator)
    found = _levels(weights, costs, 4, symmetric, range_search=True)
    for row in range(6):
        low, high = min(0.0, float(weights[:, row].min())), max(0.0, float(weights[:, row].max()))
        if symmetric:
            low, high = -max(high, -low), max(high, -low)
        zero = 8.0 if symmetric else round(-low / ((high - low) / 15))
        errors = {}
        for share in _SHARES:
            scale = share * (high - low) / 15
            codes = ((weights[:, row] / scale).round() + zero).clamp(0, 15)
            errors[scale] = float((costs * ((codes - zero) * scale - weights[:, row]) ** 2).sum())
        assert float(found.scale[row]) == pytest.approx(min(errors, key=errors.__getitem__), rel=1e-5)
        assert float(found.zero[row]) == zero
    assert float(found.scale[6]) > 0


def test_without_samples_the_engine_decides(engine: Any) -> None:
    import torch
    from gptqmodel.quantization.config import QuantizeConfig

    from quantizers.engines.gptq_round import quantize

    qcfg = QuantizeConfig(bits=4, group_size=64)
    qcfg.fallback = None
    assert quantize(engine(torch.nn.Linear(COLUMNS, ROWS), qcfg), range_search=True) is None


def test_the_override_is_put_back(engine: Any) -> None:
    from quantizers.engines.gptq_round import whole_row_rounding

    original = engine.quantize
    with whole_row_rounding(range_search=True):
        assert engine.quantize is not original
    assert engine.quantize is original
