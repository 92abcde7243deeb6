"""Is a model really split over the ranks, and does it still say the same?

Three proofs, each from outside, against a server of the same model that is not split:

1. *One worker a rank.* As many workers answer `/collective_rpc` as there should be ranks, each in a process of its own
   below the server.
2. *The weights add up.* Tensor by tensor, the ranks together hold at least what the unsharded server holds, and at most
   one copy each: nothing is missing, nothing else was loaded. Together they hold the whole model once, and what they
   repeat: vectors (norms, biases), look-up tables (rotary positions), small tensors that no rank can do without
   (the order of a GPTQ layer's inputs), key and value heads where there are fewer than ranks, and padding of the
   vocabulary. All of these are small beside the matrices, so what the ranks hold beyond the whole model may be at most
   `repeated_share` of it for each rank after the first. A model that every rank holds whole repeats all of it and
   fails; so does an embedding or an output layer left whole in a model of which it is a large part.
3. *The answers agree.* Greedy answers to fixed prompts are compared token by token, with log-probabilities. Ranks add
   up in another order than one process does, so the last bits differ: a log-probability may differ by the tolerance,
   and where either server's two best tokens are closer than that, another choice is no disagreement (and ends the
   comparison of that prompt, whose contexts differ from there on). A shard in the wrong place is wrong by nats.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic import Field, FiniteFloat

from configs.base import StrictModel
from configs.errors import StageError
from configs.quantities import Ranks, Ratio, Share
from registry.contracts.base import DType, Record
from registry.contracts.serving import CheckRecord
from serving_checks.engines.rank_facts import RankFacts
from serving_checks.processes.guard import descendants_of
from serving_checks.server import RunningServer
from serving_checks.transport.http_json import post_json

PROMPTS = (
    "The capital of France is",
    "Once upon a time there was a king who",
    "Question: what is seven plus five? Answer:",
    "Water boils when",
    "def is_even(number):\n    return",
    "The three primary colours are",
)
TOKENS = 12
"""Of each answer."""
_TOLERANCE_NATS: dict[DType, float] = {"float32": 0.01, "bfloat16": 0.5, "float16": 0.1}
"""Above what another order of adding changes (SmolLM2-135M on three ranks: 0.00002 in float32, 0.16 as a GPTQ artifact
in bfloat16), below what a wrong shard does."""


class ShardingConfig(StrictModel):
    """What is asked of the sharding check."""

    tensor_parallel_size: Ranks | None = Field(default=None, ge=2)
    """Ranks that are compared with an unsharded server; when null those of the run's own servers, if they are sharded,
    else the check is not made."""
    tolerance_nats: Ratio | None = Field(default=None, gt=0)
    """How far log-probabilities may differ; by the served dtype when null (0.01 in float32, 0.1 in float16, 0.5 in
    bfloat16)."""
    repeated_share: Share = Field(default=0.1, lt=1)
    """How much of the model each rank after the first may hold beyond its share."""


class Token(NamedTuple):
    """One place of a greedy answer."""

    text: str
    logprob: FiniteFloat
    """Of the chosen token, in nats."""
    margin: FiniteFloat
    """By how many nats it beats the next best."""


class ShardFacts(Record):
    """What the check needs of one server."""

    ranks: list[RankFacts] = Field(min_length=1)
    pids_below_server: list[int]
    """Processes of the server's tree when it was asked."""
    answers: list[list[Token]]
    """The greedy answer to each of `PROMPTS`."""


def shard_facts(server: RunningServer) -> ShardFacts:
    """Ask a running server.

    Raises:
        StageError: The server does not tell.
    """
    endpoint = server.endpoint
    try:
        return ShardFacts(
            ranks=server.engine.ranks(endpoint),
            pids_below_server=descendants_of(server.pid) if server.pid else [],
            answers=_answers_at_once(server),
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StageError(
            f"the server at {endpoint.base_url} did not tell how it is sharded: {type(error).__name__}: {error}",
            remedy="look into the server's log; leave `tensor_parallel_size` of the sharding check out to go without",
        ) from error


def _answers_at_once(server: RunningServer) -> list[list[Token]]:
    """All prompts in one batch: a step of several ranks that share cores costs much the same for one as for six."""
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: _greedy(server, prompt), PROMPTS))


def _greedy(server: RunningServer, prompt: str) -> list[Token]:
    endpoint = server.endpoint
    body: dict[str, Any] = {
        "model": endpoint.served_model_name,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0.0,
        "logprobs": 2,
        **server.engine.fixed_length,
    }
    told = post_json(f"{endpoint.base_url}/v1/completions", body)["choices"][0]["logprobs"]
    if len(told["tokens"]) != TOKENS:
        raise ValueError(f"{len(told['tokens'])} tokens after {prompt!r} where {TOKENS} were asked for")
    return [
        Token(text, float(logprob), _margin(list(top.values())))
        for text, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True)
    ]


def _margin(logprobs: list[float]) -> float:
    """Between the best and the next; 0 where two tokens have one text, since it is not known which was chosen."""
    return next((first - second for first, second in pairwise(sorted(logprobs, reverse=True))), 0.0)


def check_sharding(unsharded: ShardFacts, sharded: ShardFacts, config: ShardingConfig) -> CheckRecord:
    """Compare what two servers of one model said; pure.

    Args:
        unsharded: Of a server with one rank.
        config: Says how many ranks there should be; as many as the sharded server claims when it does not.

    Raises:
        ValueError: `unsharded` is sharded.
    """
    if len(unsharded.ranks) != 1:
        raise ValueError(f"the server to compare with has {len(unsharded.ranks)} ranks itself")
    wanted = config.tensor_parallel_size or sharded.ranks[0].tensor_parallel_size
    tolerance = config.tolerance_nats or _TOLERANCE_NATS[unsharded.ranks[0].dtype]
    workers, weights = _workers(sharded, wanted), _weights(unsharded, sharded, config.repeated_share)
    answers = _answers(unsharded.answers, sharded.answers, tolerance)
    proofs = (workers, weights, answers)
    failed = [proof.said for proof in proofs if not proof.holds]
    return CheckRecord(
        check="sharding",
        outcome="fail" if failed else "pass",
        reason="; ".join(failed or [proof.said for proof in proofs]),
        numbers=workers.numbers | weights.numbers | answers.numbers,
    )


def sharding_not_run(because: str) -> CheckRecord:
    """The record where the check was not asked for or cannot be made, as with weights that cannot be split."""
    return CheckRecord(check="sharding", outcome="not_run", reason=because)


class _Proof(NamedTuple):
    holds: bool
    said: str
    numbers: dict[str, float]


def _workers(sharded: ShardFacts, wanted: int) -> _Proof:
    ranks = sharded.ranks
    processes = {rank.pid for rank in ranks} & set(sharded.pids_below_server)
    numbered = [rank.rank for rank in ranks] == list(range(wanted))
    sizes = {rank.tensor_parallel_size for rank in ranks}
    holds = numbered and sizes == {wanted} and len(processes) == wanted
    said = (
        f"{wanted} workers in {wanted} processes"
        if holds
        else f"{len(ranks)} workers answered where {wanted} ranks were asked for (ranks "
        f"{', '.join(str(rank.rank) for rank in ranks)}; {len(processes)} processes below the server)"
    )
    return _Proof(holds, said, {"workers": len(ranks), "worker_processes": len(processes)})


def _weights(unsharded: ShardFacts, sharded: ShardFacts, repeated_share: float) -> _Proof:
    whole = unsharded.ranks[0].tensor_bytes
    copies = len(sharded.ranks)
    together: dict[str, int] = {}
    for rank in sharded.ranks:
        for name, size in rank.tensor_bytes.items():
            together[name] = together.get(name, 0) + size
    wrong = [
        f"{name} has {together.get(name, 0):,} bytes on all ranks, {whole.get(name, 0):,} unsharded"
        for name in whole | together
        if not whole.get(name, 0) <= together.get(name, 0) <= copies * whole.get(name, 0)
    ]
    total, whole_total = sum(together.values()), sum(whole.values())
    repeated = total - whole_total
    allowed = repeated_share * whole_total * (copies - 1)
    numbers: dict[str, float] = {
        "unsharded_weights_bytes": whole_total,
        "all_ranks_weights_bytes": total,
        "largest_rank_weights_bytes": max(rank.weights_bytes for rank in sharded.ranks),
        "repeated_weights_bytes": repeated,
    }
    if wrong:
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        return _Proof(False, f"the ranks' weights are not the model's: {wrong[0]}{more}", numbers)
    said = (
        f"the ranks hold {total:,} bytes of weights, the unsharded server {whole_total:,}: {repeated:,} are repeated, "
        f"of {allowed:,.0f} allowed"
    )
    return _Proof(repeated <= allowed, said, numbers)


def _answers(unsharded: list[list[Token]], sharded: list[list[Token]], tolerance: float) -> _Proof:
    compared, ties, largest, wrong = 0, 0, 0.0, []
    for prompt, one, other in zip(PROMPTS, unsharded, sharded, strict=True):
        for first, second in zip(one, other, strict=True):
            if first.text != second.text:
                if min(first.margin, second.margin) <= tolerance:
                    ties += 1
                else:
                    wrong.append(f"after {prompt!r} one says {first.text!r}, the ranks {second.text!r}")
                break
            compared += 1
            largest = max(largest, abs(first.logprob - second.logprob))
    numbers: dict[str, float] = {"tokens_compared": compared, "ties": ties, "largest_difference_nats": largest}
    if largest > tolerance:
        wrong.append(f"log-probabilities differ by up to {largest:.3g} nats, {tolerance:g} allowed")
    if not compared and not wrong:
        wrong.append("no token could be compared: every answer begins with a tie")
    said = "; ".join(wrong) or (
        f"{compared} greedy tokens agree within {largest:.2g} nats of {tolerance:g} allowed, {ties} ties"
    )
    return _Proof(not wrong, said, numbers)
