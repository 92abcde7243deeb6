"""What is counted of each answer, whoever asked for it: the same families in the gateway's process, for clients, and in
the observer's, for the copies that nobody waits for. Names are OpenTelemetry's for generative models where it has one
(semantic-conventions-genai, gen-ai-metrics.md), with dots written as underscores as Prometheus wants them and the unit
behind; the others begin with `quantbench_gateway_`.

Every label has few values. Arms and operations are two each, traffic three; a model is what the config calls it, since
others are refused; statuses are told one by one where they are common; of versions the last ones are kept.
"""

from typing import Any, Literal, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from serving_checks.gateway.asked import CHAT
from serving_checks.gateway.observed import Arm

Traffic = Literal["client", "mirror", "attempt"]
"""mirror: a copy that nobody waits for; attempt: a cascade's cheap answer that was not sure enough for the client."""
Family = TypeVar("Family", Counter, Histogram)

PROVIDER = "quantbench"
"""Of gen_ai.provider.name, which is required."""
MOST_VERSIONS = 16
"""Series of versions before the last ones are dropped: each promotion brings one more."""
LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "arm", "version", "traffic")

_STATUSES = frozenset((200, 400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 501, 502, 503, 504))
DURATION_SECONDS = (*(round(0.01 * 2**power * part, 4) for power in range(13) for part in (1, 1.5)), 81.92)
"""Buckets of gen_ai.server.request.duration: the convention's, 0.01 to 81.92, and one between each two of them, since
two models are often nearer to each other than a factor of two."""
_FIRST_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Of gen_ai.server.time_to_first_token; the convention's."""


class Served(NamedTuple):
    """Which server a request was for."""

    arm: Arm
    version: str
    path: str
    """Of the API that was asked."""


class ServedMetrics:
    """Of one kind of traffic.

    Args:
        model: What clients call the model.
        traffic: Whose requests they are.
        registry: Gets the families.
    """

    def __init__(self, model: str, traffic: Traffic, registry: CollectorRegistry) -> None:
        self._model, self._traffic = model, traffic
        self._requests = Counter(
            "quantbench_gateway_requests",
            "Requests that a server was asked, by HTTP status; 499 is a client that hung up, 502 and 504 no answer.",
            (*LABELS, "status"),
            registry=registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request to the end of its answer; `error_type` is the status of an error, else empty.",
            (*LABELS, "error_type"),
            registry=registry,
            buckets=DURATION_SECONDS,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request to the first piece of a streamed answer.",
            LABELS,
            registry=registry,
            buckets=_FIRST_SECONDS,
        )
        self._versions = Versions(self._requests, self._duration, self._first)
        self._found: dict[tuple[MetricWrapperBase, Served, tuple[str, ...]], Any] = {}
        """Series by what they are of: to look one up by six labels takes longer than to count."""

    def labels_of(self, served: Served) -> tuple[str, ...]:
        """The values of `LABELS`."""
        operation = "chat" if served.path == CHAT else "text_completion"
        return (operation, PROVIDER, self._model, served.arm, served.version, self._traffic)

    def failed(self, served: Served, status: int) -> None:
        """A request to which there is no whole answer."""
        self._seen(served)
        self._series(self._requests, served, told_status(status)).inc()

    def answered(self, served: Served, status: int, seconds: float, first_seconds: float | None) -> None:
        """A request that was answered to its end.

        Args:
            first_seconds: To the first piece; None where it was not streamed.
        """
        self._seen(served)
        self._series(self._requests, served, told_status(status)).inc()
        error = "" if status < 400 else told_status(status)
        self._series(self._duration, served, error).observe(seconds)
        if first_seconds is not None and not error:
            self._series(self._first, served).observe(first_seconds)

    def _seen(self, served: Served) -> None:
        if self._versions.seen(served.version) is not None:
            self._found.clear()

    def _series(self, family: Family, served: Served, *more: str) -> Family:
        """One of a family's, by what it has for labels besides `LABELS`."""
        key = family, served, more
        found: Family | None = self._found.get(key)
        if found is None:
            found = self._found[key] = family.labels(*self.labels_of(served), *more)
        return found


class Versions:
    """Which versions have series, the last asked ones last.

    Args:
        families: Whose series of a version that is forgotten are dropped.
        label: Which of their labels holds it.
    """

    def __init__(self, *families: MetricWrapperBase, label: str = "version") -> None:
        self._families, self._label = families, label
        self._known: dict[str, None] = {}
        self._last = ""

    def seen(self, version: str) -> str | None:
        """A version is counted; the one that is forgotten for it, where there is one."""
        if version == self._last:
            return None
        self._last = version
        self._known.pop(version, None)
        self._known[version] = None
        if len(self._known) <= MOST_VERSIONS:
            return None
        oldest = next(iter(self._known))
        del self._known[oldest]
        for family in self._families:
            family.remove_by_labels({self._label: oldest})
        return oldest


def told_status(status: int) -> str:
    """A status as a label: of the rare ones only their kind."""
    return str(status) if status in _STATUSES else f"{status // 100}xx"
