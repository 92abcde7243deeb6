"""Reading the Prometheus text that an engine serves under /metrics (exposition format 0.0.4)."""

import re
from typing import NamedTuple

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


class Sample(NamedTuple):
    """One line: a number under a name and labels."""

    name: str
    labels: dict[str, str]
    value: float


def parse_metrics(text: str) -> list[Sample]:
    """All samples of a metrics page; comments and lines that are no samples are left out."""
    samples = []
    for line in text.splitlines():
        match = None if line.startswith("#") else _SAMPLE.match(line.strip())
        if match is None:
            continue
        labels = {
            key: re.sub(r"\\[n\"\\]", lambda found: _ESCAPES[found[0]], value)
            for key, value in _LABEL.findall(match["labels"] or "")
        }
        samples.append(Sample(match["name"], labels, float(match["value"])))
    return samples


def total(samples: list[Sample], name: str) -> float | None:
    """Sum of the samples called `name` over all labels; None where there is none."""
    values = [sample.value for sample in samples if sample.name == name]
    return sum(values) if values else None


class KVCache(NamedTuple):
    """What vLLM says about its KV cache; None where it does not say."""

    budget_bytes: int | None
    """Of each rank."""
    tokens: int | None
    requests: float | None
    """Requests of the configured context length that fit at once."""


def kv_cache(samples: list[Sample]) -> KVCache:
    """The KV cache's size, from the labels of `vllm:cache_config_info` (all fields of vLLM's CacheConfig, as text)."""
    labels = next((sample.labels for sample in samples if sample.name == "vllm:cache_config_info"), {})
    budget = _number(labels.get("kv_cache_memory_bytes"))
    tokens = _number(labels.get("kv_cache_size_tokens"))
    return KVCache(
        budget_bytes=None if budget is None else int(budget),
        tokens=None if tokens is None else int(tokens),
        requests=_number(labels.get("kv_cache_max_concurrency")),
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text or "None")
    except ValueError:
        return None
