"""What Prometheus asks of a server, and a Grafana dashboard of the engine's own metrics with the measured limits.

Quantbench's other dashboard is of its gateway (`configs/shadow/grafana.json`); this one is of a server that is asked
without it.
"""

from typing import Any, NamedTuple

from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.scaling import scaling_of

PROMETHEUS_IMAGE = "prom/prometheus:v3.5.0"
GRAFANA_IMAGE = "grafana/grafana:12.1.1"
_SCHEMA_VERSION = 42
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """One graph."""

    title: str
    unit: str
    """Grafana's id of it."""
    expressions: dict[str, str]
    """Legend -> PromQL; `$model` stands for the model's name."""
    about: str
    limit: float | None = None
    """Drawn in red above it."""


def panels_of(champion: Champion) -> list[Panel]:
    """What is watched, each beside what was measured."""
    return [*_waiting_panels(champion), *_speed_panels(champion), *_cache_panels(champion)]


def _waiting_panels(champion: Champion) -> list[Panel]:
    scaling, at_once, metrics = scaling_of(champion), champion.most_at_once, champion.container.metrics
    return [
        Panel(
            "Time to first token",
            "s",
            _quantiles(champion, metrics.ttft),
            f"p{scaling.percentile} above {scaling.ttft_seconds:g} s is too slow: what servers are added by.",
            scaling.ttft_seconds,
        ),
        Panel(
            "Requests waiting",
            "short",
            {"{{instance}}": _of(champion, metrics.waiting)},
            f"At each server; above {scaling.waiting} there are too few servers.",
            scaling.waiting,
        ),
        Panel(
            "Requests at work",
            "short",
            {"{{instance}}": _of(champion, metrics.running)},
            f"At each server; it works on {at_once} at most, others wait.",
            at_once,
        ),
    ]


def _speed_panels(champion: Champion) -> list[Panel]:
    metrics = champion.container.metrics
    speeds = [one.output_tokens_per_second for one in champion.sound_points]
    reached = f" One server gave up to {max(speeds):,.0f} of answers when it was measured." if speeds else ""
    return [
        Panel(
            "Time between tokens",
            "s",
            _quantiles(champion, metrics.itl),
            "Of one answer, after its first token.",
        ),
        Panel(
            "Tokens per second",
            "short",
            {
                "answers": f"sum(rate({_of(champion, metrics.generation_tokens)}[2m]))",
                "prompts": f"sum(rate({_of(champion, metrics.prompt_tokens)}[2m]))",
            },
            f"Of all servers.{reached}",
        ),
        Panel(
            "Answers a second",
            "reqps",
            {
                f"{{{{{metrics.ended_label}}}}}": f"sum by ({metrics.ended_label})"
                f" (rate({_of(champion, metrics.ended)}[2m]))"
            },
            "By how they ended.",
        ),
    ]


def _cache_panels(champion: Champion) -> list[Panel]:
    metrics = champion.container.metrics
    return [
        Panel(
            "KV cache in use",
            "percentunit",
            {"{{instance}}": _of(champion, metrics.cache_share)},
            "At 100 % requests are put off and begun anew.",
            0.9,
        ),
        Panel(
            "Requests put off",
            "short",
            {"{{instance}}": f"increase({_of(champion, metrics.preemptions)}[5m])"},
            "Begun anew because the KV cache was full, in 5 minutes. More than a few: a larger cache or fewer at once.",
        ),
    ]


def _of(champion: Champion, metric: str) -> str:
    return f'{metric}{{{champion.container.metrics.model_label}="$model"}}'


def _quantiles(champion: Champion, histogram: str) -> dict[str, str]:
    rate = f"sum by (le) (rate({_of(champion, f'{histogram}_bucket')}[2m]))"
    return {f"p{share}": f"histogram_quantile({share / 100:g}, {rate})" for share in (50, 95, 99)}


def dashboard_of(champion: Champion) -> dict[str, Any]:
    """For Grafana 12; it asks which Prometheus to use."""
    panels = [_panel(number, panel) for number, panel in enumerate(panels_of(champion))]
    return {
        "title": f"{champion.model}: server",
        "uid": f"qb-{champion.digest.removeprefix('sha256:')[:24]}",
        "description": f"{champion.name} of run {champion.run_id}, {champion.digest}. By `quantbench deploy render`.",
        "schemaVersion": _SCHEMA_VERSION,
        "tags": ["quantbench"],
        "timezone": "browser",
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {"name": "model", "type": "constant", "query": champion.model, "hide": 2},
            ]
        },
        "panels": panels,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "off" if panel.limit is None else "line"}},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _DATASOURCE, "expr": expression, "legendFormat": legend}
            for place, (legend, expression) in enumerate(panel.expressions.items())
        ],
    }


def scrape_config(name: str, address: str) -> dict[str, Any]:
    """Prometheus' configuration with one server.

    Args:
        name: Of the job.
        address: HOST:PORT.
    """
    job = {"job_name": name, "scrape_interval": "15s", "static_configs": [{"targets": [address]}]}
    return {"scrape_configs": [job]}
