"""Experts and routers by their names."""

import pytest

from quantizers.checkpoints.expert_names import checkpoint_names, engine_name, expert_of, has_experts, is_router

ROUTERS = ("mlp.gate", "block_sparse_moe.gate", "mlp.router.gate", "mlp.shared_expert_gate", "mlp.router")
LINEARS = ("mlp.gate_proj", "mlp.experts.0.gate_proj", "self_attn.gate_proj", "block_sparse_moe.experts.1.w1")


@pytest.mark.parametrize(("name", "router"), [*((one, True) for one in ROUTERS), *((one, False) for one in LINEARS)])
def test_a_router_is_known(name: str, router: bool) -> None:
    assert is_router(f"model.layers.0.{name}") == router


def test_an_expert_is_known_and_has_one_name_for_all_engines() -> None:
    name = "model.layers.0.block_sparse_moe.experts.12.w2"
    assert expert_of(name) == "model.layers.0.block_sparse_moe.experts.12"
    assert engine_name(name) == "model.layers.0.mlp.experts.12.down_proj"
    assert checkpoint_names([name]) == {"model.layers.0.mlp.experts.12.down_proj": name}
    assert expert_of("model.layers.0.mlp.shared_experts.up_proj") is None
    assert has_experts([name])
    assert not has_experts(["model.layers.0.feed_forward.w2"])
    assert engine_name("model.layers.0.feed_forward.w2") == "model.layers.0.feed_forward.w2"
