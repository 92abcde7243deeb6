"""Losses module by module: what an estimate is worth, trials that survive a kill, and numbers that are none."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError, StageError
from quantizers.precision.units import Unit
from quantizers.sensitivity.estimate import estimated_losses
from quantizers.sensitivity.rounding import rounded, rounded_inside
from quantizers.sensitivity.stage import split_rows
from quantizers.sensitivity.trials import HeldOut, candidates, run_trials
from registry.contracts.sensitivity import ALL_UNITS

WANTED = [(ALL_UNITS, 4), ("a", 4), ("b", 4), ("a", 8)]


class TinyModel:
    """Ids -> embedding, two Linears one behind the other, logits; made when torch is wanted."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(0)

        class Model(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embedding = torch.nn.Embedding(50, 64)
                self.first = torch.nn.Linear(64, 64, bias=False)
                self.second = torch.nn.Linear(64, 64, bias=False)
                self.head = torch.nn.Linear(64, 50, bias=False)

            def get_input_embeddings(self) -> Any:
                return self.embedding

            def forward(self, ids: Any, use_cache: bool = False) -> Any:
                logits = self.head(self.second(torch.tanh(self.first(self.embedding(ids)))))
                return type("Output", (), {"logits": logits})

        self.model: Any = Model().eval()
        with torch.no_grad():
            self.model.head.weight.mul_(6)  # answers that are sure of themselves
        self.linears = {"first": self.model.first, "second": self.model.second}
        self.ids = torch.randint(50, (8, 64), generator=torch.Generator().manual_seed(1))

    def own_words(self) -> Any:
        """Rows whose next tokens the model itself has drawn, as an estimate takes them to be."""
        import torch

        with torch.inference_mode():
            ids = self.ids.clone()
            for place in range(1, ids.shape[1]):
                chances = self.model(ids[:, place - 1]).logits.softmax(-1)
                ids[:, place] = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(place))[:, 0]
        return ids


def test_rounding_is_to_the_nearest_of_the_levels() -> None:
    import torch

    weights = torch.tensor([[0.75, -0.31, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(rounded(weights, 4, 4)[0], torch.tensor([0.7, -0.3, 0.0, 0.1]))
    assert torch.equal(rounded(weights, 4, 2)[1], torch.zeros(4))
    many = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    assert (rounded(many, 8, 32) - many).norm() < (rounded(many, 4, 32) - many).norm() / 10


def test_an_estimate_is_near_what_a_trial_measures() -> None:
    tiny = TinyModel()
    ids = tiny.own_words()
    estimated = estimated_losses(tiny.model, tiny.linears, [ids[:4], ids[4:]], 32, lambda _, __: None)
    own = HeldOut(tiny.model, [tiny.ids])
    for name, linear in tiny.linears.items():
        measured = own.nats([linear], 4, 32)
        assert 0.5 < estimated[name][4] / measured < 2
        assert estimated[name][8] < estimated[name][4] / 50
        assert own.nats([linear], 8, 32) < measured / 50
    assert own.nats([], 4, 32) == pytest.approx(0, abs=1e-6)


def test_weights_are_as_they_were_after_a_trial_that_failed() -> None:
    import torch

    tiny = TinyModel()
    before = tiny.model.first.weight.clone()
    with pytest.raises(ValueError, match="stop"), rounded_inside([tiny.model.first], 4, 32):
        assert not torch.equal(tiny.model.first.weight, before)
        raise ValueError("stop")
    assert torch.equal(tiny.model.first.weight, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_stage_with_its_module(tmp_path: Path, bad: float) -> None:
    def measure(unit: str, bits: int) -> float:
        return bad if unit == "b" else 0.1

    with pytest.raises(StageError, match="with b in 4 bits the model's loss is no number"):
        run_trials(WANTED, measure, tmp_path / "trials", lambda _, __: None)
    with pytest.raises(StageError, match="the estimated loss of second in 4 bits is no number"):
        tiny = TinyModel()
        tiny.model.second.weight.data[3, 5] = bad
        estimated_losses(tiny.model, {"second": tiny.model.second}, [tiny.ids], 32, lambda _, __: None)


def test_a_killed_process_s_trials_are_not_made_again(tmp_path: Path) -> None:
    def dies_at_b(unit: str, bits: int) -> float:
        if unit == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.25 if unit == "a" else 0.5

    child = os.fork()
    if not child:
        run_trials(WANTED, dies_at_b, tmp_path / "kept" / "trials", lambda _, __: None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    measured: list[tuple[str, int]] = []

    def counts(unit: str, bits: int) -> float:
        measured.append((unit, bits))
        return 0.125

    told: list[tuple[int, int]] = []
    found = run_trials(WANTED, counts, tmp_path / "kept" / "trials", lambda *step: told.append(step))
    assert measured == [("b", 4), ("a", 8)]
    assert found == {(ALL_UNITS, 4): 0.5, ("a", 4): 0.25, ("b", 4): 0.125, ("a", 8): 0.125}
    assert told[-1] == (3, 4)


def test_trials_that_somebody_changed_are_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "trials"
    run_trials(WANTED, lambda _, __: 0.5, file, lambda _, __: None)
    file.write_text(file.read_text().replace("0.5", "0.4", 1))
    with pytest.raises(StageError, match="damaged"):
        run_trials(WANTED, lambda _, __: 0.5, file, lambda _, __: None)


def test_trials_are_for_what_seems_to_matter_most_for_its_size() -> None:
    units = [Unit("large", ("large",), 1000), Unit("small", ("small",), 100)]
    estimated = {"large": {4: 0.5, 8: 0.001}, "small": {4: 0.1, 8: 0.0001}}
    wanted = candidates(units, estimated, (4, 8), 100)
    assert wanted == [(ALL_UNITS, 4), (ALL_UNITS, 8), ("small", 4), ("large", 4), ("large", 8), ("small", 8)]
    assert candidates(units, estimated, (4, 8), 3) == wanted[:3]
    assert candidates(units, estimated, (8,), 9) == [(ALL_UNITS, 8), ("large", 8), ("small", 8)]


def test_estimates_and_trials_read_different_rows() -> None:
    rows = [[place] * 10 for place in range(9)]
    first, last = split_rows(rows, 25, 45)
    assert [row[0] for row in first] == [0, 1]
    assert [row[0] for row in last] == [8, 7, 6, 5]
    # One row each at least, however long; none is in both.
    assert split_rows(rows[:2], 1, 1) == ([rows[0]], [rows[1]])
    assert {row[0] for one in split_rows(rows, 10**6, 10**6) for row in one} == set(range(9))
    with pytest.raises(RequestError, match="there is 1 row"):
        split_rows(rows[:1], 100, 100)
