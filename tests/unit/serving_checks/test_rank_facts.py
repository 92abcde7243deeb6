"""What workers say about themselves: probe, parsing, and what becomes of it."""

import pytest

from registry.contracts.serving import Endpoint
from serving_checks.engines import worker_probe
from serving_checks.engines.rank_facts import kernel_name, unequal_kernels
from serving_checks.engines.vllm import VllmEngine, VllmServerConfig
from serving_checks.readings.memory import memory_record
from serving_checks.server import RunningServer
from tests.unit.serving_checks.test_server import request, serve_fake
from tests.unit.serving_checks.test_sharding import rank

pytestmark = pytest.mark.slow

NOWHERE = Endpoint(base_url="http://127.0.0.1:9", served_model_name="m", model_path="/", max_model_len=16)


class Module:
    """As much of a torch module as the probe looks at."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def parameters(self, recurse: bool) -> object:
        return iter([1])


class Model(Module):
    def modules(self) -> list[object]:
        return list(self.__dict__.values())


class AutoGPTQLinearMethod:
    def __init__(self) -> None:
        self.kernel = CPUWNA16LinearKernel()


class CPUWNA16LinearKernel:
    pass


class CPUInt8ScaledMMLinearKernel:
    def __init__(self) -> None:
        self.dnnl_handler = Module(k=64, n=32)


class UnquantizedLinearMethod:
    pass


class BitsAndBytesLinearMethod:
    def __init__(self, load_in_8bit: bool) -> None:
        self.quant_config = Module(load_in_8bit=load_in_8bit)


class VocabParallelEmbedding(Module):
    pass


def test_the_probe_names_what_multiplies() -> None:
    ops = Module()
    dense = UnquantizedLinearMethod()
    model = Model(
        onednn=Module(quant_method=dense, cpu_linear=lambda x, weight, bias: ops.onednn_mm(weight, x, bias)),
        fallback=Module(quant_method=dense, cpu_linear=lambda x, weight, bias: ops.nn.functional.linear(x, weight)),
        gpu=Module(quant_method=dense),
        gptq=Module(quant_method=AutoGPTQLinearMethod()),
        nf4=Module(quant_method=BitsAndBytesLinearMethod(load_in_8bit=False)),
        int8=Module(quant_method=BitsAndBytesLinearMethod(load_in_8bit=True)),
        embedding=VocabParallelEmbedding(quant_method=dense, cpu_linear=lambda x: ops.onednn_mm(x, x)),
        w8a8=Module(quant_method=UnquantizedLinearMethod(), scheme=Module(kernel=CPUInt8ScaledMMLinearKernel())),
        norm=Module(),
    )
    assert list(worker_probe.kernels(model)) == [
        "onednn_mm",
        "linear",
        "UnquantizedLinearMethod",
        "CPUWNA16LinearKernel",
        "bitsandbytes.matmul_4bit",
        "bitsandbytes.matmul",
        "CPUInt8ScaledMMLinearKernel",
    ]


def test_integers_that_onednn_holds_are_counted_by_their_shape() -> None:
    """The kernel leaves None in place of the weight once oneDNN has its copy."""

    class Whole(Model):
        def named_modules(self) -> list[tuple[str, object]]:
            return list(self.__dict__.items())

        def named_buffers(self) -> list[object]:
            return []

        named_parameters = named_buffers

    layer = Module(
        quant_method=UnquantizedLinearMethod(), scheme=Module(kernel=CPUInt8ScaledMMLinearKernel()), weight=None
    )
    assert worker_probe.tensor_bytes(Whole(q_proj=layer)) == {"q_proj.weight (packed)": 64 * 32}


def test_kernels_are_counted_a_rank_and_the_most_used_is_first() -> None:
    one, other = (
        rank(number, {"w": 1}).model_copy(update={"kernels": {"onednn_mm": 1, "CPUWNA16LinearKernel": 120}})
        for number in (0, 1)
    )
    assert kernel_name([one, other]) == "CPUWNA16LinearKernel (120), onednn_mm (1)"
    assert unequal_kernels([one, other]) == []
    assert kernel_name([one.model_copy(update={"kernels": {}})]) is None


def test_fallbacks_and_unequal_ranks_are_told() -> None:
    one = rank(0, {"w": 1})
    slow = rank(1, {"w": 1}).model_copy(update={"kernels": {"linear": 3}})
    assert [line.split(":")[0] for line in unequal_kernels([one, slow])] == ["ranks multiply with different kernels"]


def test_a_fallback_is_a_warning(monkeypatch) -> None:
    slow = rank(0, {"w": 1}).model_copy(update={"kernels": {"linear": 3, "CPUWNA16LinearKernel": 4}})
    monkeypatch.setattr(VllmEngine, "ranks", lambda *_: [slow])
    facts = VllmEngine(VllmServerConfig()).facts(NOWHERE, "")
    assert facts.kernel == "CPUWNA16LinearKernel (4), linear (3)"
    assert [line.split(":")[0] for line in facts.warnings] == ["linear"]


def test_the_record_holds_what_the_engine_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(RunningServer, "peak_memory_bytes", lambda _: 5000)
    with serve_fake("ok", request(tmp_path), tmp_path / "log") as server:
        truth = server.facts
        memory = memory_record(server, tmp_path, "cpu")
    assert (truth.dtype, truth.tensor_parallel_size, truth.eager) == ("float32", 2, True)
    assert (truth.prefix_caching, truth.max_num_seqs, truth.kernel) == (False, 256, "nothing (1)")
    assert truth.warnings == []
    assert memory.weights_bytes_by_rank == [1000, 1000]
    assert (memory.kv_cache_bytes, memory.kv_cache_tokens, memory.kv_cache_requests) == (1 << 20, 4096, 2.0)
    assert memory.peak_process_bytes == 5000
    assert memory.notes == []


def test_what_cannot_be_read_is_null_with_a_reason(tmp_path, monkeypatch) -> None:
    """The server is gone and was never sampled: nothing is made up, and everything is accounted for."""
    monkeypatch.setattr(RunningServer, "peak_memory_bytes", lambda _: None)
    with serve_fake("ok", request(tmp_path), tmp_path / "log") as server:
        pass
    truth = server.facts
    memory = memory_record(server, tmp_path, "cpu")
    assert (truth.dtype, truth.prefix_caching, truth.kernel) == (None,) * 3
    assert (truth.eager, truth.max_num_seqs) == (True, 32)
    assert truth.warnings[-1].endswith("recorded as started")
    assert memory.weights_bytes_by_rank is memory.kv_cache_bytes is memory.kv_cache_tokens is None
    assert memory.kv_cache_requests is memory.peak_process_bytes is None
    assert [note.split(":")[0] for note in memory.notes] == ["resident weights", "KV cache", "peak"]


def test_the_log_serves_for_weights_where_workers_are_silent(tmp_path) -> None:
    with serve_fake("ok", request(tmp_path), tmp_path / "log") as server:
        pass
    (tmp_path / "log").write_text("INFO Model loading took 1.5 GiB memory and 2.0 seconds\n")
    memory = memory_record(server, tmp_path, "cpu")
    assert memory.weights_bytes_by_rank == [3 * 2**29]


@pytest.mark.parametrize("answer", [{}, {"results": []}, {"results": ["1000"]}, [], {"results": [{"rank": 0}]}])
def test_an_answer_of_another_kind_is_refused(monkeypatch, answer, tmp_path) -> None:
    monkeypatch.setattr("serving_checks.engines.vllm.post_json", lambda *_: answer)
    with serve_fake("ok", request(tmp_path), tmp_path / "log") as server, pytest.raises(ValueError):
        server.engine.ranks(server.endpoint)


@pytest.mark.parametrize(
    ("tensors", "unread"),
    [
        # One table for both ends.
        ({"model.embed_tokens.weight": 100}, 0),
        ({"model.embed_tokens.weight": 100, "lm_head.weight": 100}, 100),
        # oneDNN took a copy for the output layer, under either's name.
        ({"model.embed_tokens.weight": 100, "lm_head.weight (packed)": 100}, 100),
        ({"model.embed_tokens.weight": 100, "model.embed_tokens.weight (packed)": 100}, 100),
        ({"model.layers.0.mlp.up_proj.weight": 10}, 0),
    ],
)
def test_a_table_that_nothing_multiplies_by_is_not_read(tensors: dict[str, int], unread: int) -> None:
    assert rank(0, tensors).unread_bytes == unread
