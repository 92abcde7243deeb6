"""Language models inside of models that read images, of classes that keep them under different names."""

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import RequestError
from quantizers.checkpoints.checkpoint import PrepareJob, describe, prepare
from quantizers.checkpoints.safetensors_header import read_headers
from quantizers.checkpoints.sources import FolderSource, check_source, checkpoint_bytes, told_architecture
from quantizers.checkpoints.text_part import as_text
from quantizers.methods.imported import Config as ImportedConfig
from registry.contracts import CheckpointRecord
from registry.stage_process import StageClock
from tests.tiny_families import make_tiny_of, make_tiny_reader

READERS = {
    "gemma3": "Gemma3ForCausalLM",
    "gemma4": "Gemma4ForCausalLM",
    "idefics3": "LlamaForCausalLM",
    "lighton_ocr": "Qwen3ForCausalLM",
    "llava": "LlamaForCausalLM",
    "mistral3": "MistralForCausalLM",
    "paligemma": "GemmaForCausalLM",
    "qwen3_5": "Qwen3_5ForCausalLM",
}
"""Model type -> the architecture of its language model; tied and untied heads, three prefixes."""


def text_of(path: Path, work: Path) -> CheckpointRecord:
    source = FolderSource(kind="folder", path=path, part="text")
    check_source(source)
    job = PrepareJob(
        stage="prepare", result_file=work / "result.json", output_dir=work / "text", source=source, dtype="bfloat16"
    )
    record, _ = prepare(job, StageClock(work / "progress"))
    assert told_architecture(source) == record.architecture
    assert checkpoint_bytes(source) == sum(info.size_bytes for info in read_headers(work / "text").values())
    return record


@pytest.mark.slow
@pytest.mark.parametrize("model_type", READERS)
def test_it_answers_a_text_as_the_whole_model_does(model_type: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    whole = make_tiny_reader(model_type, tmp_path / "whole")
    record = text_of(tmp_path / "whole", tmp_path)
    assert (record.architecture, record.origin) == (READERS[model_type], "the text part of folder whole")
    ids = torch.arange(5, 205).unsqueeze(0)  # more than a sliding window
    text = AutoModelForCausalLM.from_pretrained(tmp_path / "text", dtype=torch.bfloat16)
    assert text.num_parameters() < whole.num_parameters()
    with torch.inference_mode():
        wanted, found = (model.eval()(ids).logits.float() for model in (whole, text))
    assert float((wanted - found).abs().max()) <= 1e-2 * float(wanted.abs().max())


@pytest.mark.slow
def test_shards_that_hold_none_of_it_are_left_out(tmp_path: Path) -> None:
    make_tiny_reader("mistral3", tmp_path / "whole", max_shard_size="100KB")
    whole = {info.file.name for info in read_headers(tmp_path / "whole").values()}
    text_of(tmp_path / "whole", tmp_path)
    files = {info.file.name for info in read_headers(tmp_path / "text").values()}
    assert 1 < len(files) < len(whole)
    index = json.loads((tmp_path / "text" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == files
    assert describe(tmp_path / "text", origin="").architecture == "MistralForCausalLM"


@pytest.mark.slow
def test_what_lacks_a_tensor_is_refused_by_its_own_class(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_tiny_reader("llava", tmp_path / "whole")
    file = tmp_path / "whole" / "model.safetensors"
    tensors = load_file(file)
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(RequestError, match=r"missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        text_of(tmp_path / "whole", tmp_path)


@pytest.mark.slow
def test_a_model_that_reads_images_is_refused_with_the_way_out(tmp_path: Path) -> None:
    make_tiny_reader("llava", tmp_path / "whole")
    with pytest.raises(RequestError, match=r"LlavaForConditionalGeneration, reads more than text") as caught:
        check_source(FolderSource(kind="folder", path=tmp_path / "whole"))
    assert caught.value.remedy == "set `part: text` in its source for its language model alone, LlamaForCausalLM"


@pytest.mark.slow
def test_what_has_no_text_part_is_refused(tmp_path: Path) -> None:
    make_tiny_of("llama", tmp_path / "llama")
    with pytest.raises(RequestError, match=r"has no text part that is made here: its config\.json has none"):
        check_source(FolderSource(kind="folder", path=tmp_path / "llama", part="text"))
    with pytest.raises(RequestError, match=r"text_config\.model_type: 'qwen2_vl_text'"):
        as_text({"text_config": {"model_type": "qwen2_vl_text"}}, tmp_path)
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    (tmp_path / "llama" / "config.json").write_text(json.dumps({"text_config": config, "architectures": ["Whole"]}))
    check_source(FolderSource(kind="folder", path=tmp_path / "llama", part="text"))
    with pytest.raises(RequestError, match=r"transformers cannot read .*/config\.json: ValueError"):
        text_of(tmp_path / "llama", tmp_path)
    shutil.copyfile(tmp_path / "llama" / "model.safetensors", tmp_path / "one.safetensors")
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "one.safetensors")
    tensors["other.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "llama" / "model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match=r"2 end with embed_tokens\.weight"):
        check_source(FolderSource(kind="folder", path=tmp_path / "llama", part="text"))


def test_an_artifact_that_was_made_elsewhere_is_taken_in_whole(tmp_path: Path) -> None:
    source = FolderSource(kind="folder", path=tmp_path, part="text")
    with pytest.raises(ValidationError, match="leave `part` out"):
        ImportedConfig(method="gptq_imported", source=source)
