"""Docker Compose: the server on loopback, Prometheus and Grafana beside it."""

from typing import Any

from configs.errors import RequestError
from pipelines.rendering.deploy.champion import MODELS, Champion
from pipelines.rendering.deploy.files import Deployment, Held, json_body, yaml_body
from pipelines.rendering.deploy.monitoring import GRAFANA_IMAGE, PROMETHEUS_IMAGE, dashboard_of, scrape_config
from pipelines.rendering.deploy.resources import SCRATCH_BYTES, Resources, resources_of

_USER = "65534:65534"
_HEALTHY = "import sys, urllib.request as ask; ask.urlopen(sys.argv[1], timeout=5)"
_DEFAULT_FOLDER = "./model"
_HARDENED = {
    "user": _USER,
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "restart": "unless-stopped",
}


def render(champion: Champion) -> Deployment:
    """For Compose 2.24 or later. Raises RequestError for an artifact that is not in a folder."""
    folder = champion.settings.storage or _DEFAULT_FOLDER
    if "://" in folder:
        raise RequestError(
            f"a container of Compose takes the artifact from a folder, and storage is {folder}",
            remedy="copy it to the machine and name its folder: --set storage=./model",
        )
    resources = resources_of(champion)
    compose = {
        "name": champion.settings.name,
        "services": {
            "model": _server(champion, resources, folder),
            "prometheus": _prometheus(),
            "grafana": _grafana(),
        },
        "volumes": {"prometheus": {}, "grafana": {}},
    }
    datasource = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "url": "http://prometheus:9090"}
    provider = {"name": "quantbench", "type": "file", "options": {"path": "/var/lib/grafana-dashboards"}}
    check = [
        f"The folder {folder} beside compose.yaml, or there by its path, is what `quantbench artifacts export` wrote;"
        " everybody may read it.",
        f"The image {champion.image} has {champion.serving.engine} {champion.serving.engine_version}.",
        "All three listen on 127.0.0.1. Grafana shows its dashboard to whoever reaches it, without a password.",
        "It is one server: nothing adds another one.",
        *(["The NVIDIA container toolkit is installed."] if resources.gpus else []),
    ]
    port = champion.settings.port
    commands = [
        f"quantbench artifacts export {champion.name} model --run {champion.run_id}",
        "docker compose up --wait",
        f"curl -s http://127.0.0.1:{port}/v1/models",
    ]
    bodies = [
        yaml_body("compose.yaml", compose),
        yaml_body("prometheus.yml", scrape_config(champion.settings.name, f"model:{port}")),
        yaml_body("grafana/datasource.yaml", {"apiVersion": 1, "datasources": [datasource]}),
        yaml_body("grafana/provider.yaml", {"apiVersion": 1, "providers": [provider]}),
        json_body("grafana/dashboard.json", dashboard_of(champion)),
    ]
    purpose = f"Docker Compose: {champion.model}, with Prometheus and Grafana."
    return Deployment(purpose, bodies, [Held("compose.json", "Compose", compose)], resources.told, check, commands)


def _server(champion: Champion, resources: Resources, folder: str) -> dict[str, Any]:
    port = champion.settings.port
    limits: dict[str, Any] = {"cpus": str(resources.cpus), "memory": f"{resources.memory_mib}M"}
    reserved: dict[str, Any] = {"memory": f"{resources.memory_mib}M"}
    if resources.gpus:
        reserved["devices"] = [{"driver": "nvidia", "count": resources.gpus, "capabilities": ["gpu"]}]
    server: dict[str, Any] = {
        "image": champion.image,
        # The image's own entry point is replaced: what runs stands here, whole.
        "entrypoint": _escaped(champion.container.command),
        "command": _escaped(champion.command(MODELS, "0.0.0.0")[len(champion.container.command) :]),  # noqa: S104
        "environment": dict(zip(champion.environment, _escaped(champion.environment.values()), strict=True)),
        **_HARDENED,
        "init": True,
        # Without `exec` what engines compile there is not loaded.
        "tmpfs": [f"/tmp:exec,mode=1777,size={SCRATCH_BYTES // 2**20}m"],  # noqa: S108 - the container's own
        "volumes": [_mounted(folder, MODELS)],
        "ports": [f"127.0.0.1:{port}:{port}"],
        "healthcheck": {
            "test": ["CMD", "python3", "-c", _HEALTHY, f"http://127.0.0.1:{port}{_health(champion)}"],
            "interval": "10s",
            "timeout": "6s",
            "retries": 3,
            "start_period": f"{champion.startup_seconds}s",
            "start_interval": "2s",
        },
        "stop_grace_period": "60s",
        "labels": champion.metadata(),
        "deploy": {"resources": {"limits": limits, "reservations": reserved}},
    }
    if resources.shared_memory_bytes:
        server["shm_size"] = f"{resources.shared_memory_bytes // 2**20}m"
    return server


def _health(champion: Champion) -> str:
    return getattr(champion.engine, "health_path", "/health")


def _escaped(words: Any) -> list[str]:
    """Compose replaces `$NAME` by a variable; `$$` is a dollar sign."""
    return [str(word).replace("$", "$$") for word in words]


def _mounted(source: str, target: str) -> dict[str, Any]:
    # A folder that is missing is an error and not made, empty, by the daemon.
    bind = {"create_host_path": False}
    return {"type": "bind", "source": source, "target": target, "read_only": True, "bind": bind}


def _prometheus() -> dict[str, Any]:
    return {
        "image": PROMETHEUS_IMAGE,
        **_HARDENED,
        "volumes": [
            _mounted("./prometheus.yml", "/etc/prometheus/prometheus.yml"),
            {"type": "volume", "source": "prometheus", "target": "/prometheus"},
        ],
        "ports": ["127.0.0.1:9090:9090"],
    }


def _grafana() -> dict[str, Any]:
    dashboards, provisioning = "/var/lib/grafana-dashboards", "/etc/grafana/provisioning"
    return {
        "image": GRAFANA_IMAGE,
        **{**_HARDENED, "user": "472"},
        "tmpfs": ["/tmp"],  # noqa: S108 - the container's own
        "environment": {
            "GF_AUTH_ANONYMOUS_ENABLED": "true",
            "GF_AUTH_DISABLE_LOGIN_FORM": "true",
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
        },
        "volumes": [
            _mounted("./grafana/datasource.yaml", f"{provisioning}/datasources/quantbench.yaml"),
            _mounted("./grafana/provider.yaml", f"{provisioning}/dashboards/quantbench.yaml"),
            _mounted("./grafana/dashboard.json", f"{dashboards}/quantbench.json"),
            {"type": "volume", "source": "grafana", "target": "/var/lib/grafana"},
        ],
        "ports": ["127.0.0.1:3000:3000"],
    }
