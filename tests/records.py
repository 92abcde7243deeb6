"""Sound records for tests, made by hand."""

from evals.samples import SAMPLES_FILE, Sample
from registry.contracts import (
    ArtifactRecord,
    CategoryScore,
    CheckpointRecord,
    EvaluationRecord,
    InspectionCheck,
    InspectionRecord,
    LoadPoint,
    MeasurementRecord,
    MemoryRecord,
    QuantizedModule,
    ServingRecord,
    TaskScore,
)

ITEMS = 20


def checkpoint_record(digest: str) -> CheckpointRecord:
    return CheckpointRecord(
        digest=digest,
        size_bytes=1000,
        architecture="LlamaForCausalLM",
        parameters=500,
        dtype="bfloat16",
        max_position_embeddings=512,
        tie_word_embeddings=False,
        linear_shapes={"model.layers.0.self_attn.o_proj": (128, 128), "model.layers.0.mlp.down_proj": (128, 256)},
        num_attention_heads=4,
        num_key_value_heads=2,
        has_chat_template=True,
        origin="made for a test",
    )


def artifact_record(digest: str, name: str = "int8") -> ArtifactRecord:
    return ArtifactRecord(
        digest=digest,
        checkpoint_digest="sha256:c",
        calibration_digest=None,
        name=name,
        method="bnb_int8",
        parameters={"threshold": 6.0},
        engine="bitsandbytes",
        engine_versions={"bitsandbytes": "0"},
        size_bytes=500,
        bits_per_weight=8.1,
        quantized_modules=[QuantizedModule(name="model.layers.0.mlp.down_proj")],
        fallback_count=0,
        quantize_dtype="float32",
        quantize_device="cpu",
        duration_seconds=1.5,
    )


def inspection_record(digest: str, passed: bool = True) -> InspectionRecord:
    return InspectionRecord(
        artifact_digest=digest,
        checks=[InspectionCheck(name="weight_agreement", passed=passed, detail="lowest correlation 0.99")],
        module_correlation={"model.layers.0.mlp.down_proj": 0.99},
        module_relative_error={"model.layers.0.mlp.down_proj": 0.05},
        probe_prompt="The capital of France is",
        probe_answer=" Paris",
    )


def samples(wrong: int) -> list[Sample]:
    """`ITEMS` samples of which the first `wrong` are wrong."""
    return [
        Sample(
            task="capitals",
            category="knowledge",
            doc_id=item,
            doc_hash=f"d{item}",
            prompt_hash=f"p{item}",
            target_hash=f"t{item}",
            filter="none",
            metric="acc",
            score=float(item >= wrong),
        )
        for item in range(ITEMS)
    ]


def measurement_record(digest: str, wrong: int = 0) -> MeasurementRecord:
    share = (ITEMS - wrong) / ITEMS
    score = {"metric": "acc", "value": share, "stderr": 0.05, "items": ITEMS, "higher_is_better": True, "chance": 0.25}
    evaluation = EvaluationRecord(
        model_digest=digest,
        suite="demo",
        suite_version="1",
        suite_digest="sha256:s",
        tasks=[TaskScore(task="capitals", category="knowledge", filter="none", **score)],
        categories=[CategoryScore(category="knowledge", unit="share", **score)],
        samples_file=SAMPLES_FILE,
        requests=ITEMS,
        truncated_prompts=0,
    )
    point = LoadPoint(
        concurrency=1,
        requests=4,
        completed=4,
        failed=0,
        duration_seconds=2.0,
        prompt_tokens=40,
        output_tokens=80,
        output_tokens_per_second=40.0,
        requests_per_second=2.0,
        ttft_p50_seconds=0.1,
        ttft_p99_seconds=0.2,
        tpot_p50_seconds=0.02,
        tpot_p99_seconds=0.03,
        e2e_p50_seconds=0.5,
        e2e_p99_seconds=0.6,
    )
    serving = ServingRecord(
        model_digest=digest,
        engine="vllm",
        engine_version="0.32.0",
        device="cpu",
        device_name="a test's CPU",
        dtype="float32",
        tensor_parallel_size=1,
        threads=2,
        quantization_kernel=None,
        command=["python", "-P", "-m", "vllm"],
        start_seconds=30.0,
        load_average=0.1,
        smoke_answer=" Paris",
        load_points=[point],
        memory=MemoryRecord(artifact_bytes=500, kv_cache_tokens=1000, peak_process_bytes=5000),
    )
    return MeasurementRecord(model_digest=digest, evaluation=evaluation, serving=serving)
