"""What looks like a checkpoint and is none is told from names and headers, before a stage is started."""

import json
import struct
from pathlib import Path

import pytest

from configs.errors import RequestError
from quantizers.checkpoints import gguf_header
from quantizers.checkpoints.recognition import refuse_unfetched
from quantizers.checkpoints.safetensors_header import WEIGHTS_INDEX, read_headers, weight_files
from quantizers.checkpoints.sources import GgufSource, check_folder, check_source, read_config
from tests.unit.quantizers.test_quantizer_sources import (
    CONFIG,
    TENSORS,
    gguf_text,
    write_folder,
    write_gguf,
    write_safetensors,
)

Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


def refused(path: Path) -> str:
    with pytest.raises(RequestError) as error:
        check_folder(path)
    assert error.value.remedy
    return str(error.value)


def shard(folder: Path, sizes: tuple[int, ...] = (2, 2), total: int | None = None) -> list[Path]:
    """Replace the folder's only weight file by shards; returns them."""
    (folder / "model.safetensors").unlink()
    names, files = list(TENSORS), []
    for number, size in enumerate(sizes, start=1):
        path = folder / f"model-{number:05}-of-{total or len(sizes):05}.safetensors"
        write_safetensors(path, {name: TENSORS[name] for name in names[:size]})
        names = names[size:]
        files.append(path)
    return files


def write_index(folder: Path, **changes: str) -> None:
    headers = {name: path.name for path in sorted(folder.glob("model-*.safetensors")) for name in _names(path)}
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"metadata": None, "weight_map": headers | changes}))


def _names(path: Path) -> list[str]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return list(json.loads(content[8 : 8 + length]))


def test_null_means_absent(folder: Path) -> None:
    nulls = {"quantization_config": None, "auto_map": None, "tie_word_embeddings": None}
    (folder / "config.json").write_text(json.dumps(CONFIG | nulls))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": None}))
    check_folder(folder)
    assert not nulls.keys() & read_config(folder).keys()


def test_an_adapter_is_not_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert "merge it into its base model first" in refused(folder)
    (folder / "config.json").unlink()
    assert "holds an adapter" in refused(folder)


@pytest.mark.parametrize(
    ("packed", "dtype"),
    [
        (f"{Q_PROJ}.qweight", "I32"),
        (f"{Q_PROJ}.SCB", "F32"),
        (f"{Q_PROJ}.weight.absmax", "U8"),
        (f"{Q_PROJ}.weight.quant_state.bitsandbytes__nf4", "U8"),
        (f"{Q_PROJ}.weight_scale_inv", "F32"),
        (f"{Q_PROJ}.weight_packed", "I32"),
    ],
)
def test_packed_tensors_tell_of_an_earlier_quantization(folder: Path, packed: str, dtype: str) -> None:
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4}))
    write_safetensors(folder / "model.safetensors", TENSORS | {packed: (dtype, (4,))})
    told = refused(folder)
    assert "quantized already" in told
    assert packed in told
    assert "quantize_config.json lies beside" in told


def test_a_leftover_of_a_quantizer_beside_plain_weights_is_no_matter(folder: Path) -> None:
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4}))
    check_folder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
    ],
)
def test_a_file_that_was_not_fetched_is_told_as_that(folder: Path, name: str, content: bytes, told: str) -> None:
    (folder / name).write_bytes(content)
    assert f"{name} {told}" in refused(folder)


def test_a_download_that_goes_on_is_told(folder: Path) -> None:
    # aria2 makes the file in its full size at once: all its headers are right, and its weights are zeros.
    (folder / "model.safetensors.aria2").write_bytes(b"\0")
    assert "model.safetensors.aria2 lies beside it" in refused(folder)


def test_shards_without_an_index_are_a_checkpoint_when_all_are_there(folder: Path) -> None:
    files = shard(folder)
    check_folder(folder)
    assert weight_files(folder) == files
    files[1].unlink()
    assert "lacks shards of its weights: model-00002-of-00002.safetensors" in refused(folder)


def test_files_that_no_index_and_no_name_orders_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert "weights.safetensors is neither" in refused(folder)
    shard_set = {f"part-{number:05}-of-00002.safetensors": (number,) for number in (1, 2)}
    for name in shard_set:
        write_safetensors(folder / name, {name: ("BF16", (2,))})
    assert "nothing in" in refused(folder)


def test_two_sets_of_weights_are_refused(folder: Path) -> None:
    files = shard(folder)
    write_safetensors(folder / "model.safetensors", TENSORS)
    assert "two sets of weights: model.safetensors and model-00001-of-00002.safetensors" in refused(folder)
    (folder / "model.safetensors").unlink()
    write_index(folder)
    check_folder(folder)
    write_safetensors(folder / "model.safetensors", TENSORS)
    assert f"two sets of weights: {files[0].name} and model.safetensors" in refused(folder)


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    shard(folder, (2, 1))
    write_safetensors(folder / "model-00002-of-00002.safetensors", {name: TENSORS[name] for name in list(TENSORS)[1:]})
    told = refused(folder)
    assert f"{Q_PROJ}.weight is in two files" in told
    assert "model-00001-of-00002.safetensors and model-00002-of-00002.safetensors" in told


def test_an_index_is_held_against_its_shards(folder: Path) -> None:
    shard(folder)
    write_index(folder, **{"lm_head.weight": "model-00002-of-00002.safetensors"})
    assert "says that lm_head.weight is in model-00002-of-00002.safetensors, and it is not" in refused(folder)
    write_index(folder, **{f"{Q_PROJ}.weight": "model-00002-of-00002.safetensors"})
    assert f"does not say that {Q_PROJ}.weight is in model-00001-of-00002.safetensors" in refused(folder)
    write_index(folder)
    assert set(read_headers(folder)) == set(TENSORS)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 5}, "x"])
def test_a_broken_index_is_told(folder: Path, weight_map: object) -> None:
    shard(folder)
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert "is not a safetensors index" in refused(folder)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"a": ("BF16", [4], [0, 8]), "b": ("BF16", [4], [4, 12])}, "b begins inside another tensor"),
        ({"a": ("BF16", [4], [0, 8]), "b": ("BF16", [4], [12, 20])}, "b begins inside another tensor, or behind a gap"),
        ({"a": ("F32", [4], [0, 8])}, r"a has 8 bytes for \(4,\) values of F32"),
    ],
)
def test_a_header_that_contradicts_itself_is_told(
    tmp_path: Path, entries: dict[str, tuple[str, list[int], list[int]]], told: str
) -> None:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, offsets) in entries.items()
    }
    text = json.dumps(header).encode()
    end = max(offsets[1] for _, _, offsets in entries.values())
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    with pytest.raises(RequestError, match=told):
        read_headers(tmp_path)


def test_a_gguf_file_that_is_cut_off_in_its_weights_is_refused(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "model.gguf")
    check_source(source)
    source.path.write_bytes(source.path.read_bytes()[:-1])
    with pytest.raises(RequestError, match="it is cut off: its header promises"):
        check_source(source)


def test_a_gguf_file_that_was_not_fetched_is_told_as_that(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(RequestError, match="is a Git LFS pointer"):
        check_source(GgufSource(kind="gguf", path=path))
    refuse_unfetched([tmp_path / "nowhere"])


@pytest.mark.parametrize("first", [True, False])
def test_one_part_of_a_split_gguf_is_told_as_that(tmp_path: Path, first: bool) -> None:
    """A later part has no architecture: its first keys are about the split."""
    keys = [gguf_text("general.architecture") + struct.pack("<I", 8) + gguf_text("llama")] if first else []
    keys += [gguf_text(f"split.{name}") + struct.pack("<IH", 2, value) for name, value in (("no", 1), ("count", 3))]
    path = tmp_path / "model-00002-of-00003.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys))
    with pytest.raises(RequestError, match="is one of 3 parts") as caught:
        check_source(GgufSource(kind="gguf", path=path))
    assert "--merge" in caught.value.remedy


def test_the_block_sizes_are_the_format_s() -> None:
    from gguf.constants import GGML_QUANT_SIZES

    assert {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}.items() >= gguf_header._BLOCKS.items()
