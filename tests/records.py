"""Sound records for tests, made by hand."""

import math

from evals.samples import SAMPLES_FILE, Sample
from evals.suites.resolve import load_suite
from registry.contracts import (
    ArtifactRecord,
    AskingConditions,
    CalibrationRecord,
    CategoryScore,
    CheckpointRecord,
    CheckRecord,
    EvaluationRecord,
    InspectionCheck,
    InspectionRecord,
    LoadPoint,
    MeasurementRecord,
    MemoryRecord,
    Percentiles,
    ProfileRecord,
    PromptLogprobs,
    QuantizedModule,
    SensitivityRecord,
    ServingRecord,
    SoundnessCheck,
    SoundnessRecord,
    TaskScore,
    UnitSensitivity,
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
        positions=4096,
        tie_word_embeddings=False,
        linear_shapes={"model.layers.0.self_attn.o_proj": (128, 128), "model.layers.0.mlp.down_proj": (128, 256)},
        beyond_float16={},
        num_attention_heads=4,
        num_key_value_heads=2,
        head_size=32,
        embedding_rows=512,
        has_bos_or_eos=True,
        has_chat_template=True,
        origin="made for a test",
    )


def calibration_record(digest: str) -> CalibrationRecord:
    return CalibrationRecord(
        digest=digest,
        token_digest="sha256:t",  # noqa: S106 - no password
        source="self",
        rows=4,
        tokens=64,
        seed=0,
        chat_template=False,
        rejected_rows=0,
    )


def sensitivity_record() -> SensitivityRecord:
    """Of `checkpoint_record`'s two Linears; the second one loses more."""
    return SensitivityRecord(
        checkpoint_digest="sha256:c",
        calibration_digest="sha256:r",
        group_size=64,
        units=[
            UnitSensitivity(name=name, modules=[name], weights=rows * columns, estimated_nats={4: nats, 8: nats / 256})
            for (name, (rows, columns)), nats in zip(
                checkpoint_record("sha256:c").linear_shapes.items(), (0.01, 0.5), strict=True
            )
        ],
        uniform_nats={4: 0.6},
        estimate_tokens=1024,
        held_out_tokens=1024,
        dtype="float32",
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


def prompt_logprobs(nats: float) -> PromptLogprobs:
    """Of a text of two tokens, the second one as likely as exp(-nats)."""
    rest = math.log(1 - math.exp(-nats))
    return PromptLogprobs(text="ab", tokens=[0, 1], ids=[[1, 2]], logprobs=[[-nats, rest]])


def soundness_record(digest: str, failing: str | None = None) -> SoundnessRecord:
    """Sound but for the check that is named."""
    return SoundnessRecord(
        checkpoint_digest=digest,
        dtype="float32",
        checks=[
            SoundnessCheck(name=name, outcome="pass", detail="as it should be")
            if name != failing
            else SoundnessCheck(name=name, outcome="fail", detail="not as it should be", remedy="mend it")
            for name in ("finite", "language", "beginning", "answers")
        ],
        tokens=1000,
        begins_with_bos=False,
        nats_per_token=2.9,
        other_way_nats_per_token=2.94,
        probe_prompt="The capital of France is",
        probe_answer=" Paris",
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


CONDITIONS = AskingConditions(max_model_len=512, tokenizer="sha256:t", engine={"engine": "vllm", "vllm": "0.32.0"})
"""Of every measurement here."""


def samples(wrong: int) -> list[Sample]:
    """`ITEMS` samples of which the first `wrong` are wrong."""
    return [
        Sample(
            task="capitals",
            category="knowledge",
            doc_id=item,
            doc_hash=f"d{item}",
            prompt_hash=f"p{item}",
            sent_hash=f"s{item}",
            target_hash=f"t{item}",
            filter="none",
            metric="acc",
            score=float(item >= wrong),
        )
        for item in range(ITEMS)
    ]


def load_point(concurrency: int, output_tokens_per_second: float) -> LoadPoint:
    """Four requests of 10 prompt tokens and 20 tokens each, one of many ways they may have gone."""
    duration = 80 / output_tokens_per_second
    return LoadPoint(
        profile="concurrent",
        prompts="short",
        concurrency=concurrency,
        requests_per_second_offered=None,
        requests=4,
        completed=4,
        failed=0,
        timed_out=0,
        duration_seconds=duration,
        prompt_tokens=40,
        output_tokens=80,
        output_tokens_per_second=output_tokens_per_second,
        requests_per_second=4 / duration,
        good_requests_per_second=None,
        ttft=percentiles(0.1, 0.2),
        tpot=percentiles(0.02, 0.03),
        itl=percentiles(0.02, 0.05),
        e2e=percentiles(0.5, 0.6),
        client_queue=percentiles(0.0, 0.0),
        server_prompt_tokens=40,
        server_output_tokens=80,
        requests_running_peak=concurrency,
        requests_waiting_peak=0,
        saturated=False,
        request_seconds=concurrency * duration,
        prefill_seconds=0.25 * concurrency * duration,
        decode_seconds=0.75 * concurrency * duration,
    )


def poisson_point(rate: float, output_tokens_per_second: float) -> LoadPoint:
    """The same requests, arriving at a rate in requests per second."""
    open_loop = {"profile": "poisson", "concurrency": None, "requests_per_second_offered": rate}
    return load_point(1, output_tokens_per_second).model_copy(
        update=open_loop | {"good_requests_per_second": rate, "requests_running_peak": 3, "requests_waiting_peak": 1}
    )


def check_record(check: str, outcome: str = "pass") -> CheckRecord:
    """A check with a reason and numbers like those of a real one."""
    if outcome == "not_run":
        return CheckRecord(check=check, outcome=outcome, reason="One rank holds all weights: nothing is sharded.")
    reason = f"Up to 16 requests ran at once and 9 waited; {check} holds."
    if outcome == "fail":
        reason = f"Never more than 1 request ran at once; {check} does not hold."
    numbers = {"throughput_ratio_16_to_1": 6.25, "requests_running_peak": 16.0, "ttft_p99_seconds_alone": 0.0123}
    return CheckRecord(check=check, outcome=outcome, reason=reason, numbers=numbers)


def percentiles(median: float, highest: float) -> Percentiles:
    """Evenly between the two."""
    p90, p95 = (median + share * (highest - median) for share in (0.8, 0.9))
    return Percentiles(p50_seconds=median, p90_seconds=p90, p95_seconds=p95, p99_seconds=highest)


def profile_record() -> ProfileRecord:
    return ProfileRecord(
        trace_file="profile.trace.json.gz", operators=[("aten::mm", 0.003, 0.75), ("(x)", 0.001, 0.25)]
    )


def measurement_record(digest: str, wrong: int = 0, profile: ProfileRecord | None = None) -> MeasurementRecord:
    share = (ITEMS - wrong) / ITEMS
    score = {"metric": "acc", "value": share, "stderr": 0.05, "items": ITEMS, "higher_is_better": True, "chance": 0.25}
    evaluation = EvaluationRecord(
        model_digest=digest,
        conditions=CONDITIONS,
        suite="demo",
        suite_version=load_suite("demo").version,
        suite_digest="sha256:s",
        tasks=[TaskScore(task="capitals", category="knowledge", filter="none", **score)],
        categories=[CategoryScore(category="knowledge", unit="share", **score)],
        samples_file=SAMPLES_FILE,
        requests=ITEMS,
        truncated_prompts=0,
    )
    point = load_point(1, output_tokens_per_second=40.0)
    serving = ServingRecord(
        model_digest=digest,
        engine="vllm",
        engine_version="0.32.0",
        device="cpu",
        device_name="a test's CPU",
        dtype="float32",
        tensor_parallel_size=1,
        threads=2,
        eager=True,
        prefix_caching=True,
        max_num_seqs=16,
        quantization_kernel=None,
        command=["python", "-P", "-m", "vllm"],
        start_seconds=30.0,
        load_average=0.1,
        smoke_answer=" Paris",
        load_points=[point],
        profile=profile,
        memory=MemoryRecord(artifact_bytes=500, kv_cache_tokens=1000, peak_process_bytes=5000),
    )
    return MeasurementRecord(model_digest=digest, evaluation=evaluation, serving=serving)


def tuned_record(digest: str, max_num_seqs: object) -> ServingRecord:
    """A tuner's cell at concurrency 2 whose goodput is a tenth of `max_num_seqs`."""
    point = load_point(2, output_tokens_per_second=40.0)
    good = float(max_num_seqs) / 10  # type: ignore[arg-type]
    serving = measurement_record(digest).serving
    return serving.model_copy(update={"load_points": [point.model_copy(update={"good_requests_per_second": good})]})
