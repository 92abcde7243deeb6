"""systemd: a service and its timer."""

from collections.abc import Sequence

from pipelines.rendering.schedules.on_calendar import on_calendar
from pipelines.rendering.schedules.rendered import Files, ScheduledRun, header

_HARDENING = """\
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
"""
"""What takes nothing from an engine: devices stay, since GPUs are some, and memory that is written and then executed,
since torch compiles."""


def render_systemd(run: ScheduledRun) -> Files:
    """The unit files; each begins with what installs both."""
    commands = [
        f"install -m 644 {run.unit}.service {run.unit}.timer /etc/systemd/system/",
        f"systemctl daemon-reload && systemctl enable --now {run.unit}.timer",
        f"journalctl -u {run.unit} -o cat    # ends with one line of JSON a run",
    ]
    cannot = [
        "A run that was missed while the machine was off is caught up once (Persistent=true).",
        "A run that failed is not tried again before the next time: whoever the recipe's `notify` names is told, and"
        f" `systemctl start {run.unit}` tries.",
        f"Secrets of the recipe, such as tokens, come from /etc/quantbench/{run.unit}.env where that is there.",
    ]
    head = header(f"systemd: {run.config.name}.", cannot, commands, run.recipe)
    return {f"{run.unit}.service": head + _service(run), f"{run.unit}.timer": head + _timer(run)}


def _service(run: ScheduledRun) -> str:
    return f"""\
[Unit]
Description=Quantbench run of {_text(run.config.name)}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
User={_text(run.user)}
WorkingDirectory={_text(str(run.folder))}
EnvironmentFile=-/etc/quantbench/{run.unit}.env
ExecStart=/usr/bin/env {_command(run.command)}
KillMode=mixed
TimeoutStopSec=2min
{_HARDENING}"""


def _timer(run: ScheduledRun) -> str:
    events = "".join(f"OnCalendar={event}\n" for event in on_calendar(run.schedule))
    return f"""\
[Unit]
Description=Quantbench run of {_text(run.config.name)}, by its schedule {run.schedule.cron} {run.schedule.timezone}

[Timer]
{events}Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def _text(value: str) -> str:
    """In a unit's value, % begins a specifier (systemd.unit(5))."""
    return value.replace("%", "%%")


def _command(argv: Sequence[str]) -> str:
    """Each part quoted, so that none is split, and no variable of it is put in (systemd.service(5)).

    The rules hold for arguments only, so the program is one of env's: as the first word, systemd refuses a quote in it.
    """
    escaped = (part.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$") for part in argv)
    return " ".join(f'"{_text(part)}"' for part in escaped)
