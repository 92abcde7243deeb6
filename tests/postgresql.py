"""A real PostgreSQL server on loopback, with a password, for as long as a test lasts."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from serving_checks.server import free_port

PASSWORD = "secret/of@nobody"  # noqa: S105
_INSTALLED = Path("/usr/lib/postgresql")
"""Where Debian has the programs, a folder a version."""


class PostgreSQL:
    """One cluster of databases."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self.port = folder, port
        self._data, self._log = folder / "data", folder / "log"

    def uri(self, database: str = "postgres", driver: str = "") -> str:
        """Its address with the password, as SQLAlchemy takes it."""
        return f"postgresql{driver}://postgres:secret%2Fof%40nobody@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """The files of an empty one."""
        word = self._folder / "password"
        word.write_text(PASSWORD)
        word.chmod(0o644)
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(word))

    def start(self) -> None:
        """Until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-w", "-t", "60", "-o", options, "start")

    def stop(self) -> None:
        """At once; connections break off."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def database(self, name: str) -> None:
        """A new one."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)

    def _run(self, program: str, *arguments: str) -> None:
        # It does not run as root.
        as_other = (
            ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.getuid() == 0 else []
        )
        command = [*as_other, _program(program), *arguments]
        env = {"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
        # Not captured by a pipe: the server that `pg_ctl` starts would hold it open.
        with (self._folder / f"{program}.log").open("w+") as said:
            done = subprocess.run(command, stdout=said, stderr=said, check=False, env=env, cwd="/", timeout=120)
            said.seek(0)
            assert done.returncode == 0, said.read()


def _program(name: str) -> str:
    found = shutil.which(name) or next((str(path) for path in sorted(_INSTALLED.glob(f"*/bin/{name}"))), None)
    assert found, f"{name} is not here: `make services` installs PostgreSQL"
    return found


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """One that runs, with an empty database `postgres`."""
    # A folder whose path is short enough for a socket, and that another user may enter.
    with TemporaryDirectory(prefix="pg-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        if os.getuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        server = PostgreSQL(folder, free_port(None))
        server.make()
        server.start()
        try:
            yield server
        finally:
            with suppress(AssertionError):  # it is stopped
                server.stop()
