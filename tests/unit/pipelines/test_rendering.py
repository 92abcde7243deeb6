"""The gateway's policy for other engines: what is written, what is refused, and what a schema sees."""

from pathlib import Path

CONFIGS = {
    "the least": "version: 1\nname: live\nmodel: demo\n",
    "a split": (
        "version: 1\nname: live\nmodel: demo\nsplit: {share: 0.05, key_header: x-user}\nmirror: {share: 0.125}\n"
    ),
    "odd numbers": (
        "version: 1\nname: live\nmodel: 'a \"model\" # of: {odd} names'\nmirror: {share: 0, queue: 1}\n"
        "patience: {connect_seconds: 0.25, silence_seconds: 86400}\nlisten: {port: 65535, body_mib: 0.5}\n"
        "render: {champion: {service: a, address: 10.0.0.7}, candidate: {service: b, address: b.example.org}}\n"
    ),
}


def rendered_file(folder: Path, name: str, target: str) -> Path:
    """What the command writes for one of CONFIGS."""
    from pipelines.cli import main

    config = folder / "gateway.yaml"
    config.write_text(CONFIGS[name])
    assert main(["shadow", "render", str(config), "--target", target, "--output", str(folder)]) == 0
    return folder / f"{target}.yaml"
