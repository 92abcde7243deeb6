"""The place of the campaign: one folder with a model, a recipe, a workspace, and the run that nothing disturbed.

<root>/model/ suite.yaml recipe.yaml     what is asked
<root>/workspace/                        the workspace of the fault that is being tried, always at this path
<root>/golden/                           the workspace as the undisturbed run left it
<root>/home/ tmp/ warm/                  HOME and TMPDIR of every process, sockets of warm ones
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.faults.processes import Role, Seen, below, by_role, gone, kill_all
from tests.faults.program import WARM
from tests.faults.warm import Warm
from tests.tiny_llama import make_tiny_llama

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 180.0
"""No run of the tiny recipe takes so long, whatever was done to it: what still runs then waits for ever."""

RECIPE = """
version: 1
name: faults
source: {{kind: folder, path: "{folder}/model"}}
calibration: {{source: self, samples: 4, tokens: 16}}
methods:
  int8: {{method: bnb_int8}}
  nf4: {{method: bnb_nf4}}
evaluation: {{suite: "{folder}/suite.yaml"}}
serving: {{max_model_len: 256, max_num_seqs: 8, kv_cache_gib: 0.25, start_deadline_seconds: 120}}
load: {{profiles: [{{kind: synchronous}}], prompts: {{short: 16}}, requests: 2, output_tokens: 4}}
checks: {{batching: null, starvation: null, sharding: null}}
deadlines: {{suspended_seconds: 4, silent_minutes: 1, answer_minutes: 0.5}}
"""

SUITE = """
name: tiny
version: "1"
description: A few items of three categories of the demo suite, one of them a perplexity.
categories:
  - {name: grammar, description: d, chance: 0.5, metric: acc, tasks: [demo_grammar], limit: 12}
  - {name: commonsense, description: d, metric: acc, tasks: [demo_commonsense], limit: 8}
  - {name: language, description: d, metric: word_perplexity, unit: perplexity, higher_is_better: false,
     tasks: [demo_language], limit: 8}
"""


class Finished(NamedTuple):
    """How a command ended."""

    exit_code: int | None
    """Negative for a signal; None where it had to be ended, since it waited for ever."""
    stdout: str
    stderr: str
    seconds: float
    hung: list[Seen] = []
    """What was alive below it then."""

    @property
    def record(self) -> dict[str, Any] | None:
        """The JSON on stdout."""
        with suppress(ValueError):
            found = json.loads(self.stdout)
            return found if isinstance(found, dict) else None
        return None

    @property
    def text(self) -> str:
        """All that a user sees of it, and what its rows say of failures."""
        record = self.record
        failures = [one["result"]["failure"] for one in record["outcomes"]] if record and "outcomes" in record else []
        said = [f"{one['what']}\n  remedy: {one['remedy']}" for one in failures if one]
        tracking = [str(record.get("tracking"))] if record else []
        return "\n".join([self.stderr, *(said + tracking if record else [self.stdout])])


@dataclass
class Command:
    """A command that runs."""

    process: "subprocess.Popen[str]"
    started: float = field(default_factory=time.monotonic)


class Lab:
    """Runs commands in the campaign's folder and brings its workspace back to what it was.

    Args:
        root: Is made where it is not there. Its path is short, since sockets lie below.
        isolated: All processes and all shared memory that can be seen are the campaign's.
    """

    def __init__(self, root: Path, *, isolated: bool) -> None:
        self.root, self.isolated = root, isolated
        self.workspace, self.golden = root / "workspace", root / "golden"
        self.recipe = root / "recipe.yaml"
        self.tmp = root / "tmp"
        for name in ("home", "tmp", "warm"):
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).mkdir(parents=True, mode=0o700)
        self.env = {
            "HOME": str(root / "home"),
            "TMPDIR": str(self.tmp),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "",
            "COLUMNS": "200",
        }
        self.warm = Warm(root / "warm", self.env)
        self.running: list[Command] = []
        self.old_runs: set[str] = set()
        """Of the restored workspace: what they finished may have been forgotten since."""

    def furnish(self) -> None:
        """Write model, suite and recipe."""
        self.shared_memory.mkdir(parents=True, exist_ok=True)
        for name in ("model", "workspace", "golden"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        make_tiny_llama(self.root / "model")
        (self.root / "suite.yaml").write_text(SUITE)
        self.recipe.write_text(RECIPE.format(folder=self.root))

    def restore(self, golden: Path | None = None, *, empty: bool = False) -> None:
        """The workspace as after the undisturbed run, or none at all; times of files are kept, inodes are new."""
        shutil.rmtree(self.workspace, ignore_errors=True)
        self.clear_tmp()
        if not empty:
            subprocess.run(["cp", "-a", str(golden or self.golden), str(self.workspace)], check=True)
        self.old_runs = {path.name for path in self.workspace.glob("runs/*")}

    def keep_golden(self) -> None:
        """The workspace as it is now is what `restore` brings back."""
        subprocess.run(["cp", "-a", str(self.workspace), str(self.golden)], check=True)

    @property
    def shared_memory(self) -> Path:
        """Where files of shared memory are looked for; nowhere while others have some too."""
        return Path("/dev/shm") if self.isolated else self.root / "home" / "no-shared-memory"  # noqa: S108

    def clear_tmp(self) -> None:
        """An empty TMPDIR."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(mode=0o700)

    def start(
        self,
        *arguments: str,
        workspace: Path | None = None,
        env: Mapping[str, str] | None = None,
        cold: bool = False,
        prefix: Sequence[str] = (),
        cwd: Path | None = None,
        stdout: int | None = None,
    ) -> Command:
        """Start `quantbench`.

        Args:
            arguments: Without `--workspace` and `--json`, which are added where `run` is meant.
            workspace: The lab's own where None.
            env: On top of the lab's.
            cold: With nothing but what the product starts itself, real engines included.
            prefix: A command that runs the command.
            stdout: Where the result is to go, in place of being read.
        """
        module = "pipelines.cli" if cold else "tests.faults.program"
        argv = [*prefix, sys.executable, "-P", "-m", module, *arguments]
        argv += ["--workspace", str(workspace or self.workspace)]
        warm = {} if cold else {WARM: str(self.warm.folder)}
        out, err = (tempfile.TemporaryFile("w+", errors="replace") for _ in range(2))  # noqa: SIM115 - `finish` closes
        process = subprocess.Popen(
            argv,
            env={**os.environ, **self.env, **warm, **(env or {})},
            cwd=cwd or self.root,
            stdin=subprocess.DEVNULL,
            stdout=stdout or out,
            stderr=err,
            text=True,
            start_new_session=True,
        )
        process.files = out, err  # type: ignore[attr-defined]
        command = Command(process)
        self.running.append(command)
        return command

    def finish(
        self,
        command: Command,
        seconds: float = RUN_SECONDS,
        on_tick: Callable[[float], None] = lambda passed: None,
    ) -> Finished:
        """Wait for its end.

        Args:
            seconds: After these it is ended with all below it.
            on_tick: Called many times a second with the seconds since its start.
        """
        hung: list[Seen] = []
        while command.process.poll() is None:
            self.warm.grant()
            passed = time.monotonic() - command.started
            on_tick(passed)
            if passed > seconds:
                hung = self.others()
                kill_all([Seen(command.process.pid, 0, "", ""), *hung])
                command.process.wait()
            time.sleep(0.01)
        self.running.remove(command)
        texts = []
        for file in command.process.files:  # type: ignore[attr-defined]
            file.seek(0)
            texts.append(file.read())
            file.close()
        code = None if hung else command.process.returncode
        return Finished(code, *texts, time.monotonic() - command.started, hung)

    def run(self, *arguments: str, seconds: float = RUN_SECONDS, **how: Any) -> Finished:
        """Start a command and wait for its end; the campaign's recipe when no argument is given."""
        return self.finish(self.start(*(arguments or ("run", str(self.recipe), "--json")), **how), seconds)

    def roles(self) -> dict[Role, list[int]]:
        """Who works for the commands that run now."""
        found = by_role(below(os.getpid()))
        return found | {"run": [command.process.pid for command in self.running]}

    def others(self) -> list[Seen]:
        """Everything that runs for a command, warm processes left out."""
        return [one for one in below(os.getpid()) if one.pid not in self._kept()]

    def left_processes(self, seconds: float = 15.0) -> list[Seen]:
        """What is still there some seconds after the last command's end; it is ended."""
        left = gone(os.getpid(), self._kept(), seconds)
        kill_all(left)
        return left

    def _kept(self) -> set[int]:
        """The warm processes and their guards."""
        guards = self.warm.pids
        return guards | {one.pid for one in below(os.getpid()) if one.parent in guards} | {os.getpid()}

    def stop_all(self) -> None:
        """End the commands that run, and what they have started."""
        for command in self.running[:]:
            with suppress(ProcessLookupError):
                os.killpg(command.process.pid, signal.SIGKILL)
            command.process.wait()
        self.running.clear()
        self.left_processes(5.0)

    def close(self) -> None:
        """End everything."""
        self.stop_all()
        self.warm.__exit__()
