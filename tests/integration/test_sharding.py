"""Real ranks of a tiny Llama: forked, proved to be split, refused where the engine refuses, gone without a trace."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from configs.errors import StageError
from serving_checks.checks.sharding import ShardFacts, ShardingConfig, check_sharding, shard_facts
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerCommand, ServerRequest
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.processes.guard import alive, descendants_of, shared_memory_of
from serving_checks.processes.supervisor import Supervised
from serving_checks.readings.memory import memory_record
from serving_checks.server import serve
from serving_checks.transport.http_json import post_json
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine

CONFIG = VllmServerConfig(max_model_len=128, max_num_seqs=4, kv_cache_gib=0.25)
TWO = CONFIG.model_copy(update={"tensor_parallel_size": 2})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Made for one rank, as a run's is; it starts servers of several all the same."""
    folder = tmp_path_factory.mktemp("fork")
    command = VllmEngine(CONFIG).fork_server("cpu", None, folder / "socket")
    assert command is not None
    with Supervised(command.argv, env=command.env, log_file=folder / "log") as child:
        while not (folder / "socket").exists():
            assert child.wait(0.05) is None, child.log_tail()
        yield folder / "socket"


@pytest.fixture
def left_behind() -> Callable[[], set[str]]:
    """What has come into /dev/shm since the test began, of vLLM and Python's multiprocessing, and no process maps.

    Other tests run at the same time; what they have there is mapped.
    """

    def files() -> set[str]:
        mapped = shared_memory_of([int(name) for name in os.listdir("/proc") if name.isdigit()])  # noqa: PTH208
        shared = {str(path) for path in Path("/dev/shm").iterdir() if path.name.startswith(("psm_", "vllm_dist_"))}  # noqa: S108
        return shared - mapped

    before = files()
    return lambda: files() - before


def served_facts(model: Path, config: VllmServerConfig, log: Path, fork_server: Path | None) -> ShardFacts:
    with serve(ServerRequest(config, model, "float32", "cpu", None), log, fork_server=fork_server) as server:
        assert server.forked == (fork_server is not None)
        return shard_facts(server)


def test_two_forked_ranks_are_a_model_split_and_say_what_a_plain_start_says(
    model: Path, fork_server: Path, tmp_path: Path, left_behind: Callable[[], set[str]]
) -> None:
    with serve(ServerRequest(TWO, model, "float32", "cpu", None), tmp_path / "two", fork_server=fork_server) as server:
        two = shard_facts(server)
        memory = memory_record(server, model, "cpu")
        tree = descendants_of(server.pid)
        assert shared_memory_of(tree)
    assert not left_behind()
    assert not [pid for pid in tree if Path(f"/proc/{pid}").exists()]
    assert [rank.kernels for rank in two.ranks] == [{"onednn_mm": 9}] * 2  # two layers of four, and the output
    assert memory.notes == []
    assert memory.weights_bytes_by_rank is not None and len(memory.weights_bytes_by_rank) == 2

    plain = served_facts(model, CONFIG, tmp_path / "one", None)
    record = check_sharding(plain, two, ShardingConfig(tensor_parallel_size=2))
    assert record.outcome == "pass", record.reason
    assert record.numbers["tokens_compared"] > 12
    assert record.numbers["largest_rank_weights_bytes"] < 0.6 * record.numbers["unsharded_weights_bytes"]

    assert check_sharding(plain, two, ShardingConfig(tensor_parallel_size=3)).outcome == "fail"


def test_other_weights_fail_the_check(model: Path, fork_server: Path, tmp_path: Path) -> None:
    """Split as it should be, and another model."""
    other = make_tiny_llama(tmp_path / "other", seed=1)
    record = check_sharding(
        served_facts(model, CONFIG, tmp_path / "one", fork_server),
        served_facts(other, TWO, tmp_path / "two", fork_server),
        ShardingConfig(tensor_parallel_size=2),
    )
    assert record.outcome == "fail"
    assert "one says" in record.reason or "log-probabilities differ" in record.reason


def test_a_rank_s_death_ends_the_engine_and_leaves_nothing(
    model: Path, fork_server: Path, tmp_path: Path, left_behind: Callable[[], set[str]]
) -> None:
    request = ServerRequest(TWO, model, "float32", "cpu", None)
    # Whether the server's end is seen at the block's end too hangs on how soon the engine says that it is dead.
    with suppress(StageError), serve(request, tmp_path / "log", fork_server=fork_server) as server:
        ranks = server.engine.ranks(server.endpoint)
        os.kill(ranks[1].pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while ranks[0].pid in descendants_of(server.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        with pytest.raises(StageError, match="did not tell how it is sharded"):
            shard_facts(server)
        tree = descendants_of(server.pid)
    assert ranks[0].pid not in tree
    assert not [pid for pid in tree if Path(f"/proc/{pid}").exists()]
    assert not left_behind()


class Asking(VllmEngine):
    """Started with what we refuse ourselves before anything is started."""

    def __init__(self, **changed: int) -> None:
        super().__init__(CONFIG)
        self._changed = changed

    def command(self, request: ServerRequest, port: int) -> ServerCommand:
        return VllmEngine(self.config.model_copy(update=self._changed)).command(request, port)


def test_the_engine_refuses_to_shard_bitsandbytes(
    model: Path, fork_server: Path, tmp_path: Path, left_behind: Callable[[], set[str]]
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantized = AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4, device_map="cpu")
    quantized.save_pretrained(tmp_path / "nf4")
    for file in model.glob("tokenizer*"):
        (tmp_path / "nf4" / file.name).write_bytes(file.read_bytes())
    with (
        pytest.raises(StageError, match="Prequant BitsAndBytes models with tensor parallelism is not"),
        serve(
            ServerRequest(CONFIG, tmp_path / "nf4", "bfloat16", "cpu", None),
            tmp_path / "log",
            Asking(tensor_parallel_size=2),
            fork_server,
        ),
    ):
        pass
    assert not left_behind()


def test_the_engine_cannot_serve_a_pipeline_on_a_cpu(model: Path, fork_server: Path, tmp_path: Path) -> None:
    """It comes up, and dies of the first request."""
    asked = ServerRequest(CONFIG, model, "float32", "cpu", None)
    with (
        pytest.raises(StageError, match="died amid its work") as caught,
        serve(asked, tmp_path / "log", Asking(pipeline_parallel_size=2), fork_server) as server,
    ):
        smoke_answer(server.endpoint)
    assert "with HTTP 500" in caught.value.what
    assert "assert self.intermediate_tensors is not None" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("hurt", ["guard", "command"])
def test_ranks_that_are_killed_amid_an_answer_are_noticed_and_leave_nothing(
    model: Path, fork_server: Path, tmp_path: Path, left_behind: Callable[[], set[str]], hurt: str
) -> None:
    """The ranks hold the API server's socket: without its end a client would wait for them for ever."""
    with (
        pytest.raises(StageError, match="the server died amid its work") as caught,
        serve(ServerRequest(TWO, model, "float32", "cpu", None), tmp_path / "log", fork_server=fork_server) as server,
    ):
        assert server.pid
        tree = [server.pid, *descendants_of(server.pid)]
        assert len(tree) > 3
        time.sleep(1.0)  # the tree is sampled twice a second
        os.kill(tree[0] if hurt == "guard" else tree[1], signal.SIGKILL)
        body = {"model": "model", "prompt": "once", "max_tokens": 100, "ignore_eos": True}
        while True:
            post_json(f"{server.endpoint.base_url}/v1/completions", body, timeout_seconds=3600.0)
    assert "SIGKILL" in caught.value.what
    assert not alive(tree[1:])  # a guard tells the exit code with its last breath
    assert left_behind() == set()
