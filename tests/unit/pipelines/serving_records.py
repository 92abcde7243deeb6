"""How the models of `report_records` were served: levels, open loops, doubtful points, memory, checks, a profile."""

from typing import Any

from registry.contracts import SLO, LoadPoint, MemoryRecord, ProfileRecord, RateSearch
from tests.records import check_record, load_point, percentiles, poisson_point

MIB = 2**20
LEVELS = (1, 4, 8, 32)
RATES = (0.5, 1.0, 2.0)

SPEEDS = {
    "baseline": (21.0, 62.0, 88.0, 131.0),
    "int8": (14.2, 44.0, 61.0, 92.0),
    "nf4": (6.1, 17.0, 25.3, 31.0),
    "gptq": (24.9, 71.0, 97.4, 128.0),
}
"""Output tokens per second at `LEVELS`."""
WEIGHTS_MIB = {"baseline": 513.0, "int8": 262.0, "nf4": 131.0, "gptq": 139.0}


def closed(level: int, speed: float, prompts: str = "short") -> LoadPoint:
    """A level at which each request gets its share of `speed`, and waits for those before it."""
    tpot, ttft = 0.9 * level / speed, 0.06 + 0.9 * level / speed
    return load_point(level, speed).model_copy(
        update={
            "prompts": prompts,
            "requests": 64,
            "completed": 64,
            "ttft": percentiles(ttft, 1.9 * ttft),
            "tpot": percentiles(tpot, 1.3 * tpot),
            "itl": percentiles(tpot, 2.5 * tpot),
            "e2e": percentiles(ttft + 32 * tpot, 1.4 * (ttft + 32 * tpot)),
        }
    )


def opened(rate: float, speed: float, slowness: float) -> LoadPoint:
    return poisson_point(rate, min(32 * rate, speed)).model_copy(
        update={
            "ttft": percentiles(0.1 * slowness, 0.4 * slowness),
            "tpot": percentiles(0.05 * slowness, 0.08 * slowness),
            "e2e": percentiles(1.7 * slowness, 2.9 * slowness),
        }
    )


def load_points(name: str) -> list[LoadPoint]:
    """Closed and open loops, each model with another kind of trouble."""
    speeds = SPEEDS[name]
    points = [closed(level, speed) for level, speed in zip(LEVELS, speeds, strict=True)]
    points += [opened(rate, speeds[-1], 1 + rate * 60 / speeds[-1]) for rate in RATES]
    if name == "nf4":
        points[-1] = points[-1].model_copy(
            update={"saturated": True, "ttft": percentiles(19.0, 61.0), "requests_waiting_peak": 88}
        )
        points[-1] = points[-1].model_copy(update={"completed": 51, "requests": 64, "failed": 13, "timed_out": 11})
    if name == "int8":
        reason = "the client counted 2,048 output tokens, the server 2,011"
        points[2] = points[2].model_copy(update={"invalid": reason, "server_output_tokens": 77})
    if name == "gptq":
        nothing = dict.fromkeys(("ttft", "tpot", "itl", "e2e", "client_queue"), percentiles(0.0, 0.0))
        none = {"completed": 0, "failed": 64, "requests": 64, "output_tokens": 0, "prompt_tokens": 0}
        speed = {"output_tokens_per_second": 0.0, "requests_per_second": 0.0, "good_requests_per_second": 0.0}
        counters = dict.fromkeys(
            ("server_prompt_tokens", "server_output_tokens", "requests_running_peak", "requests_waiting_peak")
        )
        points[-1] = points[-1].model_copy(update={**nothing, **none, **speed, **counters})
    return points + [closed(level, speed / 3, "long") for level, speed in zip(LEVELS, speeds, strict=True)]


def serving_changes(name: str, size_mib: float) -> dict[str, Any]:
    """Fields of a ServingRecord."""
    weights = int(WEIGHTS_MIB[name] * MIB)
    bytes_a_token = 45 << 10 if name in ("baseline", "int8") else 22.5 * 1024
    tokens = int(1024 * MIB / bytes_a_token)
    highest = {"nf4": None, "int8": 1.0}.get(name, 2.0)
    outcomes = {"nf4": ("fail", "not_run", "pass"), "gptq": ("pass", "not_run", "fail")}
    checks = zip(("batching", "sharding", "starvation"), outcomes.get(name, ("pass", "not_run", "pass")), strict=True)
    return {
        "load_points": load_points(name),
        "load_requests_file": "load_requests.parquet",
        "rate_search": RateSearch(
            slo=SLO(ttft_seconds=1.0, tpot_seconds=0.2),
            share=0.95,
            highest_good_requests_per_second=highest,
            tried=list(RATES),
        ),
        "checks": [check_record(check, outcome) for check, outcome in checks],
        "quantization_kernel": {"gptq": "CPUWNA16LinearKernel", "nf4": "bitsandbytes"}.get(name),
        "profile": ProfileRecord(
            trace_file="trace.json.gz",
            operators=[("aten::mm", 0.612, 0.71), ("aten::scaled_dot_product_attention", 0.12, 0.14)],
        )
        if name == "gptq"
        else None,
        "memory": MemoryRecord(
            artifact_bytes=int(size_mib * MIB),
            weights_bytes_by_rank=None if name == "nf4" else [weights],
            kv_cache_bytes=1024 * MIB,
            kv_cache_tokens=tokens,
            kv_cache_requests=tokens / 512,
            peak_process_bytes=int((size_mib + 2300) * MIB),
            notes=["the engine's worker did not answer when asked for its weights"] if name == "nf4" else [],
        ),
    }
