"""What Prometheus reads of a gateway: clients' requests from here, the standing, and what the observer read."""

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

from serving_checks.gateway.asked import Asked
from serving_checks.gateway.event_log import RefusalEvent, now
from serving_checks.gateway.metrics_page import joined
from serving_checks.gateway.observed import Arm
from serving_checks.gateway.refusals import Refusal
from serving_checks.gateway.served_metrics import DURATION_SECONDS, Served, ServedMetrics, told_status
from serving_checks.gateway.standing import Standing, StandingCollector
from serving_checks.gateway.upstream import Answered


class Metrics:
    """Of one gateway; each has a registry of its own.

    Args:
        model: What clients call the model.
        standing: Is told of each request too.
    """

    def __init__(self, model: str, standing: Standing) -> None:
        self._standing = standing
        self._registry = CollectorRegistry()
        self._served = ServedMetrics(model, "client", self._registry)
        self._refused = Counter(
            "quantbench_gateway_refused",
            "Requests that were refused before any server was asked, by HTTP status.",
            ("status",),
            registry=self._registry,
        )
        self._registry.register(StandingCollector(standing))
        # Memory, processor time and open files of this process, by the names that Prometheus' clients share.
        ProcessCollector(registry=self._registry)

        labels = ("gen_ai_request_model", "arm", "reason")
        self._model = model
        self._routed = Counter(
            "quantbench_gateway_routed",
            "Requests by who answered them and why; those that nothing routed are not among them.",
            labels,
            registry=self._registry,
        )
        self._routed_duration = Histogram(
            "quantbench_gateway_routed_duration_seconds",
            "From a request to the end of its answer, with the time of a cheap answer that was not sure enough.",
            labels,
            registry=self._registry,
            buckets=DURATION_SECONDS,
        )

    def routed(self, arm: str, reason: str, seconds: float) -> None:
        """A request that a rule or a calibrated route gave to an arm, and that was answered.

        Args:
            seconds: With what was waited for another answer before.
        """
        self._routed.labels(self._model, arm, reason).inc()
        self._routed_duration.labels(self._model, arm, reason).observe(seconds)

    def refused(self, request_id: str, refusal: Refusal) -> None:
        """A client is told an error, and nobody was asked."""
        self._refused.labels(told_status(refusal.status)).inc()
        self._tell(RefusalEvent(now(), request_id, refusal.status, refusal.code or ""))

    def failed(self, arm: Arm, version: str, asked: Asked, status: int) -> None:
        """A server was asked, and its answer did not reach the client whole."""
        self._served.failed(Served(arm, version, asked.path), status)
        self._standing.ended(arm, version, None)
        self._tell(RefusalEvent(now(), asked.id, status, arm=arm, version=version))

    def answered(self, arm: Arm, version: str, asked: Asked, answered: Answered) -> None:
        """A client has an answer to its end."""
        seconds = answered.ended_at - answered.sent_at
        first = answered.first_byte_at - answered.sent_at if asked.streams else None
        self._served.answered(Served(arm, version, asked.path), answered.status, seconds, first)
        self._standing.ended(arm, version, seconds if answered.status < 400 else None, first)
        if answered.status != 200:  # the others have a line once they are read
            self._tell(RefusalEvent(now(), asked.id, answered.status, arm=arm, version=version))

    def page(self) -> str:
        """The text under /metrics."""
        observer = self._standing.observer
        pages = [generate_latest(self._registry).decode()]
        return joined(pages if observer is None else [*pages, observer.counts.page])

    def _tell(self, event: RefusalEvent) -> None:
        if self._standing.log is not None:
            self._standing.log.tell(event)
