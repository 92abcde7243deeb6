"""Put NLTK's punkt_tab, which IFEval's scorer splits sentences by, where NLTK of .venv looks: .venv/nltk_data.

NLTK offers it on a server of its own only. So that a package registry is enough, it comes out of a package that holds a
copy (llama-index-core, MIT, 12 MB, downloaded and not installed).
"""

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VENV = Path(__file__).resolve().parent.parent / ".venv"
PACKAGE = "llama-index-core==0.14.25"
MEMBER = "llama_index/core/_static/nltk_cache/tokenizers/punkt_tab.zip"
SHA256 = "e57f64187974277726a3417ca6f181ec5403676c717672eef6a748a7b20e0106"
"""Of the archive in that version of the package: another one has not been looked at."""


def archive() -> bytes:
    """The archive out of the package, downloaded by pip with the user's settings.

    Raises:
        SystemExit: The package cannot be had, or holds another archive.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [str(VENV / "bin" / "python"), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--dest", folder, PACKAGE]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"error: {PACKAGE} cannot be downloaded (pip's message is above); is a registry there?")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            found = package.read(MEMBER)
    if hashlib.sha256(found).hexdigest() != SHA256:
        raise SystemExit(f"error: {MEMBER} of {PACKAGE} is not the archive that it was; nothing was installed")
    return found


def main() -> None:
    """Unpack the English tables, whole or not at all; nothing to do where they are."""
    tables = VENV / "nltk_data" / "tokenizers" / "punkt_tab"
    if not (tables / "english").is_dir():
        tables.parent.mkdir(parents=True, exist_ok=True)
        with (
            zipfile.ZipFile(io.BytesIO(archive())) as packed,
            tempfile.TemporaryDirectory(dir=tables.parent) as staging,
        ):
            names = [name for name in packed.namelist() if name.startswith(("punkt_tab/english/", "punkt_tab/README"))]
            packed.extractall(staging, names)
            (Path(staging) / "punkt_tab").rename(tables)
    print(f"punkt_tab is in {tables}", file=sys.stderr)


if __name__ == "__main__":
    main()
