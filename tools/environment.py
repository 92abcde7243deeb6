"""Make and lock Quantbench's environment with nothing but Python 3.11: `install` fills .venv, `lock` writes the locks.

`install` is safe to kill and to repeat: it does nothing when .venv is what lock and pyproject.toml ask for, and starts
.venv afresh when an earlier installation was cut short. Settings: QB_DEVICE=auto|cpu|cuda.
"""

from __future__ import annotations  # so that an older Python gets as far as the message that names the right one

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "quantbench.stamp"
UNFINISHED = VENV / "quantbench.unfinished"
UV = "uv==0.13.8"
PYTHON_VERSION = (3, 11)
NEEDED_BYTES = {"cpu": 6 * 10**9, "cuda": 20 * 10**9}
COMFORTABLE_MEMORY_BYTES = 8 * 10**9
OVERRIDES = {"cpu": ["overrides.txt", "overrides-cpu.txt"], "cuda": ["overrides.txt"]}


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def main(arguments: list[str]) -> int:
    """Run `install` (with `--quiet`: silent when nothing is to do) or `lock` (further arguments go to uv)."""
    try:
        check_platform()
        # Two calls at once take turns; the lock ends with the process, however it ends.
        with (ROOT / "pyproject.toml").open() as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if arguments[:1] == ["install"]:
                install(quiet="--quiet" in arguments)
            elif arguments[:1] == ["lock"]:
                lock(arguments[1:])
            else:
                raise SetupError("usage: python3.11 tools/environment.py install [--quiet] | lock [uv arguments]")
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def install(quiet: bool) -> None:
    """Fill .venv with what the device's lock names, and the project itself, editable."""
    device, why = choose_device()
    lock_file = ROOT / "requirements" / f"{device}.lock"
    wanted = stamp_of(lock_file)
    if STAMP.is_file() and STAMP.read_text() == wanted and VENV_PYTHON.exists():
        if not quiet:
            say(f"environment is up to date ({device}: {why})")
        return
    start = time.monotonic()
    say(f"setting up for {device.upper()}: {why}; QB_DEVICE=cpu or QB_DEVICE=cuda chooses otherwise")
    check_resources(device)
    make_venv()
    environment = uv_environment(device)
    UNFINISHED.touch()
    STAMP.unlink(missing_ok=True)
    count = sum(1 for line in lock_file.read_text().splitlines() if re.match(r"[a-z0-9]", line))
    say(f"installing {count} packages of requirements/{lock_file.name} (seconds when cached, minutes when not)")
    run_uv(["pip", "sync", str(lock_file), *torch_backend(device, lock_file, environment)], environment)
    say("installing quantbench itself")
    run_uv(["pip", "install", "--no-deps", "--editable", str(ROOT)], environment)
    STAMP.write_text(wanted)
    UNFINISHED.unlink()
    say(f"environment is ready after {time.monotonic() - start:.0f} s")


def lock(arguments: list[str]) -> None:
    """Write both locks from pyproject.toml. Pins of the present locks are kept where they still fit.

    The locks carry no hashes: torch's CPU wheel comes from PyTorch's own index or from a folder of the machine's,
    and the two need not be the same file.
    """
    make_venv()
    for device, overrides in OVERRIDES.items():
        environment = uv_environment(device)
        lock_file = ROOT / "requirements" / f"{device}.lock"
        command = ["pip", "compile", "pyproject.toml", "--extra", device, "--extra", "dev", "--quiet"]
        command += [part for name in overrides for part in ("--override", f"requirements/{name}")]
        command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--no-emit-index-url"]
        command += ["--custom-compile-command", "make lock", "--output-file", f"requirements/{lock_file.name}"]
        run_uv([*command, *torch_backend(device, lock_file, environment), *arguments], environment)
        say(f"requirements/{lock_file.name} is written")


def check_platform() -> None:
    """Refuse what the engines have no wheels for."""
    if sys.version_info[:2] != PYTHON_VERSION:
        raise SetupError(
            f"Quantbench needs Python 3.11; {sys.executable} is {platform.python_version()}.\n"
            "  Install it (Debian, Ubuntu: python3.11 and python3.11-venv) or name one: QB_PYTHON=/path/to/python3.11"
        )
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"the serving engine has wheels for Linux on x86_64; this is {sys.platform} on {platform.machine()}.\n"
            "  Use such a machine, a container or a virtual machine."
        )


def choose_device() -> tuple[str, str]:
    """`cpu` or `cuda`, and the reason."""
    asked = os.environ.get("QB_DEVICE", "auto")
    if asked in OVERRIDES:
        return asked, f"QB_DEVICE={asked} asks for it"
    if asked != "auto":
        raise SetupError(f"QB_DEVICE={asked} is unknown; it takes auto, cpu or cuda")
    gpus = list(Path("/proc/driver/nvidia/gpus").glob("*")) or nvidia_smi_gpus()
    return ("cuda", f"the NVIDIA driver shows {len(gpus)} GPU(s)") if gpus else ("cpu", "no NVIDIA GPU answers")


def nvidia_smi_gpus() -> list[str]:
    """One line a GPU; empty where nvidia-smi is missing or fails."""
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return []
    result = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False)
    return [line for line in result.stdout.splitlines() if line.startswith("GPU ")]


def stamp_of(lock_file: Path) -> str:
    """What .venv depends on: its place, the lock, the project's metadata and this script."""
    parts = [str(VENV).encode(), lock_file.read_bytes(), (ROOT / "pyproject.toml").read_bytes()]
    return hashlib.sha256(b"\0".join([*parts, Path(__file__).read_bytes()])).hexdigest()


def check_resources(device: str) -> None:
    """Refuse a disk that will not hold the environment; warn of little memory."""
    held = 0 if not VENV.exists() else sum(p.stat().st_size for p in VENV.rglob("*") if p.is_file())
    free, needed = shutil.disk_usage(ROOT).free, max(NEEDED_BYTES[device] - held, 10**9)
    if free < needed:
        raise SetupError(
            f"{ROOT} has {free / 1e9:.1f} GB free and the {device.upper()} environment needs {needed / 1e9:.0f} GB.\n"
            "  Free some space (`uv cache clean`, an old workspace/) or move the repository to a larger disk."
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < COMFORTABLE_MEMORY_BYTES:
        say(f"warning: {memory / 1e9:.1f} GB of memory; the demo wants 8 GB and may fail with less")


def make_venv() -> None:
    """Make .venv with uv in it where it is not whole."""
    if UNFINISHED.exists() or not runs([str(VENV_PYTHON), "-c", "import sys; assert sys.version_info[:2] == (3, 11)"]):
        say(f"making .venv with Python {platform.python_version()} ({sys.executable})")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)], remedy="Debian and Ubuntu: install python3.11-venv.")
    if not runs([str(VENV / "bin" / "uv"), "--version"], expect=UV.split("==")[1]):
        if not runs([str(VENV_PYTHON), "-m", "pip", "--version"]):
            run([str(VENV_PYTHON), "-m", "ensurepip"], remedy="Debian and Ubuntu: install python3.11-venv.")
        say(f"installing {UV}")
        run([str(VENV_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])


def uv_environment(device: str) -> dict[str, str]:
    """The variables that uv is run with: pip's settings hold for uv too, so a machine with a mirror is set up once."""
    settings = pip_settings()
    environment = {**os.environ, "VIRTUAL_ENV": str(VENV)}
    if "index-url" in settings:
        environment.setdefault("UV_DEFAULT_INDEX", settings["index-url"])
    if device == "cpu" and "find-links" in settings:
        environment.setdefault("UV_FIND_LINKS", settings["find-links"])
    if device == "cuda":
        # A folder with a CPU build would win: 2.13.0+cpu satisfies ==2.13.0 and sorts above it.
        environment.pop("UV_FIND_LINKS", None)
    return environment


def pip_settings() -> dict[str, str]:
    """pip's own settings (files and PIP_ variables) by name; the environment's come last and win."""
    command = [str(VENV_PYTHON), "-m", "pip", "config", "list"]
    if not runs(command):
        return {}
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Lines such as: global.find-links='/srv/wheels'
    return dict(re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listing, flags=re.MULTILINE))


def torch_backend(device: str, lock_file: Path, environment: dict[str, str]) -> list[str]:
    """uv's option that fetches torch's CPU wheel from PyTorch's index, unless a folder of find-links has it."""
    if device == "cuda":
        return []
    pinned = re.search(r"^torch==(\S+)", lock_file.read_text(), flags=re.MULTILINE) if lock_file.exists() else None
    version = pinned.group(1) if pinned else "*+cpu"
    for place in environment.get("UV_FIND_LINKS", "").replace(",", " ").split():
        folder = Path(place.removeprefix("file://"))
        if any(folder.glob(f"torch-{version}-cp311-*.whl")):
            say(f"torch comes from {folder} (pip's find-links)")
            return []
    return ["--torch-backend", "cpu"]


def run_uv(arguments: list[str], environment: dict[str, str]) -> None:
    """Run .venv's uv; its progress goes to the terminal."""
    run([str(VENV / "bin" / "uv"), *arguments], environment, remedy="Is the network there? The same command goes on.")


def run(command: list[str], environment: dict[str, str] | None = None, remedy: str = "") -> None:
    """Run a command in the repository's root; its failure is a SetupError."""
    code = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    if code != 0:
        raise SetupError(f"`{' '.join(command)}` ended with {code} (its own message is above). {remedy}".rstrip())


def runs(command: list[str], expect: str = "") -> bool:
    """Whether the command works and prints `expect`."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return False
    return result.returncode == 0 and expect in result.stdout


def say(text: str) -> None:
    """One line to the user."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
