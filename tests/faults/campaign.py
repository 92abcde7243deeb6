"""Draws faults, tries each, keeps what was found, and prints the table."""

import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.judge import CLASSES, Result, result_of
from tests.faults.kinds import KINDS
from tests.faults.lab import Lab
from tests.faults.trial import Kind, Missed, Trial

_GOLDEN_SECONDS = 900.0
_ATTEMPTS = 4
"""A moment that never came is drawn anew so often."""
_SHOWN = 6
"""Findings of one fault; all of them with `--only`."""
_FAILING = ("wrong", "lost", "left behind")


def deck(kinds: Sequence[Kind], seed: int) -> Iterator[Kind]:
    """Every kind once, one of those with real engines last; then as their weights say."""
    rng = Random(seed)
    cheap, real = [kind for kind in kinds if not kind.real], [kind for kind in kinds if kind.real]
    yield from rng.sample(cheap, len(cheap))
    yield from rng.sample(real, min(1, len(real)))
    while True:
        yield rng.choices(kinds, [kind.weight for kind in kinds])[0]


class Campaign:
    """All faults of one seed.

    Args:
        lab: Where they take place.
        out: Gets `seed-<n>.jsonl`, a line a fault; a later call with the seed goes on behind the last.
        wanted: Only kinds whose name holds this.
    """

    def __init__(self, lab: Lab, seed: int, out: Path, wanted: str = "") -> None:
        self._lab, self._seed = lab, seed
        self._kinds = [kind for kind in KINDS if wanted in kind.name and (lab.isolated or not kind.mounts)]
        out.mkdir(parents=True, exist_ok=True)
        self._file = out / f"seed-{seed}{'-' + wanted.replace(' ', '_').replace('/', '_') if wanted else ''}.jsonl"
        self._golden: Result | None = None

    def forget(self) -> None:
        """Begin anew."""
        self._file.unlink(missing_ok=True)

    def run(self, count: int, minutes: float, only: int | None = None) -> int:
        """Inject until `count` faults are known or the time is over; the exit code."""
        if not self._kinds:
            print("no kind has such a name", file=sys.stderr)
            return 2
        start = time.monotonic()
        self._golden = self._undisturbed()
        known = {one["number"] for one in self._known()} if only is None else set()
        for number, kind in enumerate(deck(self._kinds, self._seed)):
            if number >= count or time.monotonic() - start > minutes * 60:
                break
            if number in known or only not in (None, number):
                continue
            told = self._try(number, kind)
            self._print(told, whole=only is not None)
            if only is not None:
                return int(told["class"] in _FAILING)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(told, ensure_ascii=False) + "\n")
        known_now = self._known()
        print(table(known_now))
        print(listing(known_now, self._seed))
        return int(any(one["class"] in (*_FAILING, "harness") for one in known_now))

    def _known(self) -> list[dict[str, Any]]:
        if not self._file.is_file():
            return []
        return [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]

    def _undisturbed(self) -> Result:
        """Make the run that nothing disturbs, and see that a second one changes nothing."""
        lab = self._lab
        lab.furnish()
        made = lab.run(seconds=_GOLDEN_SECONDS)
        again = lab.run()
        if made.exit_code != 0 or made.record is None or again.record is None:
            raise SystemExit(f"the undisturbed run fails with {made.exit_code}:\n{made.text}")
        golden = result_of(made.record)
        if set(result_of(again.record).hows.values()) != {"reused"}:
            raise SystemExit(f"the undisturbed run is not reused: {result_of(again.record).hows}")
        lab.keep_golden()
        print(f"the undisturbed run took {made.seconds:.0f} s", flush=True)
        return golden

    def _try(self, number: int, kind: Kind) -> dict[str, Any]:
        start = time.monotonic()
        found: dict[str, Any] = {"number": number, "kind": kind.name}
        for attempt in range(_ATTEMPTS):
            assert self._golden is not None
            trial = Trial(self._lab, self._golden, Random(f"{self._seed}:{number}:{attempt}"))
            try:
                self._lab.restore()
                kind.inject(trial)
            except Missed as why:
                self._lab.left_processes(30.0)
                found |= {"class": "not injected", "story": [*trial.story, str(why)]}
                continue
            except Exception:
                self._lab.stop_all()
                found |= {"class": "harness", "story": [*trial.story, traceback.format_exc()]}
                break
            found |= {"class": trial.kind, "refused": trial.refused, "story": trial.story}
            found["findings"] = [list(one) for one in trial.findings]
            break
        return found | {"seconds": round(time.monotonic() - start, 1)}

    def _print(self, told: dict[str, Any], *, whole: bool) -> None:
        print(f"{told['number']:5} {told['class']:12} {told['seconds']:6.1f} s  {told['kind']}", flush=True)
        if whole or told["class"] != "survived":
            found = [f"{kind}: {what}" for kind, what in told.get("findings", [])]
            for line in [*told["story"], *(found if whole else found[:_SHOWN])]:
                print(f"{'':10}{line if whole else line[:700]}", flush=True)


def table(known: Sequence[dict[str, Any]]) -> str:
    """A row a group of kinds: how many were injected, and how they ended."""
    columns = ("injected", *CLASSES)
    counts: dict[str, Counter[str]] = {}
    for one in known:
        if one["class"] in CLASSES:
            for name in (one["kind"].partition(":")[0], "all"):
                counts.setdefault(name, Counter()).update(["injected", one["class"]])
    order = [name for name in counts if name != "all"] + (["all"] if counts else [])
    lines = [f"\n{'':16}" + "".join(f"{name:>13}" for name in columns)]
    lines += [f"{name:16}" + "".join(f"{counts[name][column]:13}" for column in columns) for name in order]
    refused = sum(bool(one.get("refused")) for one in known if one["class"] == "survived")
    missed = Counter(one["kind"] for one in known if one["class"] == "not injected")
    lines.append(f"of those that survived, {refused} were answered by an explained refusal first")
    if missed:
        lines.append(f"not injected, their moment never came: {dict(missed)}")
    return "\n".join(lines)


def listing(known: Sequence[dict[str, Any]], seed: int) -> str:
    """What did not survive, each with the call that repeats it."""
    lines = []
    for one in known:
        if one["class"] not in ("survived", "not injected"):
            found = (
                [what for kind, what in one.get("findings", []) if kind == one["class"]] or one["story"][-1:] or [""]
            )
            lines.append(f"{one['class']}: {one['kind']}; --seed {seed} --only {one['number']}: {found[0][:300]}")
    return "\n".join(lines)
