"""What Prometheus reads of a gateway. Names are OpenTelemetry's for generative models where it has one (semantic
conventions 1.37, gen-ai metrics), with dots written as underscores as Prometheus wants them; the others begin with
`quantbench_gateway_`."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving_checks.gateway.observer import Observer

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Of gen_ai.server.request.duration."""
_FIRST_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Of gen_ai.server.time_to_first_token."""


class Metrics:
    """Of one gateway; each has a registry of its own.

    Args:
        model: What clients call the model.
    """

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        labels = ("gen_ai_request_model", "version")
        self._model = model
        self._observed_page: Callable[[], str] = str
        self._requests = Counter(
            "quantbench_gateway_requests",
            "Requests that were answered, by HTTP status; 499 is a client that hung up.",
            (*labels, "status"),
            registry=self._registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request to the end of its answer.",
            labels,
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request to the first piece of a streamed answer.",
            labels,
            registry=self._registry,
            buckets=_FIRST_SECONDS,
        )

    def refused(self, version: str, status: int) -> None:
        """A request that has no answer of the model's."""
        self._requests.labels(self._model, version, str(status)).inc()

    def answered(self, version: str, status: int, seconds: float, first_seconds: float | None) -> None:
        """A request that was answered to its end.

        Args:
            first_seconds: To the first piece; None where it was not streamed.
        """
        self._requests.labels(self._model, version, str(status)).inc()
        self._duration.labels(self._model, version).observe(seconds)
        if first_seconds is not None:
            self._first.labels(self._model, version).observe(first_seconds)

    def watch(self, observer: Observer) -> None:
        """Show an observer's numbers too."""
        self._registry.register(_OfObserver(observer))
        self._observed_page = lambda: observer.counts.page

    def page(self) -> str:
        """The text under /metrics."""
        return generate_latest(self._registry).decode() + self._observed_page()


class _OfObserver(Collector):
    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def collect(self):  # type: ignore[no-untyped-def] # prometheus_client's own is not typed
        """See `Collector`."""
        counts = self._observer.counts
        waiting = "Requests that wait for the other side's answer."
        yield GaugeMetricFamily("quantbench_gateway_mirror_waiting", waiting, value=counts.waiting)
        for name, value, told in (
            ("unobserved", self._observer.unobserved, "Answers that the observer had no room for, or did not run."),
            ("mirror_done", counts.mirrored, "Requests that the other side was asked, and answered."),
            ("mirror_dropped", counts.dropped, "Requests that found no room in the queue."),
            ("mirror_failed", counts.failed, "Requests that the other side did not answer, or that make no pair."),
            ("pairs_written", counts.written, "Pairs in the database."),
            ("pairs_dropped", counts.unwritten, "Pairs that found no room or no disk."),
        ):
            yield CounterMetricFamily(f"quantbench_gateway_{name}", told, value=value)
