"""How a gateway stands: who answers, what was decided, what went wrong. Shown under /status and /metrics."""

import time
from collections.abc import Callable, Iterator, Sequence
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
from registry.contracts.live_verdict import LiveVerdict
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
        self._told: LiveVerdict | None = None
        self._told_at: datetime | None = None
        self._faults: list[str] = []

    def followed(self, told: LiveVerdict, faults: Sequence[str] = ()) -> None:
        """The ledger was looked at, and this is served.

        Args:
            told: Who answers, which step of a ramp it is, and how the pairs are judged.
            faults: First lines of our own errors: what of it could not be served.
        """
        before, self._told, self._told_at = self._told, told, now()
        self._take(faults)
        if before is None or _versions(before) != _versions(told):
            self._tell(MoveEvent(now(), told.champion_version, told.candidate_version or ""))
        if told.candidate_version is not None and (before is None or _step(before) != _step(told)):
            self._tell(StepEvent(now(), *_step(told)))
        if _is_judged(told) and (before is None or not _is_judged(before) or before.outcome != told.outcome):
            self._tell(VerdictEvent(now(), told.outcome, told.pairs))

    def not_followed(self, faults: Sequence[str]) -> None:
        """It could not be looked at.

        Args:
            faults: As above.
        """
        self._take(faults)

    def _take(self, faults: Sequence[str]) -> None:
        for what in faults:
            if what not in self._faults:
                self._tell(FaultEvent(now(), what))
        self._faults = list(faults)

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
        told = self._told
        read = ObserverRead() if self.observer is None else self.observer.read
        return GatewayStatus(
            model=self._model,
            at=now(),
            started_at=self._started_at,
            champion=self._arm("champion", champion, read),
            candidate=self._arm("candidate", candidate, read) if candidate else None,
            share=share,
            step=told.step + 1 if told and told.step is not None else None,
            steps=len(told.steps) if told and told.steps else None,
            ramp=told.state if told else None,
            agreement=read.agreement,
            verdict=self._verdict(),
            mirror=self._mirror(),
            followed_at=self._told_at,
            faults=self._faults,
        )

    def _arm(self, arm: Arm, upstream: Upstream, read: ObserverRead) -> ArmStatus:
        return ArmStatus(
            version=upstream.version,
            in_flight=upstream.in_flight,
            clients=self._recent(arm, upstream.version).load(time.perf_counter()),
            read=read.versions.get(upstream.version),
        )

    def _verdict(self) -> VerdictStatus | None:
        told = self._told
        if told is None or not _is_judged(told):
            return None
        return VerdictStatus(outcome=told.outcome, reason=told.reason, pairs=told.pairs)

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
        ramped = self._told if self._told and self._told.step is not None else None
        yield _gauge("step", "Step of a ramp, from 1.", ramped.step + 1 if ramped and ramped.step is not None else None)
        yield _gauge("steps", "Steps of a ramp.", len(ramped.steps) if ramped else None)
        yield from self._of_verdict()
        followed = self._told_at.timestamp() if self._told_at else None
        yield _gauge("ledger_followed_timestamp_seconds", "When the ledger was last looked at, Unix time.", followed)
        yield _gauge(
            "ledger_fault", "Whether the ledger could not be followed when it was tried last.", bool(self._faults)
        )
        if self.log is not None:
            dropped = "Events that found no room or no disk."
            yield CounterMetricFamily("quantbench_gateway_events_dropped", dropped, value=self.log.dropped)
        if self.observer is not None:
            yield from _of_observer(self.observer)

    def _of_verdict(self) -> Iterator[Metric]:
        verdict = self._verdict()
        told = "The verdict over the pairs so far: 1 for what it is, 0 for what it is not."
        family = GaugeMetricFamily("quantbench_gateway_verdict", told, labels=("outcome",))
        if verdict is not None:
            for outcome in get_args(Outcome):
                family.add_metric((outcome,), outcome == verdict.outcome)
        yield family
        yield _gauge("verdict_pairs", "Pairs that the verdict is over.", verdict.pairs if verdict else None)


def _versions(told: LiveVerdict) -> tuple[str, str | None]:
    return told.champion_version, told.candidate_version


def _step(told: LiveVerdict) -> tuple[float, int | None, int | None]:
    """Share of the clients, and where a ramp is with it."""
    if told.step is None:
        return told.share, None, None
    return told.share, told.step + 1, len(told.steps)


def _is_judged(told: LiveVerdict) -> bool:
    """Whether there is a verdict, and not only somebody who may get one."""
    return told.candidate_version is not None and (told.verdict is not None or told.outcome != "continue")


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
