"""How a gateway stands: who answers, what was decided, what went wrong. Shown under /status and /metrics."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from registry.contracts.gateway_status import (
    ArmStatus,
    GatewayStatus,
    MirrorStatus,
    ObserverRead,
    VerdictStatus,
)
from registry.contracts.shadow_verdict import Outcome
from serving_checks.gateway.event_log import Event, EventLog, FaultEvent, MoveEvent, StepEvent, VerdictEvent, now
from serving_checks.gateway.observed import Arm
from serving_checks.gateway.observer import Observer
from serving_checks.gateway.recent import Recent
from serving_checks.gateway.upstream import Upstream


class Answering(NamedTuple):
    """Who answers now."""

    champion: Upstream
    candidate: Upstream | None
    share: float
    """Of the clients, that the candidate answers."""


class Standing:
    """Of one gateway. Who knows something tells it here; what nobody told is not shown.

    Args:
        model: What clients call the model.
        answering: Who answers.
    """

    def __init__(self, model: str, answering: Callable[[], Answering]) -> None:
        self._model, self._answering = model, answering
        self._started_at = now()
        self._clients: dict[Arm, tuple[str, Recent]] = {}
        self.observer: Observer | None = None
        self.log: EventLog | None = None
        self._step: tuple[int, int] | None = None
        self._verdict: VerdictStatus | None = None
        self._followed_at: datetime | None = None
        self._fault = ""

    def moved(self) -> None:
        """Others answer than before, or the first ones do."""
        champion, candidate, _ = self._answering()
        self._tell(MoveEvent(now(), champion.version, candidate.version if candidate else ""))

    def stepped(self, share: float, step: int, steps: int) -> None:
        """The candidate answers such a share of the clients from now on: step `step` of `steps`, from 1."""
        if self._step != (step, steps):
            self._step = step, steps
            self._tell(StepEvent(now(), share, step, steps))

    def judged(self, outcome: Outcome, reason: str, pairs: int) -> None:
        """The verdict over the pairs was looked at."""
        before, self._verdict = self._verdict, VerdictStatus(outcome=outcome, reason=reason, pairs=pairs, at=now())
        if before is None or before.outcome != outcome:
            self._tell(VerdictEvent(now(), outcome, pairs))

    def forgot_verdict(self) -> None:
        """There is another candidate: what was judged and stepped was of the one before."""
        self._verdict = self._step = None

    def followed(self) -> None:
        """The ledger was looked at, and what it says is served."""
        self._followed_at, self._fault = now(), ""

    def not_followed(self, what: str) -> None:
        """It could not be.

        Args:
            what: The first line of our own error.
        """
        if what != self._fault:
            self._tell(FaultEvent(now(), what))
        self._fault = what

    def _tell(self, event: Event) -> None:
        if self.log is not None:
            self.log.tell(event)

    def ended(self, arm: Arm, version: str, seconds: float | None, first_seconds: float | None = None) -> None:
        """A client's request ended; without `seconds` there is no answer."""
        self._recent(arm, version).add(time.perf_counter(), seconds, first_seconds)

    def _recent(self, arm: Arm, version: str) -> Recent:
        known = self._clients.get(arm)
        if known is None or known[0] != version:
            known = self._clients[arm] = version, Recent(time.perf_counter())
        return known[1]

    def status(self) -> GatewayStatus:
        """All of it now."""
        champion, candidate, share = self._answering()
        read = ObserverRead() if self.observer is None else self.observer.read
        return GatewayStatus(
            model=self._model,
            at=now(),
            started_at=self._started_at,
            champion=self._arm("champion", champion, read),
            candidate=self._arm("candidate", candidate, read) if candidate else None,
            share=share,
            step=self._step[0] if self._step else None,
            steps=self._step[1] if self._step else None,
            agreement=read.agreement,
            verdict=self._verdict,
            mirror=self._mirror(),
            followed_at=self._followed_at,
            fault=self._fault,
        )

    def _arm(self, arm: Arm, upstream: Upstream, read: ObserverRead) -> ArmStatus:
        return ArmStatus(
            version=upstream.version,
            in_flight=upstream.in_flight,
            clients=self._recent(arm, upstream.version).load(time.perf_counter()),
            read=read.versions.get(upstream.version),
        )

    def _mirror(self) -> MirrorStatus | None:
        if self.observer is None:
            return None
        counts = self.observer.counts
        return MirrorStatus(
            waiting=counts.waiting,
            done=counts.mirrored,
            dropped=counts.dropped,
            failed=counts.failed,
            unobserved=self.observer.unobserved,
            pairs_written=counts.written,
            pairs_dropped=counts.unwritten,
        )

    def families(self) -> Iterator[Metric]:
        """The same for Prometheus; what nobody told has no sample."""
        champion, candidate, share = self._answering()
        yield from _of_arms({"champion": champion, **({"candidate": candidate} if candidate else {})})
        yield _gauge("share", "Share of the clients that the candidate answers.", share if candidate else 0.0)
        step, steps = self._step or (None, None)
        yield _gauge("step", "Step of a ramp, from 1.", step)
        yield _gauge("steps", "Steps of a ramp.", steps)
        yield from self._of_verdict()
        followed = self._followed_at.timestamp() if self._followed_at else None
        yield _gauge("ledger_followed_timestamp_seconds", "When the ledger was last looked at, Unix time.", followed)
        yield _gauge(
            "ledger_fault", "Whether the ledger could not be followed when it was tried last.", bool(self._fault)
        )
        if self.log is not None:
            dropped = "Events that found no room or no disk."
            yield CounterMetricFamily("quantbench_gateway_events_dropped", dropped, value=self.log.dropped)
        if self.observer is not None:
            yield from _of_observer(self.observer)

    def _of_verdict(self) -> Iterator[Metric]:
        verdict = self._verdict
        told = "The verdict over the pairs so far: 1 for what it is, 0 for what it is not."
        family = GaugeMetricFamily("quantbench_gateway_verdict", told, labels=("outcome",))
        if verdict is not None:
            for outcome in get_args(Outcome):
                family.add_metric((outcome,), outcome == verdict.outcome)
        yield family
        yield _gauge("verdict_pairs", "Pairs that the verdict is over.", verdict.pairs if verdict else None)


class StandingCollector(Collector):
    """Brings a `Standing` into a registry."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        return self._standing.families()


def _gauge(name: str, told: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"quantbench_gateway_{name}", told)
    if value is not None:
        family.add_metric((), value)
    return family


def _of_arms(arms: dict[str, Upstream]) -> Iterator[Metric]:
    who = GaugeMetricFamily(
        "quantbench_gateway_arm", "Which version is champion and which candidate: always 1.", labels=("arm", "version")
    )
    flying = GaugeMetricFamily(
        "quantbench_gateway_requests_in_flight",
        "Clients' requests that a server has not answered to their end.",
        labels=("arm", "version"),
    )
    for arm, upstream in arms.items():
        who.add_metric((arm, upstream.version), 1)
        flying.add_metric((arm, upstream.version), upstream.in_flight)
    yield who
    yield flying


def _of_observer(observer: Observer) -> Iterator[Metric]:
    counts = observer.counts
    yield _gauge("observer_up", "Whether the process runs that reads and records answers.", observer.is_up)
    yield _gauge("mirror_waiting", "Requests that wait for the other side's answer.", counts.waiting)
    for name, value, told in (
        ("unobserved", observer.unobserved, "Answers that the observer had no room for, or did not run."),
        ("mirror_done", counts.mirrored, "Requests that the other side was asked, and answered."),
        ("mirror_dropped", counts.dropped, "Requests that found no room in the queue."),
        ("mirror_failed", counts.failed, "Requests that the other side did not answer, or that make no pair."),
        ("pairs_written", counts.written, "Pairs in the database."),
        ("pairs_dropped", counts.unwritten, "Pairs that found no room or no disk."),
    ):
        yield CounterMetricFamily(f"quantbench_gateway_{name}", told, value=value)
