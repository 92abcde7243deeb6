"""cron: a file for /etc/cron.d."""

import shlex

from pipelines.rendering.schedules.rendered import Files, ScheduledRun, header

_CANNOT = [
    "Debian's and Ubuntu's cron knows no CRON_TZ and takes the machine's time zone (`timedatectl set-timezone`); cronie"
    " (Fedora, RHEL, Arch) knows it.",
    "A run that was missed while the machine was off is not caught up: systemd's timer does that.",
    "A run that failed is not tried again before the next time; whoever the recipe's `notify` names is told.",
]


def render_cron(run: ScheduledRun) -> Files:
    """One file, which appends each run's line to `<workspace>/<unit>.jsonl` and what it says to `<unit>.log`."""
    workspace, log = str(run.workspace), str(run.workspace / run.unit)
    steps = [
        shlex.join(["mkdir", "-p", workspace]),
        shlex.join(["cd", str(run.folder)]),
        f"{shlex.join(run.command)} >> {shlex.quote(log + '.jsonl')} 2>> {shlex.quote(log + '.log')}",
    ]
    # To cron, a bare % ends the command.
    line = " && ".join(steps).replace("%", r"\%")
    commands = [f"install -m 644 {run.unit} /etc/cron.d/{run.unit}", f"tail -1 {log}.jsonl"]
    settings = f"SHELL=/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin\nCRON_TZ={run.schedule.timezone}\n"
    text = header(f"cron: {run.config.name}.", _CANNOT, commands, run.recipe) + settings
    return {run.unit: f"{text}{run.schedule.cron} {run.user} {line}\n"}
