"""A recipe's schedule: what is taken, and that what is rendered means the same to each scheduler."""

import json
import os
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.errors import RequestError, StageError
from pipelines.cli import main
from pipelines.recipe.run_config import RunConfig
from pipelines.recipe.schedule_config import ScheduleConfig
from pipelines.rendering.schedules.clock_changes import check_clock_changes
from pipelines.rendering.schedules.on_calendar import on_calendar
from pipelines.rendering.schedules.rendered import FOR_SCHEDULERS, ScheduledRun
from pipelines.rendering.schedules.targets import TARGETS, render_schedule
from pipelines.rendering.validation import check_documents
from tests.unit.pipelines.test_runner import ROOT, run_config
from tests.walks import take, walk_of

NOW = datetime(2026, 11, 27, tzinfo=UTC)
WEEKLY = ScheduleConfig(cron="0 4 * * 0", timezone="Europe/Berlin")
RECIPE = """\
version: 1
name: weekly
source: {kind: folder, path: model}
calibration: {source: self, samples: 4, tokens: 16}
methods:
  int8: {method: bnb_int8}
evaluation: {suite: demo}
schedule: {cron: "0 4 * * 0", timezone: Europe/Berlin}
"""


def scheduled(schedule: ScheduleConfig = WEEKLY, **changes: Any) -> ScheduledRun:
    fields = {
        "config": run_config(name="weekly", schedule=schedule.model_dump()),
        "schedule": schedule,
        "recipe": Path("/srv/weekly.yaml"),
        "workspace": Path("/srv/workspace"),
        "folder": Path("/srv"),
        "program": ["/bin/true"],
        "image": "registry.example/quantbench:1",
    }
    return ScheduledRun(**(fields | changes))


@pytest.mark.parametrize(
    ("cron", "why"),
    [
        ("0 4 * *", "five fields are wanted"),
        ("0 0 4 * * 0", "five fields are wanted"),
        ("@weekly", "five fields are wanted"),
        ("0 4 * * SUN", "the day of the week, 'SUN', is not what every cron reads"),
        ("0 4 L * *", "the day of the month, 'L', is not"),
        ("0 4 ? * 0", "the day of the month, '\\?', is not"),
        ("0 4 * * 1#2", "is not what every cron reads"),
        ("5/15 4 * * *", "the minute, '5/15', is not"),
        ("60 4 * * *", "minute: a number is out of bounds"),
        ("0 24 * * *", "hour: a number is out of bounds"),
        ("0 4 0 * *", "day-of-month: a number is out of bounds"),
        ("0 4 * 13 *", "month: a number is out of bounds"),
        ("0 4 * * 8", "day-of-week: a number is out of bounds"),
        ("0 5-3 * * *", "hour: a number is out of bounds, or a range ends early"),
        ("*/0 4 * * *", "minute: a number is out of bounds"),
        ("0 4 30 2 *", "day-of-month: |no such day in any year"),
        ("0 4 * * 0\n* * * * *", "five fields are wanted"),
        ("-1 4 * * *", "the minute, '-1', is not"),
        ("", "five fields are wanted"),
    ],
)
def test_what_is_no_schedule(cron: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ScheduleConfig(cron=cron)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../../etc/passwd", "/etc/localtime", "Europe", "CEST+1\n"])
def test_what_is_no_time_zone(zone: str) -> None:
    with pytest.raises(ValidationError, match="there is no time zone"):
        ScheduleConfig(cron="0 4 * * *", timezone=zone)


@pytest.mark.parametrize(
    ("cron", "zone", "why"),
    [
        ("30 2 * * *", "Europe/Berlin", "02:30 does not come on 2027-03-28"),
        ("0 2 * * 0", "Europe/Berlin", "02:00 does not come on 2027-03-28"),
        ("30 1 * * *", "America/New_York", "01:30 comes twice on 2027-11-07"),
        ("0 * * * *", "Europe/London", "01:00 does not come on 2027-03-28"),
        ("45 1 * * 0", "Australia/Lord_Howe", "01:45 comes twice on 2027-04-04"),
    ],
)
def test_times_that_schedulers_do_not_agree_on(cron: str, zone: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        check_clock_changes(ScheduleConfig(cron=cron, timezone=zone), NOW)


@pytest.mark.parametrize(
    ("cron", "zone"),
    [
        ("0 3 * * *", "Europe/Berlin"),
        ("0 * * * *", "UTC"),
        ("30 2 * * 1", "Europe/Berlin"),
        ("0 2 * * *", "Asia/Tokyo"),
    ],
)
def test_times_that_they_agree_on(cron: str, zone: str) -> None:
    check_clock_changes(ScheduleConfig(cron=cron, timezone=zone), NOW)


def test_calendar_events_in_systemd_s_words() -> None:
    def events(cron: str) -> list[str]:
        return on_calendar(ScheduleConfig(cron=cron, timezone="Europe/Berlin"))

    assert events("0 4 * * 0") == events("0 4 * * 7") == ["Sun *-*-* 04:00:00 Europe/Berlin"]
    assert events("*/15 8-10 1,15 */6 *") == ["*-01,07-01,15 08,09,10:00,15,30,45:00 Europe/Berlin"]
    # Either day is enough, unless a field begins with a star.
    assert events("0 4 1 * 1-3") == ["*-*-01 04:00:00 Europe/Berlin", "Mon,Tue,Wed *-*-* 04:00:00 Europe/Berlin"]
    assert events("0 4 */10 * 1") == ["Mon *-*-01,11,21,31 04:00:00 Europe/Berlin"]
    assert events("0 4 1-31 * 1") == events("0 4 1 * 0-6") == ["*-*-* 04:00:00 Europe/Berlin"]


def systemd_times(schedule: ScheduleConfig, after: datetime, count: int) -> list[datetime]:
    """The next times by systemd itself, of all events together."""
    found: set[datetime] = set()
    for event in on_calendar(schedule):
        command = ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={after:%Y-%m-%d %H:%M:%S} UTC"]
        env = os.environ | {"TZ": "UTC", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
        done = subprocess.run([*command, event], capture_output=True, text=True, check=True, env=env, timeout=60)
        told = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if "elapse:" in line or "Iter. #" in line]
        found |= {
            datetime.strptime(one, "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC) for one in told if one != "never"
        }
    return sorted(found)[:count]


def numbers(least: int, most: int) -> st.SearchStrategy[str]:
    """A field: a star, a number, a list, a range, or steps."""
    number = st.integers(least, most)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.lists(number, min_size=2, max_size=4).map(lambda found: ",".join(map(str, found))),
        st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}"),
        st.integers(2, most).map(lambda step: f"*/{step}"),
        st.tuples(number, number, st.integers(1, 5)).map(lambda all_: f"{min(all_[:2])}-{max(all_[:2])}/{all_[2]}"),
    )


CRON = st.tuples(numbers(0, 59), numbers(0, 23), numbers(1, 28), numbers(1, 12), numbers(0, 7)).map(" ".join)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Sao_Paulo"]
)
NEAR_CHANGES = st.sampled_from(
    [datetime(2027, 3, 27), datetime(2027, 10, 30), datetime(2027, 3, 13), datetime(2027, 11, 6), datetime(2027, 4, 3)]
)


@pytest.mark.service
@settings(max_examples=60, deadline=None)
@given(cron=CRON, zone=ZONES, day=NEAR_CHANGES, minutes=st.integers(0, 2 * 24 * 60))
@example(cron="0 4 * * 0", zone="Europe/Berlin", day=datetime(2027, 3, 27), minutes=0)
@example(cron="0 3 * * *", zone="Europe/Berlin", day=datetime(2027, 10, 30), minutes=0)
@example(cron="0 */12 * * *", zone="Australia/Lord_Howe", day=datetime(2027, 3, 27), minutes=0)
@example(cron="0 */4 * * *", zone="Australia/Lord_Howe", day=datetime(2027, 4, 3), minutes=0)
@example(cron="0 5 1 * 1", zone="America/New_York", day=datetime(2027, 11, 6), minutes=0)
def test_systemd_and_cron_mean_the_same_times(cron: str, zone: str, day: datetime, minutes: int) -> None:
    schedule, after = ScheduleConfig(cron=cron, timezone=zone), (day + timedelta(minutes=minutes)).replace(tzinfo=UTC)
    try:
        check_clock_changes(schedule, after)
    except RequestError:
        assume(False)
    # Beyond five years nobody looked for changes of clocks.
    end = after + timedelta(days=5 * 365)
    wanted = [time.astimezone(UTC) for time in islice(schedule.times(after), 20)]
    found = systemd_times(schedule, after, 20)
    assert [one for one in found if one < end] == [one for one in wanted if one < end]


@pytest.mark.service
@pytest.mark.parametrize("strange", ["plain", 'a "quoted" $HOME %n name'])
def test_systemd_takes_the_units(tmp_path: Path, strange: str) -> None:
    folder = tmp_path / strange
    folder.mkdir()
    program = folder / "quantbench"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    run = scheduled(
        recipe=folder / "weekly.yaml",
        workspace=folder / "w",
        folder=folder,
        program=[str(program)],
        overrides=["a=b c"],
    )
    files = render_schedule(run, "systemd")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "quantbench" in line]
    assert (ours, done.returncode) == ([], 0)


def test_the_service_ends_all_of_a_run_and_the_timer_catches_up() -> None:
    files = render_schedule(scheduled(), "systemd")
    service, timer = files["quantbench-weekly.service"], files["quantbench-weekly.timer"]
    assert (
        'ExecStart=/usr/bin/env "/bin/true" "run" "/srv/weekly.yaml" "--workspace" "/srv/workspace" "--if-changed"'
        in service
    )
    assert "KillMode=mixed\n" in service and "User=root\n" in service
    assert "OnCalendar=Sun *-*-* 04:00:00 Europe/Berlin\nPersistent=true\n" in timer


def test_a_line_of_cron_is_run_as_it_is_meant(tmp_path: Path) -> None:
    """By the shell that cron starts, with names that a shell would take apart."""
    folder = tmp_path / "100% $HOME; it's"
    folder.mkdir()
    program = folder / "quantbench"
    program.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    run = scheduled(
        recipe=folder / "weekly.yaml",
        workspace=folder / "w",
        folder=folder,
        program=[str(program)],
        overrides=["description=a b"],
        user="me",
    )
    (text,) = render_schedule(run, "cron").values()
    *_, zone, line = text.splitlines()
    assert zone == "CRON_TZ=Europe/Berlin"
    fields, command = line.split(" ", 6)[:6], line.split(" ", 6)[6]
    assert fields == ["0", "4", "*", "*", "0", "me"]
    assert "%" not in command.replace(r"\%", ""), "cron would end the command there"
    subprocess.run(["/bin/sh", "-c", command.replace(r"\%", "%")], check=True, timeout=60)
    said = (folder / "w" / "quantbench-weekly.jsonl").read_text().splitlines()
    wanted = ["run", str(folder / "weekly.yaml"), "--set", "description=a b", "--workspace", str(folder / "w")]
    assert said == [str(folder), *wanted, *FOR_SCHEDULERS, "leave"]
    assert (folder / "w" / "quantbench-weekly.log").read_text() == ""


def documents(run: ScheduledRun) -> dict[str, dict[str, Any]]:
    (text,) = render_schedule(run, "kubernetes-cronjob").values()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_a_cronjob_starts_one_run_at_a_time_and_catches_up() -> None:
    found = documents(scheduled())
    assert list(found) == ["ConfigMap", "PersistentVolumeClaim", "CronJob"]
    spec = found["CronJob"]["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("0 4 * * 0", "Europe/Berlin")
    assert (spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == ("Forbid", 86_400)
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["args"] == ["run", "/recipe/recipe.yaml", "--workspace", "/workspace", *FOR_SCHEDULERS, "leave"]
    assert "resources" not in container
    recipe = yaml.safe_load(found["ConfigMap"]["data"]["recipe.yaml"])
    assert RunConfig.model_validate(recipe) == scheduled().config


def test_a_cronjob_of_a_gpu_asks_for_one_of_each_rank() -> None:
    config = run_config(device="cuda", serving={"engine": "vllm", "tensor_parallel_size": 4})
    pod = documents(scheduled(config=config))["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "4"}}


def test_kubernetes_counts_days_from_0_to_6_and_no_more_than_100_missed_times() -> None:
    def spec(cron: str) -> dict[str, Any]:
        found: dict[str, Any] = documents(scheduled(ScheduleConfig(cron=cron)))["CronJob"]["spec"]
        return found

    assert spec("0 4 * * 7")["schedule"] == "0 4 * * 0"
    assert spec("0 4 * * 5-7")["schedule"] == "0 4 * * 0,5,6"
    assert spec("0 4 * * */2")["schedule"] == "0 4 * * */2"
    assert spec("* * * * *")["startingDeadlineSeconds"] == 50 * 60


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    job = documents(scheduled())["CronJob"]
    job["spec"]["timezone"] = "UTC"
    with pytest.raises(StageError, match="'timezone' was unexpected"):
        check_documents([job], "kubernetes_batch.json")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image": None}, "a CronJob runs a container"),
        ({"config": run_config(name="a" * 60)}, "a CronJob's name has 52 characters at most"),
        ({"folder": Path("/srv/a\nb")}, "holds a line's end"),
        ({"overrides": ["a=b\n* * * * * root true"]}, "holds a line's end"),
        ({"schedule": ScheduleConfig(cron="30 2 * * *", timezone="Europe/Berlin")}, "schedulers do not agree"),
    ],
)
def test_what_is_not_rendered(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        render_schedule(scheduled(**changes), "kubernetes-cronjob")


def test_the_command_writes_whole_files_and_tells_the_next_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "weekly.yaml"
    recipe.write_text(RECIPE)
    for target in set(TARGETS) - {"dagster"}:  # whose file needs a plan
        arguments = ["schedule", "render", str(recipe), "--target", target, "--image", "registry.example/q:1"]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert main([*arguments, "--out", str(tmp_path / target)]) == 0
        capsys.readouterr()
        written = [path.read_text() for path in sorted((tmp_path / target).iterdir())]
        assert printed == "\n".join(written)
        assert all(
            text.startswith(("# ", '"""')) and "Rendered by `quantbench schedule render`" in text for text in written
        )
    line = (tmp_path / "cron" / "quantbench-weekly").read_text().splitlines()[-1]
    assert shlex.split(line)[-2:] == ["2>>", str(Path("workspace").absolute() / "quantbench-weekly.log")]
    assert main(["schedule", "next", str(recipe), "--json", "--count", "3"]) == 0
    times = [datetime.fromisoformat(one) for one in json.loads(capsys.readouterr().out)]
    assert len(times) == 3 and all(one.hour == 4 and one.weekday() == 6 for one in times)
    assert main(["schedule", "next", str(recipe)]) == 0
    assert "04:00 Europe/Berlin (" in capsys.readouterr().out


def test_the_walk_prints_what_the_document_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    take(walk_of(ROOT / "docs" / "schedule.md"), capsys)


def test_a_recipe_without_a_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "weekly.yaml"
    recipe.write_text("\n".join(RECIPE.splitlines()[:-1]) + "\n")
    assert main(["schedule", "next", str(recipe)]) == 2
    assert "has no schedule" in capsys.readouterr().err
    recipe.write_text(RECIPE.replace("0 4 * * 0", "0 4 * * SUN"))
    assert main(["schedule", "next", str(recipe)]) == 2
    assert "weekly.yaml:8: `schedule.cron`: the day of the week, 'SUN', is not what every cron reads" in (
        capsys.readouterr().err
    )
