"""What is needed is never planned to go, whatever a workspace holds."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipelines.planning.garbage import (
    AnswersFile,
    Asked,
    Found,
    Marked,
    Plan,
    RunFolder,
    ShadowFolder,
    StoredObject,
    Unfinished,
    kept_runs,
    plan_of,
)
from registry.stage_cache import Outline

NOW = 10**18
_DIGESTS = [f"sha256:{number:064x}" for number in range(12)]
digests = st.sampled_from(_DIGESTS)
some = st.frozensets(digests, max_size=4)
stages = st.sampled_from(("prepare", "quantize", "measure", "inspect", "compare"))


@st.composite
def outlines(draw: st.DrawFn) -> Outline:
    made = draw(st.none() | digests)
    names = draw(some) | (frozenset([made]) if made else frozenset())
    return Outline(Path(f"cache/{draw(st.integers(0, 999))}.json"), draw(stages), made, names)


runs = st.builds(
    RunFolder,
    run_id=st.text("abc", min_size=1, max_size=4),
    recipe=st.none() | st.sampled_from(("one", "other")),
    ended_ns=st.integers(0, NOW),
    size_bytes=st.integers(0, 99),
    is_used=st.booleans(),
)
answers = st.builds(
    AnswersFile,
    path=st.integers(0, 99).map(lambda number: Path(f"{number}.sqlite")),
    model=st.none() | digests,
    size_bytes=st.integers(0, 100),
    used_ns=st.integers(0, NOW),
)
whys = st.dictionaries(digests, st.just("why"), max_size=5)
asks = st.builds(
    Asked,
    keep_runs=st.integers(1, 4),
    older_than_ns=st.integers(0, NOW),
    answers_bytes=st.integers(0, 300),
    shadow_older_than_ns=st.none() | st.integers(0, NOW),
)


@st.composite
def workspaces(draw: st.DrawFn) -> Found:
    return Found(
        objects=[StoredObject(digest, 1) for digest in sorted(draw(st.frozensets(digests)))],
        results=draw(st.lists(outlines(), max_size=12)),
        answers=draw(st.lists(answers, max_size=6)),
        runs=draw(st.lists(runs, max_size=8, unique_by=lambda run: run.run_id)),
        signatures={digest: Path(digest) for digest in draw(some)},
        shadow=draw(
            st.lists(st.builds(ShadowFolder, st.just(Path("shadow")), st.integers(0, NOW), st.just(1), st.booleans()))
        ),
    )


def planned(
    found: Found, production: dict[str, str], of_runs: dict[str, str], used: frozenset[str], asked: Asked
) -> Plan:
    return plan_of(found, Marked(production, of_runs), used, asked, NOW)


@given(workspaces(), whys, whys, some, asks)
def test_nothing_that_is_needed_goes(
    found: Found, production: dict[str, str], of_runs: dict[str, str], used: frozenset[str], asked: Asked
) -> None:
    plan = planned(found, production, of_runs, used, asked)
    needed = production.keys() | of_runs.keys() | used
    gone = {one.digest for one in plan.objects}
    assert not gone & needed
    assert not {path.name for path in plan.signatures} & needed
    assert not [one for one in plan.answers if one.model in used]
    assert not [run for run in plan.runs if run.is_used or run.recipe is None]
    assert not [one for one in plan.shadow if one.is_used]
    for result in found.results:
        if result.stage == "measure" and result.object and result.names & production.keys():
            assert result.object not in gone


@given(workspaces(), whys, whys, some, asks)
def test_what_stays_is_consistent(
    found: Found, production: dict[str, str], of_runs: dict[str, str], used: frozenset[str], asked: Asked
) -> None:
    """No entry names an object that is not there, and one whose object stays, stays."""
    plan = planned(found, production, of_runs, used, asked)
    there = {one.digest for one in found.objects} - {one.digest for one in plan.objects}
    for result in found.results:
        if result.object:
            assert (result in plan.results) == (result.object not in there)
        elif result.names <= there:
            assert result not in plan.results
    kept = [one for one in found.answers if one not in plan.answers and one.model not in used]
    assert sum(one.size_bytes for one in kept) <= asked.answers_bytes


@given(workspaces(), whys, whys, some, asks)
def test_a_second_collection_finds_nothing(
    found: Found, production: dict[str, str], of_runs: dict[str, str], used: frozenset[str], asked: Asked
) -> None:
    plan = planned(found, production, of_runs, used, asked)
    left = Found(
        objects=[one for one in found.objects if one not in plan.objects],
        results=[one for one in found.results if one not in plan.results],
        answers=[one for one in found.answers if one not in plan.answers],
        runs=[one for one in found.runs if one not in plan.runs],
        signatures={digest: path for digest, path in found.signatures.items() if path not in plan.signatures},
        shadow=[one for one in found.shadow if one not in plan.shadow],
    )
    again = planned(left, production, of_runs, used, asked)
    assert not (again.objects or again.results or again.answers or again.runs or again.signatures or again.shadow)


def test_the_last_runs_of_each_recipe_stay() -> None:
    made = [RunFolder(f"{name}-{number}", name, number, 1) for name in ("one", "other") for number in range(4)]
    staying = {run.run_id for run in kept_runs(made, Asked(keep_runs=2), NOW)}
    assert staying == {"one-2", "one-3", "other-2", "other-3"}
    staying = {run.run_id for run in kept_runs(made, Asked(keep_runs=1, older_than_ns=NOW - 1), NOW)}
    assert staying == {"one-2", "one-3", "other-2", "other-3"}


def test_answers_that_were_used_the_longest_ago_go_first() -> None:
    model = _DIGESTS[0]
    files = [AnswersFile(Path(f"{number}"), model, 10, number) for number in range(5)]
    found = Found([], [], files, [], {})
    plan = plan_of(found, Marked({model: "champion"}, {}), set(), Asked(answers_bytes=25), NOW)
    assert [file.used_ns for file in plan.answers] == [2, 1, 0]


def test_what_a_stage_kept_stays_while_a_run_that_began_it_does() -> None:
    kept = [Unfinished(Path(f"rounded/{key}"), key) for key in ("begun", "forgotten")]
    found = Found(objects=[], results=[], answers=[], runs=[], signatures={}, unfinished=kept)
    plan = plan_of(found, Marked({}, {}, {"begun", "another"}), frozenset(), Asked(), NOW)
    assert plan.unfinished == kept[1:]
