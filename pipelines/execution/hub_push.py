"""An artifact as a commit of a model on a Hugging Face hub: the files that an export has, and nothing else.

A commit of the hub is whole or not there, and says which one it follows. So it is looked first at what lies there; what
lies there already is not sent, and where somebody else commits meanwhile, the hub refuses ours. A push that breaks off
has changed nothing but for the repository, which may be new and empty; the same command again goes on.
"""

import hashlib
import os
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from configs.errors import QuantbenchError, RequestError, StageError, UnreadableError
from configs.reading.json_text import read_json
from pipelines.execution.finished_runs import artifact_of_run
from pipelines.execution.workspace import Workspace
from pipelines.report.bill_of_materials import bill_of_materials
from pipelines.report.model_card import model_card
from registry.hashing import Manifest
from registry.signing import BILL_FILE, CARD_FILE, MANIFEST_FILE, SIGNATURE_FILE
from registry.store import DamagedObject

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - its name
_DEFAULT_ENDPOINT = "https://huggingface.co"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TIMEOUT_SECONDS = 30.0
_QUOTA = (402, 413, 507)
_MOVED = (409, 412)
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".gguf", ".pt", ".pth")
"""What an engine might load beside ours, or in place of ours."""


class Push(NamedTuple):
    """What a push would send, or has sent."""

    repo: str
    endpoint: str
    digest: str
    """Of the artifact."""
    run_id: str
    """The run that the card tells of."""
    signed: bool
    head: str | None
    """The branch's commit; None where there is no such repository yet."""
    sent: dict[str, int]
    """Files that are not there so: bytes of each."""
    removed: list[str]
    """Files of an artifact that was pushed before."""


class HubPush:
    """One artifact and the repository that it goes to.

    Args:
        workspace: Holds it.
        wanted: Its name in the run, or the beginning of its digest.
        run: An id or its beginning; the last run for None.
        repo: `org/name`.
        endpoint: The hub's address; HF_ENDPOINT's, else huggingface.co's for None.
        public: Whether all the world may read the repository; without it, one that all may read is refused.

    Raises:
        RequestError: There is no such artifact, no token, or the address would send the token in the clear.
        DamagedObject: The artifact's bytes are not those of its digest.
    """

    def __init__(
        self, workspace: Workspace, wanted: str, run: str | None, repo: str, endpoint: str | None, public: bool
    ) -> None:
        self._repo, self._public = repo, public
        self._endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")
        self._api = _api(self._endpoint)
        self._found = found = artifact_of_run(workspace, wanted, run)
        self._digest = digest = found.artifact.digest
        store = workspace.store
        self._folder = store.path(digest)
        manifest = store.manifest(digest)
        self._files: dict[str, Path | bytes] = {name: self._folder / name for name in manifest.files}
        self._files |= {
            CARD_FILE: model_card(found).encode(),
            BILL_FILE: bill_of_materials(found).encode(),
            MANIFEST_FILE: manifest.model_dump_json(indent=2).encode(),
        }
        self._signed = store.signature_file(digest).is_file()
        if self._signed:
            self._files[SIGNATURE_FILE] = store.signature_file(digest).read_bytes()
        self._promised = {
            name: entry.digest.removeprefix("sha256:") for name, entry in manifest.files.items() if name != CARD_FILE
        }

    def look(self) -> Push:
        """What would be sent; nothing is changed.

        Raises:
            RequestError: The hub refuses the token; all may read the repository, which was not asked for; or it holds
            weights that no push of ours left there.
            StageError: It does not answer.
        """
        with _explained(f"looking at {self._repo} on {self._endpoint}"):
            remote = self._remote()
        head, there = remote if remote else (None, {})
        sent = {name: self._size(name) for name in self._files if not self._lies_there(name, there.get(name))}
        before = self._pushed_before(head) if MANIFEST_FILE in there and MANIFEST_FILE in sent else set()
        others = there.keys() - self._files.keys()
        strangers = sorted(name for name in others - before if name.endswith(_WEIGHTS))
        if strangers:
            raise RequestError(
                f"{self._repo} holds weights that no push of Quantbench left there: {', '.join(strangers[:3])}",
                remedy="push to a repository of its own, or remove them there: engines might load them",
            )
        return Push(
            self._repo,
            self._endpoint,
            self._digest,
            self._found.run.run_id,
            self._signed,
            head,
            sent,
            sorted(others & before),
        )

    def push(self, looked: Push) -> str:
        """Make the commit that `looked` tells of, or none where there is nothing to send.

        Returns:
            The branch's commit, whose files were held against ours.

        Raises:
            RequestError: The hub refuses.
            DamagedObject: A file is not what its digest says, any more.
            StageError: The connection broke off, or what lies there afterwards is not what was sent.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head = looked.head
        if not looked.sent and not looked.removed and head:
            return head
        operations: list[Any] = [CommitOperationDelete(name) for name in looked.removed]
        for name in looked.sent:
            content = self._files[name]
            addition = CommitOperationAdd(name, content)
            # Its hash is what the hub knows it by, so what is not as promised is not sent.
            if name in self._promised and addition.upload_info.sha256.hex() != self._promised[name]:
                raise DamagedObject(self._digest, self._folder, [f"{name}: not the bytes of its digest"])
            operations.append(addition)
        with _explained(f"pushing to {self._repo} on {self._endpoint}"):
            if head is None:
                self._api.create_repo(self._repo, private=not self._public, exist_ok=True)
                # Whether it is as it was asked for is seen before anything goes there.
                made_now = self._remote()
                head = made_now[0] if made_now else None
            made = self._api.create_commit(
                self._repo,
                operations,
                commit_message=f"{self._found.name}, {self._digest}",
                parent_commit=head,
            )
            remote = self._remote(made.oid)
        there = remote[1] if remote else {}
        wrong = [name for name in self._files if not self._lies_there(name, there.get(name))]
        if wrong:
            raise StageError(
                f"commit {made.oid} of {self._repo} does not hold what was sent: {', '.join(wrong[:3])}",
                remedy="look at the repository's .gitattributes and .gitignore, and push again",
                blame="machine",
            )
        return str(made.oid)

    def _remote(self, revision: str | None = None) -> tuple[str, dict[str, Any]] | None:
        """The commit, and path -> what the hub says of the file; None where there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._api.model_info(self._repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
        except RepositoryNotFoundError as error:
            # The hub does not tell a repository that is not there from one that the token may not see; a bad token is
            # told apart by the answer to who it is.
            if error.response.status_code == 401:
                self._api.whoami()
            return None
        if info.private is not True and not self._public:
            raise RequestError(
                f"all may read {self._repo} on {self._endpoint}",
                remedy="say --public if that is meant, or name another repository",
            )
        return str(info.sha), {one.rfilename: one for one in info.siblings or []}

    def _lies_there(self, name: str, remote: Any) -> bool:
        """Whether the hub has the same bytes: of large files it tells the SHA-256, of others git's hash."""
        if remote is None:
            return False
        content = self._files[name]
        if remote.lfs is not None:
            told = remote.lfs.sha256
            return bool(told == (self._promised.get(name) or hashlib.sha256(_bytes_of(content)).hexdigest()))
        if remote.size is not None and remote.size != self._size(name):
            return False
        data = _bytes_of(content)
        git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
        return bool(remote.blob_id == git.hexdigest())

    def _pushed_before(self, head: str | None) -> set[str]:
        """The files that the manifest there names."""
        with _explained(f"reading {MANIFEST_FILE} of {self._repo}"), tempfile.TemporaryDirectory() as folder:
            file = Path(self._api.hf_hub_download(self._repo, MANIFEST_FILE, revision=head, local_dir=folder))
            try:
                return set(Manifest.model_validate(read_json(file)).files)
            except (ValidationError, UnreadableError):
                return set()  # not ours, so it names nothing of ours

    def _size(self, name: str) -> int:
        content = self._files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def _bytes_of(content: Path | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _api(endpoint: str) -> "HfApi":
    address = urllib.parse.urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname or address.username or address.query:
        raise RequestError(f"{endpoint:.100} is no hub's address", remedy="name one such as https://hub.example")
    if address.scheme == "http" and address.hostname not in _LOOPBACK:
        raise RequestError(
            f"{endpoint} would send the token in the clear", remedy="name the hub's address with https://"
        )
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise RequestError(
            f"{TOKEN_VARIABLE} is not set: the hub takes commits of those who may write only",
            remedy=f"read -rs {TOKEN_VARIABLE} && export {TOKEN_VARIABLE}; the token needs to write to the repository",
        )
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token=token)


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    """What the hub or the network refuses, in our words; its client raises dozens of types."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except QuantbenchError:
        raise
    except HfHubHTTPError as error:
        raise _of_answer(error, doing) from error
    except Exception as error:
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise StageError(
            f"{doing} broke off: {reason}",
            remedy="run the same command again: a commit is whole or not there, and what was sent is not sent again",
            blame="machine",
        ) from error


_ANSWERS: Mapping[int, tuple[str, str]] = {
    401: ("the hub does not know the token", f"set {TOKEN_VARIABLE} to one that is valid"),
    403: (
        "the token may not do that",
        f"set {TOKEN_VARIABLE} to one that may write to the repository and, where it is not there yet, make it",
    ),
    **dict.fromkeys(_QUOTA, ("there is no room left for it", "free space of the account, or push to another one")),
    **dict.fromkeys(
        _MOVED,
        ("somebody has committed meanwhile", "look at their commit, and run the same command again to follow it"),
    ),
    429: ("the hub wants fewer requests", "wait, and run the same command again"),
}


def _of_answer(error: Any, doing: str) -> QuantbenchError:
    status = error.response.status_code
    said = (error.server_message or "").strip().splitlines()
    quoted = f" ({said[0]:.200})" if said else ""
    # It says so in words alone where an account is full.
    known = _ANSWERS.get(507 if "quota" in quoted.lower() or "storage limit" in quoted.lower() else status)
    if known is None:
        return StageError(
            f"{doing}: the hub answers {status}{quoted}",
            remedy="run the same command again later; nothing of the branch has changed",
            blame="machine",
        )
    return RequestError(f"{doing}: {known[0]}: {status}{quoted}", remedy=f"{known[1]}; the branch is as it was")
