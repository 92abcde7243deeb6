"""`make faults`: inject faults into runs and judge each; see docs/faults.md.

python -P -m tests.faults --seed 7 --count 1000 --minutes 600
python -P -m tests.faults --seed 7 --only 123        # that fault again
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign import Campaign
from tests.faults.lab import ROOT, Lab
from tests.faults.processes import adopt_orphans

_ISOLATED = "QUANTBENCH_FAULTS_ISOLATED"
_SHELL = 'mount -t tmpfs none /dev/shm && exec "$@"'


def _isolated() -> str | None:
    """Go on in namespaces of our own, where every process and every file of shared memory is the campaign's.

    Returns:
        Why that cannot be had; None once it is.
    """
    if os.environ.get(_ISOLATED):
        return None
    own = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *own, "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", _SHELL, "sh"]
    try:
        tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    if tried.returncode:
        return tried.stderr.strip()
    os.environ[_ISOLATED] = "1"
    argv = [*unshare, sys.executable, "-P", "-m", "tests.faults", *sys.argv[1:]]
    os.execvp(argv[0], argv)  # noqa: S606


def main() -> int:
    """Run a campaign or a part of it; 1 when a result was wrong or lost or something was left behind."""
    parser = argparse.ArgumentParser(prog="python -P -m tests.faults", description="Inject faults and judge each.")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (1)")
    parser.add_argument(
        "--count", type=int, default=1000, help="faults to inject in all, those of earlier calls included"
    )
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no fault after these (600)")
    parser.add_argument("--only", type=int, metavar="N", help="try fault N of the seed alone, and tell all of it")
    parser.add_argument("--kinds", default="", metavar="TEXT", help="only kinds whose name holds it")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier calls with this seed found")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "faults", help="where findings are kept (build/faults)"
    )
    options = parser.parse_args()
    why_not = _isolated()
    adopt_orphans()
    # What a background job of a shell ignores, those that it starts would ignore too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as the first process it would be deaf
    root = Path(tempfile.mkdtemp(prefix="qbf-"))
    lab = Lab(root, isolated=why_not is None)
    if why_not:
        print(f"no namespaces of our own ({why_not}): faults that mount are not injected, /dev/shm is not looked at")
    try:
        campaign = Campaign(lab, options.seed, options.out, options.kinds)
        if options.fresh:
            campaign.forget()
        return campaign.run(options.count, options.minutes, options.only)
    finally:
        lab.close()
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
