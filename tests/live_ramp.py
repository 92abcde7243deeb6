"""Gateways that follow a ramp, without servers: each has verdicts to order, and all share one ledger."""

from datetime import UTC, datetime

from pipelines.execution.live_trial import LiveTrial, TrialStanding
from pipelines.execution.ramp import Ramp
from pipelines.execution.served_aliases import Aliases, Target
from pipelines.recipe.registry_config import RegistryConfig
from registry.contracts import ShadowVerdict
from registry.ledger import Entry, Ledger
from serving_checks.gateway.split import SplitConfig
from tests.unit.pipelines.test_ramp import verdict

MODEL = "demo"
STEPS = [0.01, 0.05, 1.0]


class Judged:
    """As `Judging`, with verdicts to order."""

    def __init__(self) -> None:
        self.trial, self.verdict = "", None
        self.seen: list[str] = []

    def watch(self, trial: str) -> None:
        if trial != self.trial:
            self.trial, self.verdict = trial, None
            self.seen.append(trial)

    @property
    def latest(self) -> tuple[str, ShadowVerdict | None]:
        return self.trial, self.verdict

    def says(self, outcome: str) -> None:
        self.verdict = verdict(outcome)


class FollowingGateway:
    """One gateway's view of the ledger."""

    def __init__(self, uri: str, name: str, steps: list[float] | None = None) -> None:
        ledger = Ledger(uri)
        self.aliases = Aliases(ledger, MODEL, RegistryConfig())
        self.judged, self.rows = Judged(), list[Entry]()
        self.ramp = Ramp(ledger, MODEL, "shadow", "champion")
        self.trial = LiveTrial(
            SplitConfig(ramp=steps or STEPS), self.ramp, self.judged, name, f"gateway {name}", self.rows.append
        )

    async def look(self) -> TrialStanding:
        """As the gateway does every few seconds."""
        champion, shadow = (self.aliases.target(role) for role in ("champion", "shadow"))
        assert champion is not None and shadow is not None
        return await self.trial.standing(champion, shadow)


def moved(ledger: Ledger, alias: str, version: str) -> Target:
    """As `quantbench registry promote` does it."""
    last = ledger.last(MODEL, f"alias:{alias}")
    entry = Entry(
        model=MODEL,
        stream=f"alias:{alias}",
        sequence=0,
        kind="promote",
        at=datetime.now(UTC),
        who="a tester",
        why="",
        version_to=version,
        name=f"model-{version}",
        artifact=f"sha256:{version}",
    )
    written = ledger.append(entry, last)
    return Target(version, f"sha256:{version}", written.sequence, f"model-{version}")


async def up_the_ramp(uri: str) -> None:
    """Two gateways on one ledger, from the promotion to the pass after the last step, a restart between."""
    ledger = Ledger(uri)
    moved(ledger, "champion", "1")
    moved(ledger, "shadow", "2")
    one, other = FollowingGateway(uri, "one"), FollowingGateway(uri, "other", [0.5, 1.0])
    for step, share in enumerate(STEPS):
        first, second = await one.look(), await other.look()
        assert first.record == second.record and first.trial == second.trial
        assert (first.share, first.record and first.record.step) == (share, step)
        other.judged.says("pass")
        assert (await other.look()).share == share, "it is not the judge of this step"
        # Started again amid the step, it has its pairs and goes on.
        one = FollowingGateway(uri, "one")
        assert (await one.look()).trial == first.trial
        one.judged.says("continue")
        assert (await one.look()).share == share
        one.judged.says("pass")
        await one.look()
    end = await other.look()
    assert end.record is not None and (end.record.state, end.share) == ("passed", 1.0)
    rows = ledger.entries(MODEL, "ramp:shadow")
    assert [row.kind for row in rows] == ["begin", "advance", "advance", "pass"]
    assert {row.who for row in rows} == {"gateway one"}
    assert {(row.version_to, row.name, row.artifact) for row in rows} == {("2", "model-2", "sha256:2")}
