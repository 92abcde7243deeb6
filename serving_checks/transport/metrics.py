"""Reading the Prometheus text that an engine serves under /metrics (exposition format 0.0.4)."""

import re
from typing import NamedTuple

from registry.contracts.serving import Endpoint
from serving_checks.transport.http_json import get_text

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


def read_metrics(endpoint: Endpoint) -> list[Sample]:
    """All samples of a server's page now.

    Raises:
        OSError: There is no such page.
    """
    return parse_metrics(get_text(f"{endpoint.base_url}/metrics", api_key_variable=endpoint.api_key_variable))


def total(samples: list[Sample], name: str) -> float | None:
    """Sum of the samples called `name` over all labels; None where there is none."""
    values = [sample.value for sample in samples if sample.name == name]
    return sum(values) if values else None


def number(samples: list[Sample], name: str | None) -> float | None:
    """What an engine's page says under one of its `MetricNames`; None where it has none or it is no number.

    Args:
        name: `metric`, summed over all labels, or `metric{label}`, the number that the label of its first sample holds.
    """
    metric, _, label = (name or "").rstrip("}").partition("{")
    if not label:
        return total(samples, metric)
    held = next((sample.labels.get(label, "") for sample in samples if sample.name == metric), "")
    try:
        return float(held)
    except ValueError:
        return None
