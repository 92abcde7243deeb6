"""llama.cpp's adapter: what it refuses, starts, and reads. The server itself is started in another tier."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving_checks.engines.base import ServerRequest
from serving_checks.engines.llamacpp import LlamaCppEngine, LlamaCppServerConfig

GGUF = {"quantization_config": {"quant_method": "gguf"}}


def engine_of(**config: Any) -> LlamaCppEngine:
    return LlamaCppEngine(LlamaCppServerConfig(engine="llamacpp", **config))


def request(folder: Path, *files: str, device: Any = "cpu", context: int = 512, **config: Any) -> ServerRequest:
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512} | config))
    for name in files:
        (folder / name).touch()
    asked = LlamaCppServerConfig(engine="llamacpp", max_model_len=context, max_num_seqs=3)
    return ServerRequest(asked, folder, "bfloat16", device, 2, python=Path("/its/bin/python"))


def refusals(asked: ServerRequest) -> list[str]:
    return LlamaCppEngine(LlamaCppServerConfig.model_validate(asked.config.model_dump())).refusals(asked)


def test_its_own_format_and_unquantized_folders_are_served(tmp_path: Path) -> None:
    assert refusals(request(tmp_path, "model.safetensors")) == []
    assert refusals(request(tmp_path, "model.gguf", **GGUF)) == []


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantized by gptq"),
        ({"device": "cuda"}, "llama.cpp comes for CPUs here"),
        ({"context": 1024}, "max_model_len 1024 is beyond the 512 tokens"),
        (GGUF, "holds no GGUF file"),
    ],
)
def test_what_it_does_not_serve_is_refused(asked: dict[str, Any], told: str, tmp_path: Path) -> None:
    (line,) = refusals(request(tmp_path, **asked))
    assert told in line


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    asked = request(tmp_path)
    (tmp_path / "config.json").write_text("{")
    (line,) = refusals(asked)
    assert line.endswith("name a model directory")


@pytest.mark.parametrize("config", [{"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}, {"kv_cache_gib": 1}])
def test_keys_that_mean_nothing_to_it_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        engine_of(**config)


def test_it_is_started_by_the_python_of_its_environment(tmp_path: Path) -> None:
    asked = request(tmp_path, "model.gguf", **GGUF)
    argv, env = engine_of(max_model_len=512, max_num_seqs=3).command(asked, 4711)
    assert argv[:5] == [
        "/its/bin/python",
        "-P",
        "-m",
        "serving_checks.engines.llamacpp_program",
        str(tmp_path),
    ]
    options = dict(zip(argv[5::2], argv[6::2], strict=True))
    assert options == {
        "--model": "model",
        "--port": "4711",
        "--dtype": "bfloat16",
        "--context": "512",
        "--slots": "3",
        "--threads": "2",
    }
    assert (Path(env["PYTHONPATH"]) / "serving_checks").is_dir()


LOG = """\
0.00.008.3 W srv init: security: no API key is set and CORS allows all origins
0.00.009.1 E llama_model_load: error loading model: tensor 'blk.0.attn_q.weight' data is not within the file bounds
0.00.009.2 W slot operator(): id 3 | task 64 | n_past was set to 1
0.00.009.3 E srv init: exiting due to model loading error
Traceback (most recent call last):
RuntimeError: Failed to init server, please check the input params.
"""


def test_its_own_words_for_its_end_come_before_the_exception_that_follows() -> None:
    death = engine_of().death_of(LOG)
    assert death is not None
    assert death.reason.startswith("llama_model_load: error loading model: tensor 'blk.0.attn_q.weight'")
    assert death.blame == "engine"
    assert engine_of().death_of("nothing was wrong") is None
    exception = engine_of().death_of(LOG.splitlines()[-1])
    assert exception is not None
    assert exception.reason == "RuntimeError: Failed to init server, please check the input params."


def test_memory_that_it_did_not_get_is_told_with_what_takes_less() -> None:
    death = engine_of().death_of("0.00.1 E ggml_aligned_malloc: insufficient memory (attempted to allocate 9 MB)\n")
    assert death is not None
    assert "lower `max_num_seqs` or `max_model_len`" in death.remedy
    assert death.blame == "machine"
