"""systemd: one unit that runs the engine of an environment on the machine itself."""

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import Champion
from pipelines.rendering.deploy.files import Body, Deployment, json_body, yaml_body
from pipelines.rendering.deploy.monitoring import dashboard_of, scrape_config
from pipelines.rendering.deploy.resources import Resources, resources_of

_LOOPBACK = "127.0.0.1"
_HEALTHY = """
import sys, time, urllib.request as ask
while True:
    try:
        ask.urlopen(sys.argv[1], timeout=5)
        break
    except OSError:
        time.sleep(1)
"""
"""`systemctl start` comes back when the server answers; TimeoutStartSec ends the waiting."""


def render(champion: Champion) -> Deployment:
    """For systemd 247 or later. Raises RequestError for an artifact that is not in a folder of the machine."""
    settings, resources = champion.settings, resources_of(champion)
    folder = settings.storage or f"/srv/models/{settings.name}"
    if not folder.startswith("/"):
        raise RequestError(
            f"a unit takes the artifact from a folder by its whole path, and storage is {folder}",
            remedy=f"copy it to the machine and name its folder: --set storage=/srv/models/{settings.name}",
        )
    unit = f"{settings.name}.service"
    plugin = f" and {champion.plugin}" if champion.plugin else ""
    check = [
        f"{settings.python} is of an environment with {champion.serving.engine} {champion.serving.engine_version}"
        f"{plugin}; it lies outside of /home, which the unit does not see.",
        f"{folder} is what `quantbench artifacts export` wrote, and everybody may read it.",
        f"It listens on {_LOOPBACK}: what others reach stands before it.",
        "It is one server: nothing adds another one.",
        *(["Device files of the GPU are left open, as the driver needs them."] if resources.gpus else []),
    ]
    commands = [
        f"quantbench artifacts export {champion.name} {folder} --run {champion.run_id}",
        f"systemd-analyze verify ./{unit}",
        f"cp {unit} /etc/systemd/system/ && systemctl daemon-reload && systemctl enable --now {unit}",
    ]
    bodies = [
        Body(unit, "\n".join(_unit(champion, resources, folder)) + "\n"),
        yaml_body("prometheus.yml", scrape_config(settings.name, f"{_LOOPBACK}:{settings.port}")),
        json_body("grafana-dashboard.json", dashboard_of(champion)),
    ]
    return Deployment(f"systemd: {champion.model} on one machine.", bodies, [], resources.told, check, commands)


def _unit(champion: Champion, resources: Resources, folder: str) -> list[str]:
    settings = champion.settings
    listen = ["--host", _LOOPBACK, "--port", str(settings.port)]
    program = [settings.python, *champion.container.module, folder, *listen, *champion.container.arguments]
    health = f"http://{_LOOPBACK}:{settings.port}{getattr(champion.engine, 'health_path', '/health')}"
    return [
        "[Unit]",
        f"Description={_text(f'{champion.model}, {champion.name} of run {champion.run_id}')}",
        "After=network.target",
        f"AssertPathIsDirectory={_text(folder)}",
        f"AssertFileIsExecutable={settings.python}",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={command_line(program)}",
        f"ExecStartPost={command_line([settings.python, '-c', _HEALTHY.strip(), health])}",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in champion.container.env.items()),
        f"TimeoutStartSec={champion.startup_seconds}",
        "TimeoutStopSec=60",
        "Restart=on-failure",
        "RestartSec=5",
        f"MemoryMax={resources.memory_mib}M",
        f"CPUQuota={100 * resources.cpus}%",
        "",
        "# Nobody's user, who may write into its own cache and nowhere else.",
        "DynamicUser=yes",
        f"CacheDirectory={settings.name}",
        f"Environment=HOME=%C/{settings.name}",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "RestrictSUIDSGID=yes",
        "ProtectKernelTunables=yes",
        "ProtectControlGroups=yes",
        *([] if resources.gpus else ["PrivateDevices=yes"]),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]


def command_line(argv: list[str]) -> str:
    """As ExecStart takes it (systemd.service, "Command lines"): nothing is expanded."""
    return " ".join(_quoted(word).replace("$", "$$") for word in argv)


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{_text(escaped)}"'


def _text(text: str) -> str:
    """Without specifiers, which begin with a percent sign."""
    return text.replace("%", "%%")
