"""Old names beside new ones in config.json and tokenizer_config.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantizers.checkpoints.older_readers import keep_readable, with_older_model_names, with_older_tokenizer_names


@pytest.mark.parametrize(
    ("written", "added"),
    [
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, {}),
        ({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}, {"rope_theta": 1e5}),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5}},
            {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
                }
            },
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        (
            {"model_type": "gemma3_text", "layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2},
            {"sliding_window_pattern": 3},
        ),
        (
            {"model_type": "gemma3_text", "layer_types": ["sliding_attention"] * 2},
            {"sliding_window_pattern": 3},
        ),
        # Gemma 4's, which no older reader knows.
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "proportional", "partial_rotary_factor": 0.25},
                    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
                }
            },
            {},
        ),
        # What no pattern says is left unsaid.
        ({"model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention"]}, {}),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention", "full_attention"]}, {}),
        ({"rope_theta": 1e4, "torch_dtype": "float16"}, {}),
        ({"rope_parameters": None}, {}),
    ],
)
def test_a_model_s_old_names(written: dict[str, Any], added: dict[str, Any]) -> None:
    assert with_older_model_names(written) == written | added


@pytest.mark.parametrize(
    ("written", "changed"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"tokenizer_class": "LlamaTokenizer"}, {"tokenizer_class": "LlamaTokenizer"}),
        ({"extra_special_tokens": ["<a>"]}, {"additional_special_tokens": ["<a>"]}),
        ({"extra_special_tokens": {"image_token": "<i>"}}, {"extra_special_tokens": {"image_token": "<i>"}}),
        ({}, {}),
    ],
)
def test_a_tokenizer_s_old_names(written: dict[str, Any], changed: dict[str, Any]) -> None:
    assert with_older_tokenizer_names(written) == changed


def test_a_folder_that_needs_nothing_keeps_its_bytes(tmp_path: Path) -> None:
    config, tokenizer = '{"torch_dtype":"float16"}', '{ "tokenizer_class": "LlamaTokenizer" }'
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "tokenizer_config.json").write_text(tokenizer)
    keep_readable(tmp_path)
    assert (tmp_path / "config.json").read_text() == config
    assert (tmp_path / "tokenizer_config.json").read_text() == tokenizer
    (tmp_path / "config.json").write_text('{"dtype": "float16", "eos_token": "</s>é"}')
    (tmp_path / "tokenizer_config.json").unlink()
    keep_readable(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "float16"
    assert "é" in (tmp_path / "config.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
