"""Checkpoints that were quantized elsewhere: taken in as they are, and refused where their config lies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.errors import QuantbenchError
from quantizers.__main__ import inspect_stage, quantize_stage
from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from quantizers.checkpoints.packed_tensors import check_quantized
from quantizers.inspection.inspection import InspectJob
from registry.contracts import ArtifactRecord, CheckpointRecord, InspectionRecord
from registry.hashing import digest_of_file
from registry.stage_process import StageClock
from tests.imported_artifacts import as_awq, as_gptq, change_config, change_tensors, copy_of, say
from tests.tiny_llama import make_tiny_llama

pytestmark = pytest.mark.engine

OURS: dict[str, dict[str, Any]] = {"bnb_nf4": {}, "bnb_int8": {}, "rtn": {"group_size": 64}, "w8a8": {}}
FORMATS = ("gptq", "awq", *OURS)
Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRecord:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return describe(folder, origin=str(folder))


@pytest.fixture(scope="module")
def folders(checkpoint: CheckpointRecord, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format -> a quantized checkpoint; of bitsandbytes and compressed-tensors what the libraries write."""
    source, place = Path(checkpoint.origin), tmp_path_factory.mktemp("elsewhere")
    made = {"gptq": as_gptq(source, place / "gptq"), "awq": as_awq(source, place / "awq")}
    for method, parameters in OURS.items():
        (place / method).mkdir()
        quantize_stage(job_of(checkpoint, place / method, {"method": method, **parameters}), clock_in(place))
        made[method] = place / method
    return made


def clock_in(place: Path) -> StageClock:
    return StageClock(place / "progress")


def job_of(checkpoint: CheckpointRecord, output: Path, config: dict[str, Any]) -> QuantizeJob:
    return QuantizeJob.model_validate(
        {
            "stage": "quantize",
            "result_file": output.parent / "result.json",
            "output_dir": output,
            "name": "theirs",
            "config": config,
            "checkpoint_dir": checkpoint.origin,
            "checkpoint": checkpoint,
            "calibration_dir": None,
            "calibration_digest": None,
            "device": "cpu",
            "dtype": "bfloat16",
            "threads": 1,
        }
    )


def taken(
    checkpoint: CheckpointRecord, kind: str, folder: Path, place: Path, **parameters: Any
) -> tuple[Path, ArtifactRecord]:
    output = place / "taken"
    output.mkdir(parents=True)
    source = {"kind": "folder", "path": str(folder)}
    job = job_of(checkpoint, output, {"method": f"{kind}_imported", "source": source, **parameters})
    return output, ArtifactRecord.model_validate(quantize_stage(job, clock_in(place)).record)


def inspected(checkpoint: CheckpointRecord, artifact: tuple[Path, ArtifactRecord]) -> InspectionRecord:
    job = InspectJob(
        stage="inspect",
        result_file=artifact[0].parent / "result.json",
        checkpoint_dir=Path(checkpoint.origin),
        checkpoint=checkpoint,
        artifact_dir=artifact[0],
        artifact=artifact[1],
        device="cpu",
        dtype="bfloat16",
        threads=1,
    )
    return InspectionRecord.model_validate(inspect_stage(job, clock_in(artifact[0].parent)).record)


def failed(record: InspectionRecord) -> dict[str, str]:
    return {check.name: check.detail for check in record.checks if not check.passed}


@pytest.mark.parametrize("kind", FORMATS)
def test_it_is_taken_in_byte_for_byte_and_found_sound(
    kind: str, checkpoint: CheckpointRecord, folders: dict[str, Path], tmp_path: Path
) -> None:
    artifact = taken(checkpoint, kind, folders[kind], tmp_path)
    weights = "model.safetensors"
    assert digest_of_file(artifact[0] / weights) == digest_of_file(folders[kind] / weights)
    record = artifact[1]
    assert record.engine == "elsewhere"
    assert record.parameters["source"] == f"folder {folders[kind].name}"
    assert record.parameters["bits"] == (8 if kind in ("bnb_int8", "w8a8") else 4)
    assert {one.name for one in record.quantized_modules} == checkpoint.linear_shapes.keys()
    assert str(folders[kind].parent) not in (artifact[0] / "README.md").read_text()
    found = inspected(checkpoint, artifact)
    assert failed(found) == {}
    assert max(found.module_relative_error.values()) < (0.02 if "8" in kind else 0.16)


def test_columns_in_another_order_are_read_as_g_idx_says(checkpoint: CheckpointRecord, tmp_path: Path) -> None:
    folder = as_gptq(Path(checkpoint.origin), tmp_path / "reordered", reordered=True)
    found = inspected(checkpoint, taken(checkpoint, "gptq", folder, tmp_path))
    assert failed(found) == {}


def test_another_base_model_of_the_same_shapes_is_found(
    checkpoint: CheckpointRecord, folders: dict[str, Path], tmp_path: Path
) -> None:
    other = make_tiny_llama(tmp_path / "other", seed=1)
    folder = as_gptq(other, tmp_path / "theirs")
    found = inspected(checkpoint, taken(checkpoint, "gptq", folder, tmp_path))
    wrong = failed(found)
    assert {"weight_agreement", "embeddings"} <= wrong.keys()
    assert "made of another model" in wrong["embeddings"]
    assert min(found.module_relative_error.values()) > 0.9


def test_scales_that_went_into_norms_are_undone(
    checkpoint: CheckpointRecord, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As SmoothQuant has it: activations divided by a channel's scale, weights multiplied with it."""
    folder = copy_of(folders["w8a8"], tmp_path / "smoothed")

    def smooth(tensors: dict[str, Any]) -> None:
        import torch

        for layer in range(2):
            prefix = f"model.layers.{layer}"
            scale = torch.linspace(0.5, 2, 128)
            norm = f"{prefix}.input_layernorm.weight"
            tensors[norm] = (tensors[norm].float() / scale).to(torch.bfloat16)
            undone = torch.ones(128) / tensors[norm].float()
            for name in ("q_proj", "k_proj", "v_proj"):
                module = f"{prefix}.self_attn.{name}"
                rows = tensors[f"{module}.weight_scale"].float()
                weight = tensors[f"{module}.weight"].float() * rows * undone
                rows = weight.abs().amax(1, keepdim=True) / 127
                tensors[f"{module}.weight"] = (weight / rows).round().to(torch.int8)
                tensors[f"{module}.weight_scale"] = rows.to(torch.bfloat16)

    change_tensors(folder, smooth)
    found = inspected(checkpoint, taken(checkpoint, "w8a8", folder, tmp_path))
    assert failed(found) == {}


def test_a_tokenizer_that_differs_may_give_way_to_the_source_s(
    checkpoint: CheckpointRecord, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy_of(folders["rtn"], tmp_path / "theirs")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    own = taken(checkpoint, "rtn", folder, tmp_path / "own")
    assert failed(inspected(checkpoint, own)).keys() == {"tokenizer"}
    other = taken(checkpoint, "rtn", folder, tmp_path / "source", tokenizer="source")
    assert failed(inspected(checkpoint, other)) == {}


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.pop(name)


def _renamed(tensors: dict[str, Any]) -> None:
    tensors["model.extra.weight"] = tensors["model.norm.weight"].clone()


def _not_a_number(name: str) -> Callable[[dict[str, Any]], object]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[0] = float("nan")

    return change


def _with(name: str, index: int, value: int) -> Callable[[dict[str, Any]], object]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[index] = value

    return change


def _dense(tensors: dict[str, Any]) -> None:
    import torch

    for own in ("qweight", "qzeros", "scales", "g_idx"):
        tensors.pop(f"{Q}.{own}")
    tensors[f"{Q}.weight"] = torch.zeros(128, 128, dtype=torch.bfloat16)


def _state(tensors: dict[str, Any]) -> None:
    import torch

    name = f"{Q}.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[name].tolist())) | {"blocksize": 128}
    tensors[name] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)


def config(**members: Any) -> Callable[[Path], None]:
    return lambda folder: say(folder, **members)


def model(**members: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, lambda told: told.update(members))


def tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: change_tensors(folder, change)


LIES: list[tuple[str, Callable[[Path], None], str]] = [
    ("gptq", config(bits=8), "qweight is 16 x 128 instead of 32 x 128 (8 bits, group_size 64)"),
    ("gptq", config(group_size=32), "scales is 2 x 128 instead of 4 x 128 (4 bits, group_size 32)"),
    ("gptq", config(group_size=100), "group_size 100 does not divide the 128 inputs"),
    ("gptq", config(checkpoint_format="gptq_v2"), "zero points other than 8, which sym: true and gptq_v2 mean"),
    ("gptq", tensors(_with(f"{Q}.qzeros", 3, 0x77777778)), "zero points other than 7"),
    ("gptq", tensors(_with(f"{Q}.g_idx", 0, 1)), "columns in another order, which desc_act: false denies"),
    ("gptq", config(desc_act=True, group_size=-1), "scales is 2 x 128 instead of 1 x 128"),
    ("gptq", config(dynamic={"-:.*q_proj": {}}), "stay as they are, and their tensors are quantized"),
    ("gptq", config(dynamic={"-:(": {}}), "has a pattern of modules that is none"),
    ("gptq", config(modules_in_block_to_quantize=[["mlp.up_proj"]]), "stay as they are"),
    ("gptq", tensors(_dense), f"says that {Q} are quantized as gptq, and their tensors are not"),
    ("gptq", config(quant_method="awq", version="gemm"), "says awq; set method to awq_imported"),
    ("gptq", tensors(_without(f"{Q}.g_idx")), f"missing: {Q}.g_idx"),
    ("gptq", tensors(_without("model.norm.weight")), "missing: model.norm.weight"),
    ("gptq", tensors(_renamed), "not the source's: model.extra.weight"),
    ("gptq", tensors(_not_a_number(f"{Q}.scales")), f"NaN or infinity: {Q}.scales"),
    ("gptq", tensors(_not_a_number("model.norm.weight")), "NaN or infinity: model.norm.weight"),
    ("gptq", model(rms_norm_eps=0.1), "rms_norm_eps: 0.1 there, 1e-06 in the source"),
    ("gptq", model(num_hidden_layers=1), "quantized, and no part of a Linear of its layers"),
    ("gptq", model(quantization_config=None), "is no quantized checkpoint"),
    ("gptq", model(auto_map={"AutoModel": "model.Model"}), "code that comes with weights is never run"),
    ("awq", config(modules_to_not_convert=["self_attn"]), "stay as they are, and their tensors are quantized"),
    ("awq", config(version="gemv"), "names AWQ's version 'gemv'"),
    ("awq", config(quant_method="gptq"), "says gptq; set method to gptq_imported"),
    ("bnb_nf4", config(bnb_4bit_use_double_quant=False), "absmax is stored as U8, not F32"),
    ("bnb_nf4", config(bnb_4bit_quant_type="fp4"), "names bnb_4bit_quant_type 'fp4'"),
    ("bnb_nf4", tensors(_state), "blocksize: 128"),
    ("bnb_nf4", config(llm_int8_skip_modules=["q_proj"]), "stay as they are"),
    ("bnb_int8", tensors(_not_a_number(f"{Q}.SCB")), f"NaN or infinity: {Q}.SCB"),
    ("rtn", config(ignore=["lm_head", "re:.*down_proj"]), "stay as they are"),
    ("rtn", config(format="int-quantized"), "says num_bits: 4; read is 8"),
    ("rtn", tensors(_with(f"{Q}.weight_shape", 0, 64)), "another shape than the Linear's"),
    ("w8a8", tensors(_without(f"{Q}.weight_scale")), f"missing: {Q}.weight_scale"),
    ("w8a8", config(quant_method="fp8"), "names quant_method 'fp8'"),
]


@pytest.mark.parametrize(("kind", "lie", "says"), LIES, ids=[f"{kind}: {says[:40]}" for kind, _, says in LIES])
def test_a_lie_is_refused_by_name(
    kind: str,
    lie: Callable[[Path], None],
    says: str,
    checkpoint: CheckpointRecord,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = copy_of(folders[kind], tmp_path / "theirs")
    lie(folder)
    with pytest.raises(QuantbenchError) as caught:
        taken(checkpoint, kind, folder, tmp_path)
    assert says in str(caught.value)
    assert caught.value.blame in ("source", "recipe")
    assert str(tmp_path / "taken") not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "members", "says"),
    [
        ("gptq", {"quant_method": "awq", "version": "gemm"}, "not part of awq: model.layers.*.mlp.down_proj.g_idx"),
        ("bnb_nf4", {"load_in_4bit": False, "load_in_8bit": True}, "weight is stored as U8, not I8"),
        ("awq", {"quant_method": "gptq"}, "qweight is 128 x 16 instead of 16 x 128"),
    ],
)
def test_the_word_of_another_format_is_no_proof_of_it(
    kind: str, members: dict[str, Any], says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy_of(folders[kind], tmp_path / "theirs")
    say(folder, **members)
    with pytest.raises(QuantbenchError) as caught:
        check_quantized(folder)
    assert says in str(caught.value)


def test_a_dense_checkpoint_that_says_it_is_quantized(checkpoint: CheckpointRecord, tmp_path: Path) -> None:
    folder = copy_of(Path(checkpoint.origin), tmp_path / "dense")
    told = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    change_config(folder, lambda config: config.update(quantization_config=told))
    with pytest.raises(QuantbenchError, match="are not quantized, though its config"):
        check_quantized(folder)


def test_pickles_are_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(folders["gptq"], tmp_path / "theirs")
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(QuantbenchError, match="holds pickle weights only"):
        check_quantized(folder)
