"""When servers are added and taken away: by what waits, and by how long users wait for the first token."""

import json
import math
from typing import Any, NamedTuple

from pipelines.rendering.deploy.champion import Champion

_DEFAULT_TTFT_SECONDS = 2.0
_WINDOW = "2m"


class Scaling(NamedTuple):
    """Limits beyond which a server is added."""

    least: int
    most: int
    waiting: int
    """Requests that wait at one server."""
    ttft_seconds: float
    percentile: int
    ongoing: int
    """Requests that one server is given at once."""
    rest_seconds: int
    told: list[str]
    """Of what waits and of the first token, each a sentence."""
    told_ongoing: str
    """The same, for platforms that count requests and no more."""


def scaling_of(champion: Champion) -> Scaling:
    """The limits, each with where it comes from."""
    scale = champion.settings.scale
    waiting = scale.waiting or max(1, champion.most_at_once // 4)
    ttft, why = _ttft(champion)
    ongoing, told_ongoing = _ongoing(champion, ttft)
    told = [
        f"A server is added when more than {waiting} requests wait at each"
        + (" (scale.waiting)." if scale.waiting else f", a quarter of the {champion.most_at_once} that it works on."),
        f"Or when the {scale.percentile}th percentile of the time to the first token is above {ttft:g} s: {why}.",
    ]
    return Scaling(
        scale.least,
        scale.most,
        waiting,
        ttft,
        scale.percentile,
        ongoing,
        math.ceil(scale.rest_seconds),
        told,
        told_ongoing,
    )


def _ongoing(champion: Champion, limit_seconds: float) -> tuple[int, str]:
    measured, at_once = champion.ttft_seconds, champion.most_at_once
    percentile = f"the {champion.settings.scale.percentile}th percentile of the time to the first token"
    within = f"{percentile} within {limit_seconds:g} s"
    kept = [level for level, seconds in measured.items() if seconds <= limit_seconds]
    if not measured:
        ongoing, why = at_once, "all that it works on, since no load test is to go by"
    elif not kept:
        ongoing, why = min(measured), f"the lowest load that was measured; none had {within}"
    elif max(kept) >= at_once:
        ongoing, why = at_once, "all that it works on"
    else:
        ongoing, why = max(kept), f"the highest load that was measured with {within}"
    return ongoing, f"A server is added when each has more than {ongoing} requests in flight: {why}."


def _ttft(champion: Champion) -> tuple[float, str]:
    if champion.settings.scale.ttft_seconds is not None:
        return champion.settings.scale.ttft_seconds, "scale.ttft_seconds"
    if champion.slo_ttft_seconds is not None:
        return champion.slo_ttft_seconds, "the recipe's SLO"
    levels = [level for level in champion.ttft_seconds if level <= champion.most_at_once]
    if not levels:
        return _DEFAULT_TTFT_SECONDS, "no load test is to go by, so set scale.ttft_seconds to what is promised"
    level = max(levels)
    measured = champion.ttft_seconds[level]
    return round(2 * measured, 3), f"twice the {measured:.3g} s measured at {level} requests at a time"


def waiting_query(champion: Champion) -> str:
    """PromQL: requests that wait, at all servers of the model together."""
    return f"sum({champion.container.metrics.waiting}{_of(champion)})"


def ttft_query(champion: Champion, percentile: int) -> str:
    """PromQL, in seconds; 0 while nobody asks, where the quantile is no number."""
    buckets = f"{champion.container.metrics.ttft}_bucket{_of(champion)}"
    rate = f"sum by (le) (rate({buckets}[{_WINDOW}]))"
    return f"(histogram_quantile({percentile / 100:g}, {rate}) > 0) or vector(0)"


def _of(champion: Champion) -> str:
    return "{" + champion.container.metrics.model_label + "=" + json.dumps(champion.model, ensure_ascii=False) + "}"


def scaled_object(champion: Champion, deployment: str) -> dict[str, Any]:
    """KEDA's: a Deployment with as many servers as both limits ask for.

    Args:
        deployment: Its name.
    """
    scaling, settings = scaling_of(champion), champion.settings

    def trigger(name: str, query: str, threshold: float, kind: str) -> dict[str, Any]:
        asked = {"serverAddress": settings.prometheus, "query": query, "threshold": f"{threshold:g}"}
        return {"type": "prometheus", "name": name, "metricType": kind, "metadata": asked}

    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": settings.name, "namespace": settings.namespace},
        "spec": {
            "scaleTargetRef": {"name": deployment},
            "minReplicaCount": scaling.least,
            "maxReplicaCount": scaling.most,
            "pollingInterval": 15,
            "cooldownPeriod": scaling.rest_seconds,
            # Without Prometheus it stays as it is.
            "fallback": {"failureThreshold": 4, "replicas": scaling.least, "behavior": "currentReplicasIfHigher"},
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": min(scaling.rest_seconds, 3600)}}
                }
            },
            "triggers": [
                # What waits is shared by all servers; how long is not.
                trigger("waiting", waiting_query(champion), scaling.waiting, "AverageValue"),
                trigger("ttft", ttft_query(champion, scaling.percentile), scaling.ttft_seconds, "Value"),
            ],
        },
    }
