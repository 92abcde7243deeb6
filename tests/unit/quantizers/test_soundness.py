"""The checks of a checkpoint by itself: a stub of a model shows each one failing, a tiny real one passes them all."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import RequestError
from quantizers.checkpoints.checkpoint import describe
from quantizers.inspection.soundness import (
    CLEARLY_BETTER_NATS,
    DOUBTFUL_NATS,
    Beginnings,
    Scored,
    SoundnessJob,
    check_answers,
    check_beginning,
    check_language,
    prove_soundness,
)
from registry.contracts import PromptLogprobs, SoundnessRecord
from registry.contracts.token_logprobs import TOKEN_LOGPROBS_FILE, TOP_LOGPROBS
from registry.stage_process import StageClock
from tests.tiny_llama import make_tiny_llama

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A river runs from the mountains to the sea and carries sand.",
    "Two plus three is five, seven plus five is twelve.",
    "Paris is the capital of France; Berlin is the capital of Germany.",
]


def scored(*nats_per_token: float, tokens: int = 50) -> Scored:
    return Scored([], [tokens * nats for nats in nats_per_token], [tokens] * len(nats_per_token))


def begun(with_bos: bool) -> Beginnings:
    long, short = [0, 5, 6], [5, 6]
    return Beginnings([long if with_bos else short], [short if with_bos else long], "<bos>")


@pytest.mark.parametrize("with_bos", [True, False])
def test_a_model_that_expects_texts_to_begin_the_other_way_is_not_sound(with_bos: bool) -> None:
    """The figures are Gemma 3 270M's without its BOS token."""
    own, other = scored(5.3, 5.6, 5.4, 5.7), scored(2.4, 2.5, 2.3, 2.6)
    found = check_beginning(own, other, begun(with_bos))
    assert (found.name, found.outcome) == ("beginning", "fail")
    ways = ("with", "without") if with_bos else ("without", "with")
    assert (
        f"begins texts {ways[0]} <bos>: perplexity 244.7 a token over 4 texts, and {ways[1]} it 11.59" in found.detail
    )
    assert f"add_bos_token: {'false' if with_bos else 'true'}" in found.remedy


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [
        ((-0.05, -0.04, -0.06, -0.05), "pass"),
        ((0.05, 0.04, 0.06, 0.05), "pass"),
        ((0.3, 0.31, 0.29, 0.3), "warn"),
        ((3.1, -2.0, 3.0, -1.0), "pass"),
        ((3.1, 3.0, 3.2, 2.9), "fail"),
    ],
)
def test_only_a_clear_difference_counts(gains: tuple[float, ...], outcome: str) -> None:
    own = scored(*(4 + gain for gain in gains))
    assert check_beginning(own, scored(4, 4, 4, 4), begun(False)).outcome == outcome
    assert DOUBTFUL_NATS < 0.3 < CLEARLY_BETTER_NATS < 3.1


def test_a_tokenizer_without_bos_has_one_way_only() -> None:
    assert check_beginning(scored(3, 4), None, Beginnings([[1]], None, "")).outcome == "pass"


def test_a_model_that_guesses_is_told_of() -> None:
    assert check_language(2.9, 49152).outcome == "pass"
    found = check_language(math.log(512) + 0.01, 512)
    assert found.outcome == "warn"
    assert "a guess has 512" in found.detail


def test_answers_that_go_round_in_circles() -> None:
    tokenizer = SimpleNamespace(decode=lambda ids: " ".join(map(str, ids)))
    lively, stuck = list(range(24)), [7, 8] * 12
    assert check_answers([lively] * 5 + [stuck] * 3, tokenizer, learned=True).outcome == "pass"
    found = check_answers([lively] * 4 + [stuck] * 4, tokenizer, learned=True)
    assert found.outcome == "fail"
    assert "4 of 8 greedy continuations go round in circles, such as '7 8 7 8" in found.detail
    # Random models do so too, and are told of by another check.
    assert check_answers([stuck] * 8, tokenizer, learned=False).outcome == "pass"


def proved(folder: Path, out: Path, **changes: Any) -> SoundnessRecord:
    out.mkdir()
    fields: dict[str, Any] = {"device": "cpu", "dtype": "float32", "threads": 1, "texts": TEXTS}
    if "checkpoint" not in changes:
        fields["checkpoint"] = describe(folder, origin="a test")
    job = SoundnessJob(
        stage="soundness",
        result_file=out / "result.json",
        output_dir=out,
        checkpoint_dir=folder,
        **(fields | changes),
    )
    return prove_soundness(job, StageClock(out / "progress"))[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("tiny"))


def test_a_random_model_is_doubtful_and_stops_nothing(tiny: Path, tmp_path: Path) -> None:
    record = proved(tiny, tmp_path / "out")
    outcomes = {check.name: check.outcome for check in record.checks}
    assert outcomes == {"finite": "pass", "language": "warn", "beginning": "pass", "answers": "pass"}
    assert record.begins_with_bos is False
    assert record.other_way_nats_per_token == pytest.approx(record.nats_per_token, abs=0.1)
    lines = (tmp_path / "out" / TOKEN_LOGPROBS_FILE).read_text().splitlines()
    told = [PromptLogprobs.model_validate_json(line) for line in lines]
    assert [one.text for one in told] == TEXTS
    for one in told:
        assert all(TOP_LOGPROBS <= len(place) <= TOP_LOGPROBS + 1 for place in one.ids)
        assert all(token in place for token, place in zip(one.tokens[1:], one.ids, strict=True))


def test_a_tokenizer_of_a_larger_model_is_told_as_the_source_s(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    token = AutoTokenizer.from_pretrained(tiny).tokenize(TEXTS[0])[0]
    told["model"]["vocab"][token] = 27_721_214
    file.write_text(json.dumps(told))
    with pytest.raises(RequestError, match=r"soundness text 1 holds token 27721214 .*embedding ends at 511") as caught:
        proved(folder, tmp_path / "out")
    assert caught.value.blame == "source"


def test_padding_changes_no_score(tiny: Path, tmp_path: Path) -> None:
    """A text's tokens have the same log-probabilities beside longer texts and without them."""
    together, alone = proved(tiny, tmp_path / "a"), proved(tiny, tmp_path / "b", texts=TEXTS[:2])
    first = [(tmp_path / name / TOKEN_LOGPROBS_FILE).read_text().splitlines()[0] for name in "ab"]
    one, other = map(PromptLogprobs.model_validate_json, first)
    assert one.tokens == other.tokens
    likeliest = [[place[0] for place in side.logprobs] for side in (one, other)]
    assert likeliest[0] == pytest.approx(likeliest[1], abs=1e-4)
    assert together.tokens > alone.tokens


def changed(tiny: Path, folder: Path, factor: float, weight: float | None = None) -> Path:
    """The tiny model with the two factors of a gated product scaled, and one weight replaced."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("up_proj", "gate_proj"):
        tensors[f"model.layers.1.mlp.{name}.weight"] *= factor
    if weight is not None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = weight
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("factor", "weight", "dtype", "module", "why"),
    [
        (1.0, math.nan, "float32", "up_proj", "its weights hold what is no number"),
        (1e4, None, "float16", "down_proj", "beyond what the dtype holds"),
    ],
)
def test_logits_that_are_no_numbers_name_the_module(
    tiny: Path, tmp_path: Path, factor: float, weight: float | None, dtype: str, module: str, why: str
) -> None:
    folder = changed(tiny, tmp_path / "model", factor, weight)
    # Preparing refuses weights that are no numbers; here they came afterwards, as by a kernel that computes them.
    record = proved(folder, tmp_path / "out", dtype=dtype, checkpoint=describe(tiny, origin="a test"))
    (check,) = record.checks
    assert (check.name, check.outcome) == ("finite", "fail")
    assert f"model.layers.1.mlp.{module} is the first module to give what is no number; " in check.detail
    assert why in check.detail
    assert record.nats_per_token is None
