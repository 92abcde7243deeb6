"""The sharding check on made-up facts: what passes, and everything that has to fail."""

import pytest
from pydantic import ValidationError

from configs.errors import StageError
from registry.contracts.serving import CheckRecord, Endpoint
from serving_checks.checks.sharding import (
    PROMPTS,
    ShardFacts,
    ShardingConfig,
    Token,
    check_sharding,
    shard_facts,
    sharding_not_run,
)
from serving_checks.engines.rank_facts import RankFacts
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.server import RunningServer
from tests.unit.serving_checks.test_server import request, serve_fake

WHOLE = {"qkv": 600, "norm": 10, "embedding": 300}
CONFIG = ShardingConfig(tensor_parallel_size=2)


def rank(number: int, tensors: dict[str, int], size: int = 2, pid: int | None = None) -> RankFacts:
    return RankFacts(
        rank=number,
        pid=100 + number if pid is None else pid,
        tensor_parallel_size=size,
        pipeline_parallel_size=1,
        tensor_bytes=tensors,
        kernels={"onednn_mm": 3},
        dtype="float32",
        eager=True,
        prefix_caching=True,
        max_num_seqs=4,
    )


def answers(*tokens: Token) -> list[list[Token]]:
    """The same answer to all prompts."""
    return [list(tokens or (Token(" a", -1.0, 2.0), Token(" b", -2.0, 2.0)))] * len(PROMPTS)


def facts(
    *ranks: RankFacts, said: list[list[Token]] | None = None, pids: tuple[int, ...] = (99, 100, 101)
) -> ShardFacts:
    return ShardFacts(ranks=list(ranks), pids_below_server=list(pids), answers=said or answers())


def halves(**changed: int) -> dict[str, int]:
    return {"qkv": 300, "norm": 10, "embedding": 150} | changed


ONE = facts(rank(0, WHOLE, size=1))


def checked(
    *ranks: RankFacts, said: list[list[Token]] | None = None, pids: tuple[int, ...] = (99, 100, 101)
) -> CheckRecord:
    return check_sharding(ONE, facts(*ranks, said=said, pids=pids), CONFIG)


def test_two_halves_that_say_the_same_pass() -> None:
    record = checked(rank(0, halves()), rank(1, halves()))
    assert record.outcome == "pass"
    assert "2 workers in 2 processes" in record.reason
    assert record.numbers["repeated_weights_bytes"] == 10
    assert record.numbers["all_ranks_weights_bytes"] == 920
    assert record.numbers["tokens_compared"] == 2 * len(PROMPTS)


def test_a_model_that_every_rank_holds_whole_fails() -> None:
    record = checked(rank(0, WHOLE), rank(1, WHOLE))
    assert record.outcome == "fail"
    assert "910 are repeated, of 91 allowed" in record.reason


def test_an_embedding_left_whole_is_too_much() -> None:
    assert checked(rank(0, halves(embedding=300)), rank(1, halves(embedding=300))).outcome == "fail"


def test_key_and_value_heads_fewer_than_ranks_are_repeated_in_part() -> None:
    assert checked(rank(0, halves(qkv=330)), rank(1, halves(qkv=330))).outcome == "pass"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (halves(qkv=290), "qkv has 590 bytes on all ranks, 600 unsharded"),
        ({"norm": 10, "qkv": 300}, "embedding has 150 bytes on all ranks, 300 unsharded"),
        (halves(surprise=7), "surprise has 7 bytes on all ranks, 0 unsharded"),
        (halves(norm=20), "norm has 30 bytes on all ranks, 10 unsharded"),
    ],
)
def test_bytes_that_are_missing_or_strange_fail(second: dict[str, int], said: str) -> None:
    record = checked(rank(0, halves()), rank(1, second))
    assert record.outcome == "fail"
    assert said in record.reason


@pytest.mark.parametrize(
    ("ranks", "pids"),
    [
        ([rank(0, halves())], (99, 100)),
        ([rank(0, halves()), rank(1, halves(), pid=100)], (99, 100)),
        ([rank(0, halves()), rank(1, halves())], (99, 100)),
        ([rank(0, halves()), rank(0, halves(), pid=101)], (99, 100, 101)),
        ([rank(0, halves(), size=1), rank(1, halves(), size=1)], (99, 100, 101)),
    ],
    ids=["one worker", "one process", "a process elsewhere", "one rank twice", "not one group"],
)
def test_workers_that_are_not_there_fail(ranks: list[RankFacts], pids: tuple[int, ...]) -> None:
    record = checked(*ranks, pids=pids)
    assert record.outcome == "fail"
    assert "2 ranks were asked for" in record.reason


def test_another_token_fails_unless_it_was_a_tie() -> None:
    clear = answers(Token(" a", -1.0, 2.0), Token(" c", -2.0, 2.0))
    assert "' b', the ranks ' c'" in checked(rank(0, halves()), rank(1, halves()), said=clear).reason
    tie = answers(Token(" a", -1.0, 2.0), Token(" c", -2.0, 0.001))
    record = checked(rank(0, halves()), rank(1, halves()), said=tie)
    assert (record.outcome, record.numbers["ties"], record.numbers["tokens_compared"]) == ("pass", 6, 6)


def test_what_follows_a_tie_is_not_compared() -> None:
    other = answers(Token(" c", -1.0, 0.001), Token(" d", -9.0, 2.0))
    record = checked(rank(0, halves()), rank(1, halves()), said=other)
    assert record.outcome == "fail"
    assert "no token could be compared" in record.reason


def test_the_tolerance_is_the_dtype_s_unless_it_is_given() -> None:
    off = answers(Token(" a", -1.05, 2.0))
    one = facts(rank(0, WHOLE, size=1), said=answers(Token(" a", -1.0, 2.0)))
    both = facts(rank(0, halves()), rank(1, halves()), said=off)
    assert check_sharding(one, both, CONFIG).outcome == "fail"
    assert check_sharding(one, both, ShardingConfig(tensor_parallel_size=2, tolerance_nats=0.1)).outcome == "pass"
    rounded = one.model_copy(update={"ranks": [one.ranks[0].model_copy(update={"dtype": "bfloat16"})]})
    assert check_sharding(rounded, both, CONFIG).outcome == "pass"


def test_without_a_size_the_engine_s_own_counts() -> None:
    assert check_sharding(ONE, facts(rank(0, halves()), rank(1, halves())), ShardingConfig()).outcome == "pass"


def test_a_sharded_server_is_nothing_to_compare_with() -> None:
    two = facts(rank(0, halves()), rank(1, halves()))
    with pytest.raises(ValueError, match="2 ranks itself"):
        check_sharding(two, two, CONFIG)


def test_what_cannot_be_split_is_not_run() -> None:
    assert sharding_not_run("vLLM does not") == CheckRecord(check="sharding", outcome="not_run", reason="vLLM does not")


@pytest.mark.parametrize(
    "bad", [{"tensor_parallel_size": 1}, {"tolerance_nats": 0}, {"repeated_share": 1.0}, {"ranks": 2}]
)
def test_bad_config_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        ShardingConfig(**bad)


def test_a_running_server_is_asked(tmp_path) -> None:
    """The stand-in says that it has two ranks, and has one process."""
    with serve_fake("ok", request(tmp_path), tmp_path / "log") as server:
        found = shard_facts(server)
    assert [one.rank for one in found.ranks] == [0, 1]
    assert found.ranks[0].pid in found.pids_below_server
    assert [len(answer) for answer in found.answers] == [12] * len(PROMPTS)
    whole = found.ranks[0].model_copy(update={"tensor_bytes": {"weight": 1800, "norm": 100}})
    record = check_sharding(found.model_copy(update={"ranks": [whole]}), found, CONFIG)
    assert record.outcome == "fail"
    assert "1 processes below the server" in record.reason


@pytest.mark.parametrize("mode", ["errors", "empty"])
def test_a_server_that_does_not_tell_is_an_error(tmp_path, mode) -> None:
    with (
        serve_fake(mode, request(tmp_path), tmp_path / "log") as server,
        pytest.raises(StageError, match="did not tell how it is sharded"),
    ):
        shard_facts(server)


def test_a_log_probability_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        facts(rank(0, WHOLE), said=answers(Token(" a", float("nan"), 1.0)))


def test_nobody_there_is_an_error() -> None:
    nowhere = Endpoint(base_url="http://127.0.0.1:9", served_model_name="m", model_path="/", max_model_len=16)
    with pytest.raises(StageError, match="did not tell"):
        shard_facts(RunningServer(VllmEngine(VllmServerConfig()), nowhere))
