"""Moves aliases of a registered model: decided by policy and approval, written into the ledger, then shown in MLflow.

The ledger comes first. MLflow's alias is a projection of it: where a crash came between, the next command puts it
right; where somebody moved it in MLflow, that is told, and nothing is overwritten.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from configs.errors import RequestError, StageError
from pipelines.decision.limits import held_against
from pipelines.execution.workspace import Workspace
from pipelines.recipe.policy import Policy
from pipelines.recipe.registry_config import RegistryConfig
from pipelines.records.decision import LimitOutcome
from pipelines.records.rows import Row
from pipelines.records.run_record import RunRecord
from registry.contracts.comparison import Verdict
from registry.hashing import digest_of
from registry.ledger import Entry, Kind, Ledger, MovedMeanwhileError
from registry.tracking.address import sqlite_uri, with_password
from registry.tracking.aliases import alias_of, move_alias, version_of
from registry.tracking.rest import NoAnswerError

_T = TypeVar("_T")


class Subject(NamedTuple):
    """An artifact of a run, as the registry knows it."""

    name: str
    artifact: str
    version: str
    limits: list[LimitOutcome]

    @property
    def outcome(self) -> Verdict:
        """What the policy says of it."""
        found = {limit.outcome for limit in self.limits}
        return "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"

    @property
    def verdict(self) -> str:
        """Digest of what it was judged by."""
        return digest_of([limit.model_dump(mode="json") for limit in self.limits])


class ModelRegistry:
    """One registered model.

    Args:
        run: Whose recipe says where it is, and what artifacts have to be.
        workspace: Holds the artifacts.
        who: Is written into the ledger.

    Raises:
        RequestError: The hidden password of an address is not set.
        StageError: The ledger does not answer.
    """

    def __init__(self, run: RunRecord, workspace: Workspace, who: str) -> None:
        tracking = run.config.get("tracking", {})
        self.config = RegistryConfig.model_validate(run.config.get("registry", {}))
        self.model = str(tracking.get("registered_model") or run.config["name"])
        self._uri = with_password(tracking.get("uri") or workspace.default_tracking_uri)
        self._run, self._workspace, self._who = run, workspace, who
        self.ledger = Ledger(self.config.ledger or sqlite_uri(workspace.root / "ledger.db"))

    def subject(self, name: str) -> Subject:
        """The artifact of a row of the run.

        Raises:
            RequestError: There is no such artifact, or MLflow has no version of it.
        """
        rows = {row.name: row for row in self._run.rows if row.artifact}
        if name not in rows:
            raise RequestError(
                f"run {self._run.run_id} has no artifact {name}",
                remedy=f"name one of {', '.join(rows) or 'another run'}",
            )
        row = rows[name]
        assert row.artifact is not None  # noqa: S101 - chosen above
        digest = row.artifact.digest
        version = self._asked(lambda: version_of(self._uri, self.model, digest))
        if version is None:
            raise RequestError(
                f"{self.model} has no version of {name} ({digest[:19]}...) in MLflow",
                remedy="run its recipe again, which records it; what was measured is kept",
            )
        policy = Policy.model_validate(self._run.config.get("policy", {}))
        return Subject(name, digest, version, held_against(policy, row, self._baseline()))

    def _baseline(self) -> Row:
        return self._run.rows[0]

    def tell(self, subject: Subject, kind: Kind, why: str) -> Entry:
        """Write that an artifact's approval is requested, given or refused."""
        stream = f"approval:{subject.artifact}"
        return self._append(
            self._entry(stream, kind, why, artifact=subject.artifact, verdict=subject.verdict, to=subject.version),
            self.ledger.last(self.model, stream),
        )

    def approved(self, subject: Subject) -> bool:
        """Whether the last word on an artifact is an approval, or the policy's is enough."""
        last = self.ledger.last(self.model, f"approval:{subject.artifact}")
        if last is not None and last.kind in ("approve", "reject"):
            return last.kind == "approve"
        return self.config.approval == "policy" and subject.outcome == "pass"

    def promote(
        self, subject: Subject, alias: str, why: str, override: str | None, on_progress: Callable[[str], None]
    ) -> Entry:
        """Point `alias` at an artifact's version.

        Raises:
            RequestError: The policy or its approval forbids it, somebody else moved the alias, or it is there already.
            StageError: The artifact's bytes are not what they were, or a store does not answer.
        """
        if override is None:
            self._check_allowed(subject)
        on_progress("verify")
        differences = self._workspace.store.verify(subject.artifact)
        if differences:
            raise StageError(
                f"{subject.name} is not what was measured: {'; '.join(differences[:3])}",
                remedy="run its recipe again, which makes it anew, and promote that",
                blame="machine",
            )
        last = self.reconciled(alias)
        if last is not None and last.version_to == subject.version:
            raise RequestError(f"{alias} points at version {subject.version} already", remedy="nothing is to be done")
        entry = self._entry(
            f"alias:{alias}", "promote", why, artifact=subject.artifact, verdict=subject.verdict, to=subject.version
        ).model_copy(update={"version_from": last.version_to if last else self._there(alias), "override": override})
        return self._moved(entry, last, alias)

    def _check_allowed(self, subject: Subject) -> None:
        broken = [f"{limit.limit}: {limit.reason}" for limit in subject.limits if limit.outcome != "pass"]
        if broken:
            raise RequestError(
                f"{subject.name} does not keep the policy:" + "".join(f"\n  - {line}" for line in broken),
                remedy="take another artifact, or say why it is to be taken all the same: --override REASON",
            )
        if not self.approved(subject):
            raise RequestError(
                f"{subject.name} is not approved",
                remedy=f"quantbench registry approve {subject.name}, by whoever may; --override REASON does without",
            )

    def rollback(self, alias: str, why: str) -> Entry:
        """Point `alias` at what it pointed at before its last move.

        Raises:
            RequestError: There is no move to take back, or somebody else moved the alias.
        """
        last = self.reconciled(alias)
        if last is None or last.version_from is None:
            raise RequestError(f"{alias} of {self.model} has nothing to go back to", remedy="see `registry history`")
        before = next(
            (
                one
                for one in reversed(self.ledger.entries(self.model, f"alias:{alias}"))
                if one.version_to == last.version_from
            ),
            None,
        )
        entry = self._entry(
            f"alias:{alias}",
            "rollback",
            why,
            artifact=before.artifact if before else None,
            verdict=before.verdict if before else None,
            to=last.version_from,
        ).model_copy(update={"version_from": last.version_to})
        return self._moved(entry, last, alias)

    def reconciled(self, alias: str) -> Entry | None:
        """The alias's last row, MLflow's alias being where it says.

        Raises:
            RequestError: Somebody moved the alias in MLflow.
        """
        last, there = self.ledger.last(self.model, f"alias:{alias}"), self._there(alias)
        if last is None or there == last.version_to:
            return last
        if self.ledger.projected(self.model, last.stream) < last.sequence:
            self._project(last, alias)
            return last
        raise RequestError(
            f"{alias} of {self.model} points at version {there or 'none'} in MLflow, and the ledger says"
            f" {last.version_to or 'none'}: somebody moved it there",
            remedy=f"quantbench registry adopt {alias} takes their move into the ledger; or move it back in MLflow",
        )

    def adopt(self, alias: str) -> Entry:
        """Take a move that was made in MLflow into the ledger.

        Raises:
            RequestError: MLflow's alias is where the ledger says.
        """
        stream = f"alias:{alias}"
        last, there = self.ledger.last(self.model, stream), self._there(alias)
        if there == (last.version_to if last else None):
            raise RequestError(f"{alias} is where the ledger says", remedy="nothing is to be done")
        entry = self._entry(stream, "adopt", "it was moved in MLflow", to=there)
        adopted = self._append(entry.model_copy(update={"version_from": last.version_to if last else None}), last)
        self.ledger.set_projected(adopted)
        return adopted

    def _moved(self, entry: Entry, last: Entry | None, alias: str) -> Entry:
        written = self._append(entry, last)
        self._project(written, alias)
        self._notify(written)
        return written

    def _project(self, entry: Entry, alias: str) -> None:
        self._asked(lambda: move_alias(self._uri, self.model, alias, entry.version_to))
        self.ledger.set_projected(entry)

    def _there(self, alias: str) -> str | None:
        return self._asked(lambda: alias_of(self._uri, self.model, alias))

    def _append(self, entry: Entry, after: Entry | None) -> Entry:
        try:
            return self.ledger.append(entry, after)
        except MovedMeanwhileError as error:
            raise RequestError(
                f"somebody else wrote meanwhile: {error}", remedy="see `registry history`, and decide again"
            ) from error

    def _entry(
        self,
        stream: str,
        kind: Kind,
        why: str,
        *,
        artifact: str | None = None,
        verdict: str | None = None,
        to: str | None = None,
    ) -> Entry:
        return Entry(
            model=self.model,
            stream=stream,
            sequence=0,
            kind=kind,
            at=datetime.now(UTC),
            who=self._who,
            why=why,
            version_to=to,
            artifact=artifact,
            verdict=verdict,
        )

    def _asked(self, question: Callable[[], _T]) -> _T:
        try:
            return question()
        except NoAnswerError as error:
            raise StageError(
                f"MLflow does not answer for {self.model}: {error}",
                remedy="start it and give the same command again: the next one shows in MLflow what the ledger holds",
                blame="machine",
            ) from error

    def _notify(self, entry: Entry) -> str | None:
        """Tell the recipe's command of a move; why it was not told, in words."""
        command: Sequence[str] = self.config.notify
        if not command:
            return None
        try:
            subprocess.run(
                list(command),
                input=json.dumps(entry.model_dump(mode="json")),
                text=True,
                check=True,
                timeout=60 * self.config.notify_minutes,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"{command[0]} was not told: {error}"
        return None
