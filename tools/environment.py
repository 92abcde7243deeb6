"""Make and lock Quantbench's environments, started by any Python of 3.9 or later.

`install` fills .venv from environments/main, `fill` a folder from another environment's lock (what `quantbench env`
calls), `wheelhouse` a folder with all that `install` fetches, for machines that reach no index, `lock` writes all
locks, `about` says which Python is which. The locks are for Python 3.11: the Python that runs this is taken where it is
one, else uv finds one or fetches it. uv is the one on PATH, or a pinned one that pip puts into .uv.

`install` is safe to kill and to repeat: it does nothing when .venv is what lock and pyproject.toml ask for, and starts
.venv afresh when an earlier installation was cut short. Settings: QB_DEVICE=auto|cpu|cuda, QB_WHEELHOUSE (a folder that
all comes from, and nothing from elsewhere), pip's and uv's own.
"""

from __future__ import annotations  # Python 3.9 cannot evaluate `str | None`

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "quantbench.stamp"
UNFINISHED = VENV / "quantbench.unfinished"
CHOSEN = VENV / "quantbench.python"
"""Why .venv has the Python that it has, in a line, for `about` and `quantbench doctor`."""
UV = "uv==0.13.8"
UV_FOLDER = ROOT / ".uv"
OLDEST_UV = (0, 9)
PYTHON = (3, 11)
"""Of .venv: what the locks are for."""
OLDEST_STARTER = (3, 9)
NEEDED_MODULES = ("bz2", "ctypes", "lzma", "sqlite3", "ssl", "zlib")
"""Of the standard library, used by the engines; a Python that was compiled without their C libraries lacks them."""
PIP_FOR_UV = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
"""pip's settings that hold for uv too -> uv's variable."""
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SEEDS = ("pip", "setuptools>=80", "wheel")
"""What an environment begins with, and what builds the project."""
NETWORK = "Is the network there? The same command goes on."
NEEDED_BYTES = {"cpu": 6 * 10**9, "cuda": 20 * 10**9}
COMFORTABLE_MEMORY_BYTES = 8 * 10**9
DEVICES = ("cpu", "cuda")
NEWER_GLIBC = {"envoy": "manylinux_2_31"}
"""Environments whose wheels are made for nothing older; the others run with glibc 2.28."""
MAIN = "main"
"""The environment of .venv; what it holds is asked for in pyproject.toml, what another does in its requirements.txt."""


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def main(arguments: list[str]) -> int:
    """Run `install` (with `--quiet`: silent when nothing is to do), `fill`, `wheelhouse`, `lock` (further arguments go
    to uv) or `about`."""
    try:
        check_starter()
        if arguments == ["about"]:
            about()
            return 0
        check_platform()
        if arguments[:1] == ["fill"] and len(arguments) == 4 and arguments[3] in DEVICES:
            fill(Path(arguments[1]).absolute(), Path(arguments[2]).absolute(), arguments[3])
            return 0
        with our_turn():
            if arguments[:1] == ["install"]:
                install(quiet="--quiet" in arguments)
            elif arguments[:1] == ["wheelhouse"] and len(arguments) == 2:
                make_wheelhouse(Path(arguments[1]).absolute())
            elif arguments[:1] == ["lock"]:
                lock(arguments[1:])
            else:
                raise SetupError(
                    "usage: python3 tools/environment.py install [--quiet] | fill FOLDER LOCK cpu|cuda"
                    " | wheelhouse FOLDER | lock [uv arguments] | about"
                )
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def our_turn() -> Iterator[None]:
    """Two calls at once take turns; the lock ends with the process, however it ends."""
    with (ROOT / "pyproject.toml").open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def install(quiet: bool) -> None:
    """Fill .venv with what the device's lock names, and the project itself, editable."""
    device, why = choose_device()
    lock_file = ROOT / "environments" / MAIN / f"{device}.lock"
    wanted = stamp_of(lock_file)
    if STAMP.is_file() and STAMP.read_text() == wanted and VENV_PYTHON.exists():
        if not quiet:
            say(f"environment is up to date ({device}: {why})")
        return
    start = time.monotonic()
    say(f"setting up for {device.upper()}: {why}; QB_DEVICE=cpu or QB_DEVICE=cuda chooses otherwise")
    check_resources(device)
    uv = bring_uv()
    make_venv(uv, uv_environment(device))
    environment = uv_environment(device)
    UNFINISHED.touch()
    STAMP.unlink(missing_ok=True)
    count = sum(1 for line in lock_file.read_text().splitlines() if re.match(r"[a-z0-9]", line))
    say(f"installing {count} packages of {lock_file.relative_to(ROOT)} (seconds when cached, minutes when not)")
    sync(uv, VENV_PYTHON, lock_file, device, environment)
    say("installing quantbench itself")
    command = [uv, "pip", "install", "--python", str(VENV_PYTHON), "--no-deps", "--editable", str(ROOT)]
    run(command, environment, NETWORK)
    STAMP.write_text(wanted)
    UNFINISHED.unlink()
    say(f"environment is ready after {time.monotonic() - start:.0f} s")


def fill(folder: Path, lock_file: Path, device: str) -> None:
    """Make `folder` an environment of its own with what the lock names, afresh. Who calls sees to turns and stamps."""
    with our_turn():
        uv = bring_uv()
    environment = uv_environment(device)
    python, why = choose_python(uv) or fetch_python(uv, environment)
    say(f"making {folder} with {python}: {why}")
    run([uv, "venv", "--quiet", "--clear", "--python", python, str(folder)], environment, NETWORK)
    sync(uv, folder / "bin" / "python", lock_file, device, environment)


def make_wheelhouse(folder: Path) -> None:
    """Fill `folder` with the wheels of the device's lock, of uv and of what installs the project itself.

    By pip of .venv, whose Python they are for; what is published as source alone is built. What lies there is not
    fetched again.
    """
    if os.environ.get("QB_WHEELHOUSE"):
        raise SetupError("a wheel house is filled from an index.\n  Leave WHEELHOUSE away: make wheelhouse TO=FOLDER")
    install(quiet=True)
    device = choose_device()[0]
    lock_file = ROOT / "environments" / MAIN / f"{device}.lock"
    environment = uv_environment(device)
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(VENV_PYTHON), "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--wheel-dir", str(folder), "--find-links", str(folder)]
    torch = ["--extra-index-url", TORCH_CPU_INDEX] if torch_backend(device, lock_file, environment) else []
    run([*command, "-r", str(lock_file), *torch], environment, NETWORK)
    # Apart: the lock may hold another version of them.
    run([*command, UV, *SEEDS], environment, NETWORK)
    wheels = list(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    say(f"{folder} has {len(wheels)} wheels, {size / 1e9:.2f} GB; elsewhere: make setup WHEELHOUSE={folder}")


def sync(uv: str, python: Path, lock_file: Path, device: str, environment: dict[str, str]) -> None:
    """Have uv bring an environment to what the lock names, by hard links into its cache where that is on this disk."""
    command = [uv, "pip", "sync", "--python", str(python), str(lock_file)]
    run([*command, *torch_backend(device, lock_file, environment)], environment, NETWORK)


def lock(arguments: list[str]) -> None:
    """Write the locks of all environments. Pins of the present ones are kept where they still fit.

    Of an environment beside the main one, for each device that it has a lock for: an empty file asks for one. Always
    by the pinned uv, so that the files do not depend on who writes them. The locks carry no hashes: torch's CPU wheel
    comes from PyTorch's own index or from a folder of the machine's, and the two need not be the same file.
    """
    uv = bring_uv(pinned=True)
    make_venv(uv, uv_environment("cpu"))
    for folder in sorted((ROOT / "environments").iterdir()):
        for device in DEVICES:
            lock_file = (folder / f"{device}.lock").relative_to(ROOT)
            if folder.name != MAIN and not (ROOT / lock_file).exists():
                continue
            environment = uv_environment(device)
            asked = [str(folder.relative_to(ROOT) / "requirements.txt")]
            if folder.name == MAIN:
                asked = ["pyproject.toml", "--extra", device, "--extra", "dev"]
            overrides = [folder / name for name in ("overrides.txt", f"overrides-{device}.txt")]
            command = ["pip", "compile", *asked, "--quiet"]
            command += [
                part for path in overrides if path.exists() for part in ("--override", str(path.relative_to(ROOT)))
            ]
            command += ["--python", str(VENV_PYTHON), "--python-version", version_text(PYTHON)]
            platform_name = "x86_64-" + NEWER_GLIBC.get(folder.name, "manylinux_2_28")
            command += ["--python-platform", platform_name, "--no-emit-index-url"]
            command += ["--custom-compile-command", "make lock", "--output-file", str(lock_file)]
            backend = torch_backend(device, ROOT / lock_file, environment)
            run([uv, *command, *backend, *arguments], environment, NETWORK)
            say(f"{lock_file} is written")


def about() -> None:
    """Say which Python starts the set-up, and which one .venv has and why."""
    print(f"Python {platform.python_version()} ({sys.executable}) starts the set-up; QB_PYTHON names another")
    found = output_of([str(VENV_PYTHON), "-c", "import platform; print(platform.python_version())"])
    if found:
        why = CHOSEN.read_text().strip() if CHOSEN.is_file() else "of an earlier set-up"
        print(f"Python {found} ({VENV_PYTHON.resolve()}) is that of .venv: {why}")
    else:
        print(f".venv is not made yet; it gets a Python {version_text(PYTHON)} of this machine, or uv fetches one")


def check_starter() -> None:
    """Refuse to go on with a Python that this script was not written for."""
    if sys.version_info[:2] < OLDEST_STARTER:
        raise SetupError(
            f"the set-up is started by Python {version_text(OLDEST_STARTER)} or later;"
            f" {sys.executable} is {platform.python_version()}.\n"
            "  Name another: make QB_PYTHON=/path/to/python3"
        )


def check_platform() -> None:
    """Refuse what the engines have no wheels for."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"the serving engine has wheels for Linux on x86_64; this is {sys.platform} on {platform.machine()}.\n"
            "  Use such a machine, a container or a virtual machine."
        )


def choose_device() -> tuple[str, str]:
    """`cpu` or `cuda`, and the reason."""
    asked = os.environ.get("QB_DEVICE", "auto")
    if asked in DEVICES:
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


def bring_uv(pinned: bool = False) -> str:
    """The path of uv: of .uv, where an earlier set-up put it, else on PATH and new enough, else pinned and fetched now.

    Args:
        pinned: Only this project's version will do.
    """
    own, version = str(UV_FOLDER / "bin" / "uv"), UV.split("==")[1]
    if output_of([own, "--version"]).startswith(f"uv {version}"):
        return own
    on_path = shutil.which("uv")
    if on_path and not pinned:
        found = output_of([on_path, "--version"])
        numbers = re.match(r"uv (\d+)\.(\d+)\.", found)
        if numbers and (int(numbers.group(1)), int(numbers.group(2))) >= OLDEST_UV:
            return on_path
        say(f"{on_path} is {found or 'not running'}; {version_text(OLDEST_UV)} or later is needed")
    if UV_FOLDER.exists():
        shutil.rmtree(UV_FOLDER)
    # What a user may have set for every pip would forbid this one.
    environment = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_ROOT_USER_ACTION": "ignore"}
    if folder := wheelhouse():
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    command = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV]
    if output_of([sys.executable, "-m", "pip", "--version"]):
        command = [sys.executable, *command, "--target", str(UV_FOLDER)]
    elif output_of([sys.executable, "-c", "import ensurepip, venv; print(ensurepip.version())"]):
        run([sys.executable, "-m", "venv", str(UV_FOLDER)])
        command = [str(UV_FOLDER / "bin" / "python"), *command]
    else:
        raise SetupError(
            f"{sys.executable} has neither pip nor venv, and there is no uv to do without them.\n"
            "  Install one of the three (Debian, Ubuntu: apt install python3-venv), or name another Python:"
            " make QB_PYTHON=/path/to/python3"
        )
    say(f"installing {UV} into .uv")
    run(command, environment, NETWORK)
    return own


def make_venv(uv: str, environment: dict[str, str]) -> None:
    """Make .venv where it is not whole."""
    ours = f"import sys; print(sys.version_info[:2] == {PYTHON})"
    if not UNFINISHED.exists() and output_of([str(VENV_PYTHON), "-c", ours]) == "True":
        return
    python, why = choose_python(uv) or fetch_python(uv, environment)
    say(f"making .venv with {python}: {why}")
    run([uv, "venv", "--quiet", "--clear", "--seed", "--python", python, str(VENV)], environment, NETWORK)
    CHOSEN.write_text(f"{why}\n")


def choose_python(uv: str) -> tuple[str, str] | None:
    """A Python 3.11 with all that the engines import, and why it: the one that runs this, or one that uv finds."""
    candidates = {}
    if sys.version_info[:2] == PYTHON and sys.implementation.name == "cpython":
        candidates[sys.executable] = "the set-up was started with it"
    # Not one of a virtual environment, such as the .venv that is about to be replaced.
    found = output_of([uv, "python", "find", "--system", "--no-python-downloads", f"cpython@{version_text(PYTHON)}"])
    if found:
        candidates.setdefault(found, f"uv found it; the set-up was started with Python {platform.python_version()}")
    program = "\n".join(f"try: import {name}\nexcept ImportError: print('{name}')" for name in NEEDED_MODULES)
    for python, why in candidates.items():
        lacking = output_of([python, "-c", f"{program}\nprint('.')"]).split()
        if lacking == ["."]:
            return python, why
        say(f"not {python}: it was compiled without {', '.join(lacking[:-1]) or 'what makes it run'}")
    return None


def fetch_python(uv: str, environment: dict[str, str]) -> tuple[str, str]:
    """Let uv fetch a Python 3.11 into its own folder; the path, and why it."""
    version = version_text(PYTHON)
    say(f"no Python {version} is here: uv fetches one (30 MB; it gives up on a silent network within two minutes)")
    managed = {name: value for name, value in environment.items() if name != "UV_PYTHON_PREFERENCE"}
    fetched = subprocess.run([uv, "python", "install", "--no-bin", version], cwd=ROOT, env=managed, check=False)
    python = output_of([uv, "python", "find", "--managed-python", "--no-python-downloads", version], managed)
    if fetched.returncode or not python:
        raise SetupError(
            f"there is no Python {version}, and uv could not fetch one (its own message is above).\n"
            f"  Install Python {version} or name one: make QB_PYTHON=/path/to/python{version};"
            " UV_PYTHON_INSTALL_MIRROR names a mirror."
        )
    return python, f"uv fetched it; the set-up was started with Python {platform.python_version()}"


def uv_environment(device: str) -> dict[str, str]:
    """The variables that uv is run with: pip's settings hold for uv too, so a machine with a mirror is set up once."""
    settings = pip_settings()
    environment = dict(os.environ)
    for name in ("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT"):
        environment.pop(name, None)  # They would send the packages elsewhere.
    for setting, variable in PIP_FOR_UV.items():
        if setting in settings:
            environment.setdefault(variable, settings[setting])
    if device == "cpu" and "find-links" in settings:
        environment.setdefault("UV_FIND_LINKS", settings["find-links"])
    if device == "cuda":
        # A folder with a CPU build would win: 2.13.0+cpu satisfies ==2.13.0 and sorts above it.
        environment.pop("UV_FIND_LINKS", None)
    if folder := wheelhouse():
        environment |= {"UV_FIND_LINKS": str(folder), "UV_NO_INDEX": "1", "UV_OFFLINE": "1"}
    return environment


def wheelhouse() -> Path | None:
    """The folder that all packages come from; None where an index gives them."""
    named = os.environ.get("QB_WHEELHOUSE")
    if not named:
        return None
    folder = Path(named)
    if not any(folder.glob("*.whl")):
        raise SetupError(
            f"WHEELHOUSE={named} holds no wheels.\n  Fill it where there is a network: make wheelhouse TO=FOLDER"
        )
    return folder.absolute()


def pip_settings() -> dict[str, str]:
    """pip's own settings (files and PIP_ variables) by name; the environment's come last and win."""
    for python in (sys.executable, UV_FOLDER / "bin" / "python", VENV_PYTHON):
        listing = output_of([str(python), "-m", "pip", "config", "list"])
        if listing:
            # Lines such as: global.find-links='/srv/wheels'
            return dict(re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listing, flags=re.MULTILINE))
    return {}


def torch_backend(device: str, lock_file: Path, environment: dict[str, str]) -> list[str]:
    """uv's option that fetches torch's CPU wheel from PyTorch's index, unless a folder of find-links has it."""
    if device == "cuda" or wheelhouse():
        return []
    pinned = re.search(r"^torch==(\S+)", lock_file.read_text(), flags=re.MULTILINE) if lock_file.exists() else None
    version = pinned.group(1) if pinned else "*+cpu"
    for place in environment.get("UV_FIND_LINKS", "").replace(",", " ").split():
        folder = Path(place.removeprefix("file://"))
        if any(folder.glob(f"torch-{version}-cp311-*.whl")):
            say(f"torch comes from {folder} (pip's find-links)")
            return []
    return ["--torch-backend", "cpu"]


def run(command: list[str], environment: dict[str, str] | None = None, remedy: str = "") -> None:
    """Run a command in the repository's root; its failure is a SetupError."""
    code = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    if code != 0:
        raise SetupError(f"`{' '.join(command)}` ended with {code} (its own message is above). {remedy}".rstrip())


def output_of(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What the command prints, stripped; empty where it cannot be run or fails."""
    try:
        result = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def version_text(version: tuple[int, ...]) -> str:
    """(3, 11) -> 3.11"""
    return ".".join(map(str, version))


def say(text: str) -> None:
    """One line to the user."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
