"""What may be promoted, and by whose word: approval, policy, override; each step is a row of the ledger."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from configs.errors import QuantbenchError, RequestError, StageError
from pipelines.decision.limits import held_against
from pipelines.execution.alias_moves import AliasMoves
from pipelines.execution.notices import notify
from pipelines.execution.shadow_evidence import shadow_outcome
from pipelines.execution.workspace import Workspace
from pipelines.recipe.policy import Policy
from pipelines.recipe.registry_config import RegistryConfig, Role
from pipelines.records.decision import LimitOutcome, worst_of
from pipelines.records.run_record import RunRecord
from registry.contracts.comparison import Verdict
from registry.ledger import Entry, Kind, Ledger, newest_row
from registry.signing import signature_outcome
from registry.tracking.address import sqlite_uri, with_password
from registry.tracking.aliases import version_of

_APPROVAL_TAG = "quantbench.approval"
_OVERRIDE_TAG = "quantbench.override"
_SAID: dict[Kind, str] = {"request": "requested", "approve": "approved", "reject": "rejected"}


class NotAllowedError(QuantbenchError):
    """Policy or approval stands against a promotion: a verdict, told by its exit code."""

    def __init__(self, what: str, *, remedy: str, exit_code: int) -> None:
        super().__init__(what, remedy=remedy)
        self.exit_code = exit_code


class Subject(NamedTuple):
    """A model of a run, as the registry knows it."""

    name: str
    digest: str
    version: str
    size_bytes: int
    limits: list[LimitOutcome]

    @property
    def outcome(self) -> Verdict:
        """What the policy says of it."""
        return worst_of(limit.outcome for limit in self.limits)


class ModelRegistry:
    """One registered model.

    Args:
        run: Whose recipe says where it is, and what artifacts have to be.
        workspace: Holds the artifacts.
        who: Is written into the ledger.
        on_warning: Is told what went wrong beside a step that was done.

    Raises:
        RequestError: The hidden password of an address is not set.
        StageError: The ledger does not answer.
    """

    def __init__(self, run: RunRecord, workspace: Workspace, who: str, on_warning: Callable[[str], None]) -> None:
        tracking = run.config.get("tracking", {})
        self.config = RegistryConfig.model_validate(run.config.get("registry", {}))
        self._policy = Policy.model_validate(run.config.get("policy", {}))
        self.model = run.registered_model
        self._uri = with_password(tracking.get("uri") or workspace.default_tracking_uri)
        self._run, self._workspace = run, workspace
        self.who, self.warn = who, on_warning
        self.ledger = Ledger(self.config.ledger or sqlite_uri(workspace.ledger_file))
        self._seen: dict[str, str] | None = None
        self._aliases = AliasMoves(self.ledger, self._uri, self.model)

    def go_on_from(self, head: str | None) -> None:
        """From now on, write only what follows the ledger as somebody saw it who decided by it.

        Args:
            head: Digest of the newest row that they saw of the registered model; None where there was none.

        Raises:
            RequestError: It has changed since.
        """
        rows = self.ledger.entries(self.model)
        newest = newest_row(rows)
        if (newest.digest if newest else None) != head:
            raise _changed_since(self.model, newest)
        self._seen = {row.stream: row.digest for row in rows}

    def _check_seen(self, stream: str, last: Entry | None) -> None:
        if self._seen is not None and self._seen.get(stream) != (last.digest if last else None):
            raise _changed_since(self.model, last)

    def subject(self, name: str) -> Subject:
        """A model by the name of its row.

        Raises:
            RequestError: There is no such model, or MLflow has no version of it.
        """
        rows = {row.name: row for row in self._run.rows if row.digest}
        if name not in rows:
            raise RequestError(
                f"run {self._run.run_id} has no artifact {name}",
                remedy=f"name one of {', '.join(rows) or 'another run'}",
            )
        row = rows[name]
        digest = row.digest or ""
        version = self._aliases.asked(lambda: version_of(self._uri, self.model, digest))
        if version is None:
            raise RequestError(
                f"{self.model} has no version of {name} ({digest[:19]}...) in MLflow",
                remedy="run its recipe again, which records it; what was measured is kept",
            )
        limits = held_against(self._policy, row, self._run.rows[0])
        return Subject(name, digest, version, row.size_bytes or 0, limits)

    def tell(self, subject: Subject, kind: Kind, why: str) -> Entry:
        """Write that approval is requested, given or refused."""
        return self._tell(subject, kind, why, self.who)

    def _tell(self, subject: Subject, kind: Kind, why: str, who: str) -> Entry:
        stream = f"approval:{subject.digest}"
        last = self.ledger.last(self.model, stream)
        self._check_seen(stream, last)
        entry = self._entry(stream, kind, why, of=subject).model_copy(update={"who": who})
        written = self._aliases.append(entry, last)
        self._aliases.tag(subject.version, {_APPROVAL_TAG: f"{_SAID[kind]} by {who}"})
        notify(self.config, written, self.warn)
        return written

    def promote(self, subject: Subject, role: Role, why: str, override: str | None) -> Entry:
        """Point an alias at a version, once its bytes are proved.

        Raises:
            NotAllowedError: Policy or approval stands against it.
            RequestError: Somebody else moved the alias, or it is there already.
            StageError: The bytes are not what they were, or a store does not answer.
        """
        alias = self.config.aliases.of(role)
        last = self._aliases.reconciled(alias)
        self._check_seen(f"alias:{alias}", last)
        there = last.version_to if last else self._aliases.there(alias)
        if there == subject.version:
            remedy = (
                "nothing is to be done" if last else f"`quantbench registry adopt {role}` takes that into the ledger"
            )
            raise RequestError(f"{alias} points at version {subject.version} already", remedy=remedy)
        subject = self._with_signature(subject)
        if role == "champion" and self._policy.shadow_verdict:
            shadow = self.config.aliases.of("shadow")
            found = shadow_outcome(self.ledger, self.model, shadow, subject.digest, last)
            subject = subject._replace(limits=[*subject.limits, found])
        approved = override is not None or self._is_approved(subject)
        self._check_bytes(subject.name, subject.digest, read_all=True)
        if not approved:
            self._tell(
                subject, "approve", "it keeps all limits of the policy, and `registry.approval` wants no more", "policy"
            )
        entry = self._entry(f"alias:{alias}", "promote", why, of=subject)
        moved = self._aliases.move(entry.model_copy(update={"version_from": there, "override": override}), last, alias)
        # What an override stands for is over once the version is moved by the rules.
        self._aliases.tag(subject.version, {_OVERRIDE_TAG: f"{alias}: {override}" if override else ""})
        notify(self.config, moved, self.warn)
        return moved

    def _with_signature(self, subject: Subject) -> Subject:
        """With the limit that takes as long as reading all of the model: before it moves, and not before."""
        key = self._policy.signature
        if key is None:
            return subject
        found = signature_outcome(self._workspace.store, subject.digest, key)
        limit = LimitOutcome(limit="signature", outcome=found.verdict, reason=f"it {found.reason}")
        return subject._replace(limits=[*subject.limits, limit])

    def _is_approved(self, subject: Subject) -> bool:
        """Whether somebody has approved; False where the policy's own word is enough, and is not yet written.

        Raises:
            NotAllowedError: It is not allowed.
        """
        broken = [f"{limit.limit}: {limit.reason}" for limit in subject.limits if limit.outcome != "pass"]
        if broken:
            failed = subject.outcome == "fail"
            raise NotAllowedError(
                f"{subject.name} {'does not keep' if failed else 'may not keep'} the policy:"
                + "".join(f"\n  - {line}" for line in broken),
                remedy="take another artifact, or say why it is to be taken all the same: --override REASON",
                exit_code=1 if failed else 4,
            )
        last = self.ledger.last(self.model, f"approval:{subject.digest}")
        said = last.kind if last else None
        if said == "approve" or (said != "reject" and self.config.approval == "policy"):
            return said == "approve"
        raise NotAllowedError(
            f"{subject.name} was rejected by {last.who}"
            if said == "reject" and last
            else f"{subject.name} is not approved",
            remedy=f"quantbench registry approve {subject.name}, by whoever may; --override REASON does without",
            exit_code=1 if said == "reject" else 4,
        )

    def _check_bytes(self, name: str, digest: str, *, read_all: bool) -> None:
        """Raise StageError where an object is not what was measured.

        Args:
            read_all: Every byte, and not only those that may have changed since they were read last.
        """
        store = self._workspace.store
        differences = store.verify(digest) if read_all else store.differences(digest)
        if differences:
            raise StageError(
                f"{name} is not what was measured: {'; '.join(differences[:3])}",
                remedy="run its recipe again, which makes it anew, and promote that",
                blame="machine",
            )

    def rollback(self, role: Role, why: str) -> Entry:
        """Point an alias at what it pointed at before its last move.

        Raises:
            RequestError: There is no move to take back, or somebody else moved the alias.
            StageError: What it would go back to is not whole, or a store does not answer.
        """
        alias = self.config.aliases.of(role)
        last = self._aliases.reconciled(alias)
        self._check_seen(f"alias:{alias}", last)
        # Before its first move an alias was not there. Production is not left without a model.
        if last is None or (last.version_from is None and role == "champion"):
            raise RequestError(f"{alias} of {self.model} has nothing to go back to", remedy="see `registry history`")
        before = next(
            (one for one in self._moves(alias) if one.version_to and one.version_to == last.version_from),
            None,
        )
        if before is not None and before.artifact is not None:
            self._check_bytes(f"version {last.version_from}", before.artifact, read_all=False)
        entry = self._entry(f"alias:{alias}", "rollback", why).model_copy(
            update={
                "version_from": last.version_to,
                "version_to": last.version_from,
                "name": before.name if before else None,
                "artifact": before.artifact if before else None,
                "verdict": before.verdict if before else None,
                "override": before.override if before else None,
            }
        )
        moved = self._aliases.move(entry, last, alias)
        notify(self.config, moved, self.warn)
        return moved

    def adopt(self, role: Role) -> Entry:
        """Take a move that was made in MLflow into the ledger.

        Raises:
            RequestError: MLflow's alias is where the ledger says.
        """
        alias = self.config.aliases.of(role)
        last, there = self.ledger.last(self.model, f"alias:{alias}"), self._aliases.there(alias)
        if there == (last.version_to if last else None):
            raise RequestError(f"{alias} is where the ledger says", remedy="nothing is to be done")
        entry = self._entry(f"alias:{alias}", "adopt", "it was moved in MLflow").model_copy(
            update={"version_from": last.version_to if last else None, "version_to": there}
        )
        adopted = self._aliases.adopt(entry, last)
        notify(self.config, adopted, self.warn)
        return adopted

    def _moves(self, alias: str) -> Sequence[Entry]:
        """Newest first."""
        return self.ledger.entries(self.model, f"alias:{alias}")[::-1]

    def _entry(self, stream: str, kind: Kind, why: str, of: Subject | None = None) -> Entry:
        entry = Entry(
            model=self.model, stream=stream, sequence=0, kind=kind, at=datetime.now(UTC), who=self.who, why=why
        )
        if of is None:
            return entry
        verdict = self.ledger.keep_verdict(
            {
                "run_id": self._run.run_id,
                "name": of.name,
                "outcome": of.outcome,
                "limits": [limit.model_dump(mode="json") for limit in of.limits],
            }
        )
        told = {"version_to": of.version, "name": of.name, "artifact": of.digest, "verdict": verdict}
        return entry.model_copy(update=told)


def _changed_since(model: str, row: Entry | None) -> RequestError:
    what = f"{row.who} wrote `{row.kind}` at {row.at:%Y-%m-%d %H:%M} UTC" if row else "its rows are gone"
    return RequestError(
        f"the ledger of {model} has changed since the page was made: {what}",
        remedy="look again: load the page anew and decide by what it shows now",
    )


def overrides_of(run: RunRecord, workspace: Workspace) -> dict[str, list[str]]:
    """Artifact's digest -> a sentence for each alias that points at it although the policy or its approval forbade it.

    Raises:
        StageError: The ledger does not answer.
    """
    config = RegistryConfig.model_validate(run.config.get("registry", {}))
    if config.ledger is None and not workspace.ledger_file.exists():
        return {}
    ledger = Ledger(config.ledger or sqlite_uri(workspace.ledger_file))
    last = {one.stream: one for one in ledger.entries(run.registered_model) if one.stream.startswith("alias:")}
    found: dict[str, list[str]] = {}
    for stream, entry in last.items():
        if entry.override and entry.artifact:
            said = f"{stream.partition(':')[2]} points at it by override of {entry.who}: {entry.override}"
            found.setdefault(entry.artifact, []).append(said)
    return found
