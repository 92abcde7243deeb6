"""The proofs about a served model: scheduling on the server that was measured, sharding beside a second one."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from configs.errors import StageError
from registry.contracts import CheckRecord
from serving_checks.checks.batching import check_batching
from serving_checks.checks.config import ChecksConfig
from serving_checks.checks.sharding import ShardFacts, ShardingConfig, check_sharding, shard_facts, sharding_not_run
from serving_checks.checks.starvation import check_starvation
from serving_checks.engines.base import ServerRequest
from serving_checks.load.prompts import text_prompts
from serving_checks.readings.gauges import GaugeNames
from serving_checks.server import RunningServer

StartServer = Callable[[ServerRequest], AbstractContextManager[RunningServer]]


def prove_scheduling(server: RunningServer, config: ChecksConfig) -> list[CheckRecord]:
    """Batching and starvation, where they are wanted.

    Raises:
        RequestError: The requests of a check do not fit the server's context.
        StageError: The server died or gave no tokens.
    """
    found = []
    endpoint, fixed_length = server.endpoint, server.engine.fixed_length
    if config.batching:
        gauges, places = GaugeNames.of(server.engine.metrics), server.facts.max_num_seqs
        found.append(check_batching(endpoint, config.batching, places, gauges=gauges, fixed_length=fixed_length))
    if config.starvation:
        prompt_of = None if server.engine.takes_token_ids else text_prompts(endpoint.model_path, config.starvation.seed)
        found.append(check_starvation(endpoint, config.starvation, prompt_of, fixed_length=fixed_length))
    return found


def prove_sharding(
    first: ShardFacts, request: ServerRequest, config: ShardingConfig, start: StartServer
) -> CheckRecord:
    """Serve the model once more, sharded where it was not and unsharded where it was, and compare the two.

    Args:
        first: Of the server that was measured, which is gone: two models may not fit the device at once.
        request: The second server's.
        config: Of the check.
        start: Starts the second server.
    """
    try:
        with start(request) as server:
            second = shard_facts(server)
    except StageError as error:
        said = error.what.splitlines()[0]
        if error.blame == "machine":
            return sharding_not_run(f"the second server did not last: {said}")
        if request.config.tensor_parallel_size == 1:
            # It may well be too large for one rank; that is what the others are for.
            return sharding_not_run(f"there is no unsharded server to compare with: {said}")
        ranks = request.config.tensor_parallel_size
        return CheckRecord(check="sharding", outcome="fail", reason=f"a server of {ranks} ranks: {said}")
    unsharded, sharded = (second, first) if request.config.tensor_parallel_size == 1 else (first, second)
    return check_sharding(unsharded, sharded, config)
