"""What the observer counts of the answers that it reads: tokens, time per token, how alike both sides answer, cost.

All of it is since the observer was started: a counter that begins at 0 again is what Prometheus expects of a process
that was.
"""

import time
from collections import deque
from collections.abc import Iterator
from statistics import median

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from registry.contracts import Pair, Reply
from registry.contracts.gateway_status import AgreementRead, ObserverRead, VersionRead
from registry.contracts.token_cost import TokenCost
from serving_checks.gateway.recent import Recent
from serving_checks.gateway.served_metrics import LABELS, Served, ServedMetrics, Traffic, Versions
from serving_checks.gateway.upstream import Answered
from serving_checks.readings.busy_time import BusyTime
from serving_checks.readings.cost import DevicePrice, MeasuredLoad, cost_of

_TOKENS = tuple(4.0**power for power in range(14))
"""Buckets of gen_ai.client.token.usage; the convention's."""
_PER_TOKEN_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.0375),
    *(0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
"""Of gen_ai.server.time_per_output_token: the convention's, which begin at 0.01, and more where GPUs are."""
_MOST_TOKENS = 10_000_000
"""Of one answer, that a server is believed."""
_LAST_ANSWERS = 256
"""Of which the live page shows a median."""


class Tally:
    """Of one observer.

    Args:
        model: What clients call the model.
        price: Of the device that each server has; without one no cost is told.
    """

    def __init__(self, model: str, price: DevicePrice | None) -> None:
        self._model, self._price = model, price
        self._registry = CollectorRegistry()
        self._of_copies = ServedMetrics(model, "mirror", self._registry)
        # Clients' requests are counted where they are answered; here it is said how their answers' labels are.
        self._of_clients = ServedMetrics(model, "client", CollectorRegistry())
        self._of_attempts = ServedMetrics(model, "attempt", CollectorRegistry())
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request and of its answer, as the model's server counted them.",
            (*LABELS, "gen_ai_token_type"),
            registry=self._registry,
            buckets=_TOKENS,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Of a streamed answer, the time from its first token to its end over the tokens after the first.",
            LABELS,
            registry=self._registry,
            buckets=_PER_TOKEN_SECONDS,
        )
        self._compared = Counter(
            "quantbench_gateway_pairs_compared",
            "Pairs of answers to one request; `same` is yes, no, or failed where a side did not answer.",
            ("gen_ai_request_model", "champion", "candidate", "same"),
            registry=self._registry,
        )
        self._busy = Counter(
            "quantbench_gateway_busy_seconds",
            "Seconds in which a version's server had at least one request in flight.",
            ("gen_ai_request_model", "version"),
            registry=self._registry,
        )
        self._answers = Versions(self._tokens, self._per_token, self._busy)
        self._candidates = Versions(self._compared, label="candidate")
        self._read: dict[str, _VersionRead] = {}
        self._agreement: AgreementRead | None = None
        self._registry.register(_Costs(self))

    def client_answered(self, served: Served, answered: Answered, reply: Reply) -> None:
        """A client has this answer."""
        self._answered(served, answered, reply, "client")

    def copy_answered(self, served: Served, answered: Answered, reply: Reply) -> None:
        """The other side gave this answer, for nobody."""
        first, seconds = reply.first_token_seconds, answered.ended_at - answered.sent_at
        self._of_copies.answered(served, answered.status, seconds, first)
        self._version(served.version).copied(None if reply.error else seconds, first)
        self._answered(served, answered, reply, "mirror")

    def attempt_answered(self, served: Served, answered: Answered, reply: Reply) -> None:
        """A cascade asked for this answer and gave it to nobody; its client waited for it."""
        self._answered(served, answered, reply, "attempt")

    def copy_failed(self, served: Served, status: int) -> None:
        """The other side gave none."""
        self._of_copies.failed(served, status)
        self._version(served.version).copied(None, None)

    def compared(self, pair: Pair) -> None:
        """Both sides' answers to one request were put side by side."""
        champion, candidate = pair.champion.version, pair.candidate.version
        self._candidates.seen(candidate)
        told = "failed" if pair.same is None else "yes" if pair.same else "no"
        self._compared.labels(self._model, champion, candidate, told).inc()
        before = self._agreement
        if before is None or (before.champion, before.candidate) != (champion, candidate):
            before = AgreementRead(champion=champion, candidate=candidate, compared=0, same=0, failed=0)
        self._agreement = before.model_copy(
            update={
                "compared": before.compared + (pair.same is not None),
                "same": before.same + (pair.same is True),
                "failed": before.failed + (pair.same is None),
            }
        )

    def page(self) -> str:
        """For /metrics."""
        return generate_latest(self._registry).decode()

    def read(self) -> ObserverRead:
        """For /status."""
        now = time.perf_counter()
        versions = {version: one.told(now, self.cost(version)) for version, one in self._read.items()}
        return ObserverRead(versions=versions, agreement=self._agreement)

    def cost(self, version: str) -> TokenCost | None:
        """Of a version's tokens so far."""
        return cost_of(self._read[version].load, self._price) if self._price else None

    def costs(self) -> Iterator[tuple[str, TokenCost]]:
        """Of each version that has one."""
        for version in self._read:
            cost = self.cost(version)
            if cost is not None:
                yield version, cost

    def _answered(self, served: Served, answered: Answered, reply: Reply, traffic: Traffic) -> None:
        one = self._version(served.version)
        if answered.status != 200:
            # It says nothing of how long an answer takes, or what it costs.
            return
        metrics = {"client": self._of_clients, "mirror": self._of_copies, "attempt": self._of_attempts}
        labels = metrics[traffic].labels_of(served)
        reply = _believed(reply)
        for kind, tokens in (("input", reply.prompt_tokens), ("output", reply.completion_tokens)):
            if tokens is not None:
                self._tokens.labels(*labels, kind).observe(tokens)
        self._busy.labels(self._model, served.version).inc(one.busy.add(answered.sent_at, answered.ended_at))
        per_token = one.add(answered, reply)
        if per_token is not None:
            self._per_token.labels(*labels).observe(per_token)

    def _version(self, version: str) -> "_VersionRead":
        forgotten = self._answers.seen(version)
        if forgotten is not None:
            del self._read[forgotten]
        if version not in self._read:
            self._read[version] = _VersionRead()
        return self._read[version]


class _VersionRead:
    """Sums over one version's answers."""

    def __init__(self) -> None:
        self.busy = BusyTime()
        self._copies: Recent | None = None
        self._per_token: deque[float] = deque(maxlen=_LAST_ANSWERS)
        self._load = MeasuredLoad(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)

    @property
    def load(self) -> MeasuredLoad:
        """What was answered."""
        return self._load._replace(busy_seconds=self.busy.seconds)

    def copied(self, seconds: float | None, first_seconds: float | None) -> None:
        """A copy ended; without `seconds` there is no answer."""
        ended_at = time.perf_counter()
        self._copies = self._copies or Recent(ended_at - (seconds or 0.0))
        self._copies.add(ended_at, seconds, first_seconds)

    def add(self, answered: Answered, reply: Reply) -> float | None:
        """One more answer; its seconds for each token after the first, where they are known."""
        seconds = answered.ended_at - answered.sent_at
        load = self._load
        load = load._replace(requests=load.requests + 1, request_seconds=load.request_seconds + seconds)
        first, tokens = reply.first_token_seconds, reply.completion_tokens
        if reply.prompt_tokens is not None and tokens is not None:
            load = load._replace(
                counted=load.counted + 1,
                counted_seconds=load.counted_seconds + seconds,
                prefill_seconds=load.prefill_seconds + (first or 0.0),
                decode_seconds=load.decode_seconds + (0.0 if first is None else seconds - first),
                input_tokens=load.input_tokens + reply.prompt_tokens,
                output_tokens=load.output_tokens + tokens,
            )
        self._load = load
        if first is None or tokens is None or tokens < 2:
            return None
        per_token = (seconds - first) / (tokens - 1)
        self._per_token.append(per_token)
        return per_token

    def told(self, now: float, cost: TokenCost | None) -> VersionRead:
        """For /status."""
        return VersionRead(
            mirrored=self._copies.load(now) if self._copies else None,
            time_per_token_p50_seconds=median(self._per_token) if self._per_token else None,
            input_tokens=self._load.input_tokens,
            output_tokens=self._load.output_tokens,
            cost=cost,
        )


def _believed(reply: Reply) -> Reply:
    """Without tokens that no answer has: one such number would be most of every sum from then on."""
    told = (reply.prompt_tokens or 0, reply.completion_tokens or 0)
    if max(told) <= _MOST_TOKENS:
        return reply
    return reply.model_copy(update={"prompt_tokens": None, "completion_tokens": None})


class _Costs(Collector):
    """Gauges, since a cost goes either way."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        costs = GaugeMetricFamily(
            "quantbench_gateway_cost_per_million_tokens",
            "What a million tokens cost while the server was busy; docs/watching.md defines it.",
            labels=("version", "gen_ai_token_type", "currency", "made_up"),
        )
        in_flight = GaugeMetricFamily(
            "quantbench_gateway_busy_requests",
            "Mean requests in flight while a server was busy: costs compare only where this is alike.",
            labels=("version",),
        )
        for version, cost in self._tally.costs():
            in_flight.add_metric((version,), cost.mean_in_flight)
            for kind, value in (
                ("input", cost.input_per_million),
                ("output", cost.output_per_million),
                ("blended", cost.blended_per_million),
                ("all", cost.all_per_million),
            ):
                if value is not None:
                    costs.add_metric((version, kind, cost.currency, str(cost.made_up).lower()), value)
        yield costs
        yield in_flight
