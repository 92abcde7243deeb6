"""A real artifact, signed and exported: upstream's verifier, transformers and the serving engine take the folder."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.execution.export import export
from pipelines.execution.workspace import Workspace
from quantizers.__main__ import quantize_stage
from quantizers.base import QuantizeJob
from quantizers.checkpoints.checkpoint import describe
from registry.contracts import ArtifactRecord
from registry.sealed import write_sealed
from registry.signing import sign
from registry.stage_process import StageClock
from serving_checks.checks.smoke import smoke_answer
from serving_checks.engines.base import ServerRequest
from serving_checks.engines.vllm import VllmServerConfig
from serving_checks.server import serve
from tests.tiny_llama import make_tiny_llama
from tests.unit.pipelines.export_records import handed_on, write_keys

pytestmark = pytest.mark.engine


class Handed(NamedTuple):
    """An object of the store, the folder that it was exported to, and the public key."""

    object: Path
    signature: Path
    folder: Path
    public: Path


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Handed:
    root = tmp_path_factory.mktemp("export")
    model = make_tiny_llama(root / "model")
    workspace = Workspace(root / "workspace")
    workspace.create()
    with workspace.store.staging() as staging:
        job = QuantizeJob(
            stage="quantize",
            result_file=root / "result.json",
            output_dir=staging,
            name="gptq",
            config={"method": "rtn", "group_size": 64},  # type: ignore[arg-type]
            checkpoint_dir=model,
            checkpoint=describe(model, origin="a random Llama"),
            calibration_dir=None,
            calibration_digest=None,
            device="cpu",
            dtype="bfloat16",
            threads=1,
        )
        record = ArtifactRecord.model_validate(quantize_stage(job, StageClock(root / "progress")).record)
        digest = workspace.store.put(staging).digest
    assert record.digest == digest
    run = workspace.root / "runs" / "20260501T120000-tiny-1a2b3c"
    write_sealed(run / "result.json", handed_on(digest, run))
    private, public = write_keys(root)
    sign(workspace.store, digest, private)
    export(workspace, "gptq", None, root / "out", lambda done, whole: None)
    return Handed(workspace.store.path(digest), workspace.store.signature_file(digest), root / "out", public)


def upstream(folder: Path, signature: Path, public: Path) -> tuple[int, str]:
    """What OpenSSF's own command says."""
    argv = [sys.executable, "-P", "-m", "model_signing", "verify", "key", str(folder)]
    argv += ["--signature", str(signature), "--public_key", str(public)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_upstream_s_verifier_takes_object_and_export(handed: Handed, tmp_path: Path) -> None:
    assert upstream(handed.object, handed.signature, handed.public) == (0, "Verification succeeded\n")
    assert upstream(handed.folder, handed.folder / "model.sig", handed.public) == (0, "Verification succeeded\n")
    _, other = write_keys(tmp_path)
    code, text = upstream(handed.folder, handed.folder / "model.sig", other)
    assert code == 1 and "Key mismatch" in text
    weights = handed.folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        code, text = upstream(handed.folder, handed.folder / "model.sig", handed.public)
    finally:
        weights.write_bytes(whole)
    assert code == 1 and "Hash mismatch for 'model.safetensors'" in text


def test_transformers_loads_the_folder(handed: Handed) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(handed.folder)
    model = AutoModelForCausalLM.from_pretrained(handed.folder)
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**tokens, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > tokens["input_ids"].shape[1]


def test_the_engine_serves_the_folder(handed: Handed, tmp_path: Path) -> None:
    config = VllmServerConfig(max_model_len=64, max_num_seqs=2, kv_cache_gib=0.25)
    with serve(ServerRequest(config, handed.folder, "bfloat16", "cpu", None), tmp_path / "server.log") as server:
        assert smoke_answer(server.endpoint)
