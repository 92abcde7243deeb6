"""What of a workspace goes, and why the rest stays: mark and sweep over what was found there. Pure.

Marked is what production may serve or go back to, what the last runs made, and what processes use. A run's stages are
known by the digests that its files name, whatever version wrote them: a name too many keeps an object too long, a name
too few would cost one.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Literal, NamedTuple

from registry.stage_cache import Outline

Kind = Literal["checkpoints", "calibration", "artifacts", "measurements", "other objects"]
KIND_OF_STAGE: dict[str, Kind] = {
    "prepare": "checkpoints",
    "calibrate": "calibration",
    "quantize": "artifacts",
    "measure": "measurements",
    "tune": "measurements",
    "soundness": "measurements",
}
"""Of the object that a stage makes."""


class StoredObject(NamedTuple):
    """An object of the store, or what is left of one."""

    digest: str
    size_bytes: int
    """That its removal frees."""


class AnswersFile(NamedTuple):
    """What one model answered."""

    path: Path
    model: str | None
    """Its digest; None where the file is damaged."""
    size_bytes: int
    used_ns: int


class RunFolder(NamedTuple):
    """A run, finished or not."""

    run_id: str
    recipe: str | None
    """Its name; None for a folder that no run has made, which stays."""
    ended_ns: int
    """By the file system's clock; of one without an end, when it began."""
    size_bytes: int
    """Of what goes with it."""
    is_used: bool = False
    """A process goes on with it."""


class ShadowFolder(NamedTuple):
    """A replay, or what a gateway wrote."""

    path: Path
    used_ns: int
    """When anything was written there last."""
    size_bytes: int
    is_used: bool


class Unfinished(NamedTuple):
    """What a stage kept for the next process, in case that its own is killed."""

    path: Path
    key: str
    """The stage's, in hex."""


class Found(NamedTuple):
    """What lies in a workspace."""

    objects: Sequence[StoredObject]
    results: Sequence[Outline]
    answers: Sequence[AnswersFile]
    runs: Sequence[RunFolder]
    signatures: Mapping[str, Path]
    """By the digest that they are of."""
    shadow: Sequence[ShadowFolder] = ()
    unfinished: Sequence[Unfinished] = ()


class Asked(NamedTuple):
    """What is to stay besides production's."""

    keep_runs: int = 10
    """The last ones of each recipe."""
    older_than_ns: int = 0
    """Runs that ended later than so long ago stay too."""
    answers_bytes: int = 10 * 2**30
    """Of all answers; beyond, those go that were used the longest ago."""
    shadow_older_than_ns: int | None = None
    """Shadow folders go that nothing was written to for so long; None keeps all."""


class Marked(NamedTuple):
    """Digests of what is needed, each with why; more than there are objects, since records name other things too."""

    production: Mapping[str, str]
    """What ledgers and aliases name."""
    runs: Mapping[str, str]
    """What the runs that stay name, and what goes on."""
    begun: Set[str] = frozenset()
    """Keys, in hex, of stages that the runs that stay began."""


class Plan(NamedTuple):
    """What goes; all else stays."""

    kept: Mapping[str, str]
    """Digest of an object -> why it stays."""
    objects: list[StoredObject]
    results: list[Outline]
    answers: list[AnswersFile]
    runs: list[RunFolder]
    signatures: list[Path]
    shadow: list[ShadowFolder]
    unfinished: list[Unfinished]


def kept_runs(runs: Iterable[RunFolder], asked: Asked, now_ns: int) -> list[RunFolder]:
    """The runs whose objects and logs stay: the last of each recipe, those that ended late enough or go on."""
    seen: dict[str, int] = {}
    kept = []
    for run in sorted(runs, key=lambda one: (one.ended_ns, one.run_id), reverse=True):
        if run.recipe is None:
            kept.append(run)
            continue
        seen[run.recipe] = seen.get(run.recipe, 0) + 1
        young = run.ended_ns > now_ns - asked.older_than_ns
        if seen[run.recipe] <= asked.keep_runs or young or run.is_used:
            kept.append(run)
    return kept


def plan_of(found: Found, marked: Marked, used: Set[str], asked: Asked, now_ns: int) -> Plan:
    """What goes.

    Args:
        used: Digests of objects that other processes use.
    """
    kept = {**dict.fromkeys(used, "in use by a process"), **marked.runs, **marked.production}
    there = {one.digest for one in found.objects}
    # What was measured of a model in production is what a later one is compared with.
    for result in found.results:
        if result.stage == "measure" and result.object in there and result.names & marked.production.keys():
            kept.setdefault(result.object, "measured of a model in production")
    objects = [one for one in found.objects if one.digest not in kept]
    gone = {one.digest for one in objects}
    left = there - gone
    staying = {run.run_id for run in kept_runs(found.runs, asked, now_ns)}
    return Plan(
        kept=kept,
        objects=objects,
        results=[one for one in found.results if not _is_useful(one, left, gone)],
        answers=_answers_that_go(found.answers, kept, used, asked.answers_bytes),
        runs=[run for run in found.runs if run.run_id not in staying],
        # A signature is good again when its object is made again.
        signatures=[path for digest, path in found.signatures.items() if digest not in kept],
        shadow=_shadow_that_goes(found.shadow, asked.shadow_older_than_ns, now_ns),
        unfinished=[one for one in found.unfinished if one.key not in marked.begun],
    )


def kinds_of(results: Iterable[Outline]) -> dict[str, Kind]:
    """Digest of an object -> what it is."""
    return {one.object: KIND_OF_STAGE[one.stage] for one in results if one.object and one.stage in KIND_OF_STAGE}


def _is_useful(result: Outline, left: Set[str], gone: Set[str]) -> bool:
    """Whether it may be reused: its object is there, or, where it has none, all that it is about."""
    return result.object in left if result.object else not result.names & gone


def _answers_that_go(
    answers: Iterable[AnswersFile], kept: Mapping[str, str], used: Set[str], most_bytes: int
) -> list[AnswersFile]:
    going, total = [], 0
    for one in sorted(answers, key=lambda file: (file.used_ns, file.path), reverse=True):
        total += one.size_bytes if one.model in kept else 0
        if one.model not in kept or (total > most_bytes and one.model not in used):
            going.append(one)
    return going


def _shadow_that_goes(folders: Iterable[ShadowFolder], older_than_ns: int | None, now_ns: int) -> list[ShadowFolder]:
    if older_than_ns is None:
        return []
    return [one for one in folders if one.used_ns < now_ns - older_than_ns and not one.is_used]
