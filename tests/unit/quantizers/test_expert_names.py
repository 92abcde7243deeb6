"""Experts and routers by their names, which an artifact has from its checkpoint, whatever an engine calls them."""

import json
import re
from pathlib import Path

import pytest

from quantizers.checkpoints.expert_names import (
    checkpoint_names,
    checkpoint_tensors,
    engine_name,
    expert_of,
    has_experts,
    is_router,
)
from quantizers.checkpoints.model_gates import GATE_PATTERN, is_gate
from quantizers.checkpoints.safetensors_header import WEIGHTS_INDEX, read_headers
from quantizers.engines.experts import by_engine_names, counted_tokens, name_as_checkpoint
from quantizers.inspection.inspection import check_expert_names

ROUTERS = ("mlp.gate", "block_sparse_moe.gate", "mlp.router.gate", "mlp.shared_expert_gate", "mlp.router")
ROUTERS += ("mlp.gate.wg",)
LINEARS = ("mlp.gate_proj", "mlp.experts.0.gate_proj", "self_attn.gate_proj", "block_sparse_moe.experts.1.w1")


@pytest.mark.parametrize(("name", "router"), [*((one, True) for one in ROUTERS), *((one, False) for one in LINEARS)])
def test_a_router_is_known(name: str, router: bool) -> None:
    name = f"model.layers.0.{name}"
    assert is_router(name) == router
    assert is_gate(name) == router
    assert (re.match(GATE_PATTERN.removeprefix("re:"), name) is not None) == router


@pytest.mark.parametrize("name", ["linear_attn.in_proj_ba", "linear_attn.in_proj_a", "self_attn.indexer.weights_proj"])
def test_a_gate_that_chooses_no_expert_is_left_alone_too(name: str) -> None:
    name = f"model.layers.0.{name}"
    assert not is_router(name)
    assert is_gate(name)
    assert re.match(GATE_PATTERN.removeprefix("re:"), name)
    assert not is_gate("model.layers.0.linear_attn.in_proj_qkvz")


def test_an_expert_is_known_and_has_one_name_for_all_engines() -> None:
    name = "model.layers.0.block_sparse_moe.experts.12.w2"
    assert expert_of(name) == "model.layers.0.block_sparse_moe.experts.12"
    assert engine_name(name) == "model.layers.0.mlp.experts.12.down_proj"
    assert checkpoint_names([name]) == {"model.layers.0.mlp.experts.12.down_proj": name}
    assert expert_of("model.layers.0.mlp.shared_experts.up_proj") is None
    assert has_experts([name])
    assert not has_experts(["model.layers.0.feed_forward.w2"])
    assert engine_name("model.layers.0.feed_forward.w2") == "model.layers.0.feed_forward.w2"


CHECKPOINT = "model.layers.0.block_sparse_moe"
SHAPES = {f"{CHECKPOINT}.experts.0.{one}": (8, 8) for one in ("w1", "w2", "w3")} | {
    "model.layers.0.self_attn.q_proj": (8, 8)
}
MIXTRAL = {
    "model.layers.0.mlp.experts.0.gate_proj.qweight": f"{CHECKPOINT}.experts.0.w1.qweight",
    f"{CHECKPOINT}.experts.0.up_proj.qweight": f"{CHECKPOINT}.experts.0.w3.qweight",
    "model.layers.0.mlp.experts.0.down_proj.qweight": f"{CHECKPOINT}.experts.0.w2.qweight",
    "model.layers.0.mlp.gate.weight": f"{CHECKPOINT}.gate.weight",
    "model.layers.0.self_attn.q_proj.qweight": "model.layers.0.self_attn.q_proj.qweight",
    "model.norm.weight": "model.norm.weight",
}
"""Names that engines and transformers leave behind -> the checkpoint's."""


def test_tensors_of_an_engine_get_the_checkpoint_s_names() -> None:
    assert checkpoint_tensors(MIXTRAL, SHAPES.keys()) == MIXTRAL


def test_a_dense_mlp_beside_the_experts_keeps_its_name() -> None:
    dense = "model.layers.1.mlp.gate_proj"
    names = checkpoint_tensors([f"{dense}.qweight"], [*SHAPES, dense])
    assert names == {f"{dense}.qweight": f"{dense}.qweight"}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """An artifact in two files, in an engine's names."""
    import torch
    from safetensors.torch import save_file

    files = {name: f"model-0000{1 + place % 2}-of-00002.safetensors" for place, name in enumerate(MIXTRAL)}
    for file in set(files.values()):
        save_file({name: torch.rand(4) for name, one in files.items() if one == file}, tmp_path / file)
    (tmp_path / WEIGHTS_INDEX).write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": files}))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_files_and_their_index_are_renamed_and_read_by_the_engine_s_names_again(sharded: Path) -> None:
    name_as_checkpoint(sharded, SHAPES)
    assert set(read_headers(sharded)) == set(MIXTRAL.values())
    index = json.loads((sharded / WEIGHTS_INDEX).read_text())
    assert index["weight_map"].keys() == set(MIXTRAL.values())
    assert index["metadata"] == {"total_size": 96}
    with by_engine_names(sharded) as folder:
        assert set(read_headers(folder)) == {engine_name(name) for name in MIXTRAL.values()}
        assert (folder / "config.json").read_text() == "{}"
    assert not folder.exists()
    assert sorted(path.name for path in sharded.iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        WEIGHTS_INDEX,
    ]


def test_names_that_are_the_engine_s_too_are_left_as_they_are(sharded: Path) -> None:
    other = {name.replace("block_sparse_moe", "mlp").replace("w1", "gate_proj"): (8, 8) for name in list(SHAPES)[:1]}
    before = {path.name: path.stat().st_mtime_ns for path in sharded.iterdir()}
    name_as_checkpoint(sharded, other)
    assert {path.name: path.stat().st_mtime_ns for path in sharded.iterdir()} == before


@pytest.mark.parametrize(("lost", "passed"), [(None, True), (f"{CHECKPOINT}.gate.weight", False), ("w1", False)])
def test_experts_and_routers_of_other_names_are_told(lost: str | None, passed: bool) -> None:
    stored = [name for name in MIXTRAL.values() if lost is None or lost not in name]
    source = [*(f"{name}.weight" for name in SHAPES), f"{CHECKPOINT}.gate.weight", "model.layers.9.mlp.gate.weight"]
    check = check_expert_names(dict.fromkeys(stored), source, SHAPES)
    assert check.passed == passed
    if lost:
        assert f"1 of 4 modules have other names than in the checkpoint, such as {CHECKPOINT}" in check.detail


@pytest.mark.parametrize("by_routes", [True, False])
def test_tokens_are_counted_however_an_expert_is_called(by_routes: bool) -> None:
    """Taken apart, an expert is called itself, or its Linears are by the block that is given the routes."""
    import torch

    class Expert(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up_proj = torch.nn.Linear(4, 4)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.Tensor(self.up_proj(tokens))

    class Block(torch.nn.ModuleList):
        num_experts = 3

        def forward(self, tokens: torch.Tensor, routes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            chosen = [(expert, tokens[(routes == place).any(1)]) for place, expert in enumerate(self)]
            outputs = [expert.up_proj(given) for expert, given in chosen if len(given)]
            return torch.cat(outputs) * weights.sum()

    model = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"experts": Block(Expert() for _ in range(3))})})
    experts = model["mlp"]["experts"]
    with counted_tokens(model) as tokens:
        if by_routes:
            experts(torch.rand(5, 4), torch.tensor([[0, 2]] * 5), torch.ones(5, 2))
        else:
            for expert in (experts[0], experts[2]):
                expert(torch.rand(5, 4))
    assert tokens == {"mlp.experts.0": 5, "mlp.experts.1": 0, "mlp.experts.2": 5}
