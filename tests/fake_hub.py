"""A stand-in for a model hub's HTTP API, as far as the hub's client asks for it to make a commit and to read it back.

It is no hub: it was written from what huggingface_hub 2.4 sends, and takes large files by Git LFS, not by Xet, which
the hub itself prefers. Repositories live in memory; faults are asked for by a piece of the path.
"""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_right"  # noqa: S105 - the stand-in's


@dataclass
class Repository:
    """A model's commits: (id, path -> content), the last one is main."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        told = json.dumps([len(self.commits), sorted((name, len(data)) for name, data in files.items())])
        self.commits.append((hashlib.sha1(told.encode()).hexdigest(), dict(files)))  # noqa: S324 - as git has it
        return self.commits[-1][0]

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        return next((one for one in reversed(self.commits) if revision in ("main", one[0])), None)


@dataclass
class Hub:
    """What the server holds, and the faults that it is to have."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Piece of a path -> status and message of the answer to the next request that holds it."""
    ends: set[str] = field(default_factory=set)
    """Pieces of paths whose next request finds the connection dead, its body read halfway."""
    address: str = ""

    def made(self, name: str, files: dict[str, bytes]) -> Repository:
        """A repository that somebody else made."""
        self.repositories[name] = Repository(private=True)
        self.repositories[name].commit(files)
        return self.repositories[name]

    def sent(self, method: str, piece: str) -> int:
        """Requests of a method with a piece in their path."""
        return sum(one == method and piece in path for one, path in self.asked)


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        for piece in [one for one in self.hub.ends if one in path]:
            self.hub.ends.discard(piece)
            self.rfile.read(length // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        for piece in [one for one in self.hub.answers if one in path]:
            status, message = self.hub.answers.pop(piece)
            return self._say(status, {"error": message})
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say(401, {"error": "Invalid credentials in Authorization header"})
        self._routed(path, body)

    def _routed(self, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            self._say(200, {"name": "somebody", "type": "user"})
        elif path == "/api/validate-yaml":
            self._say(200, {"warnings": [], "errors": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.startswith("/lfs/"):
            self.hub.uploaded[parts[1]] = body
            self._say(200, {})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            self._of_repository(parts, body)

    def _of_repository(self, parts: list[str], body: bytes) -> None:
        if parts[0] == "datasets":
            parts = parts[1:]
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._say(404, {"error": "Repository not found"}, code="RepoNotFound")
        elif parts[0] != "api":
            self._resolve(repository, parts[3], "/".join(parts[4:]))
        elif parts[4:5] == ["tree"]:
            self._tree(repository, parts[5], "/".join(parts[6:]))
        elif parts[4:5] == ["paths-info"]:
            asked = json.loads(body) if body[:1] == b"{" else parse_qs(body.decode())
            self._paths(repository, parts[5], asked["paths"])
        elif parts[4:5] == ["preupload"]:
            self._modes(json.loads(body))
        elif parts[4:5] == ["commit"]:
            self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        else:
            self._info(name, repository, parts[5] if parts[4:5] == ["revision"] else "main")

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self._say(409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"})
        self.hub.made(name, {".gitattributes": b"*.safetensors filter=lfs\n"}).private = (
            asked.get("visibility") == "private"
        )
        self._say(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def _info(self, name: str, repository: Repository, revision: str) -> None:
        found = repository.files(revision)
        if found is None:
            return self._say(404, {"error": "Revision not found"}, code="RevisionNotFound")
        siblings = []
        for path, data in found[1].items():
            one: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": _git_hash(data)}
            if is_large(path):
                one["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(one)
        self._say(200, {"id": name, "sha": found[0], "private": repository.private, "siblings": siblings})

    def _tree(self, repository: Repository, revision: str, folder: str) -> None:
        found = repository.files(revision)
        self._say(
            200, [_listed(path, data) for path, data in (found or ("", {}))[1].items() if path.startswith(folder)]
        )

    def _paths(self, repository: Repository, revision: str, paths: list[str]) -> None:
        found = repository.files(revision)
        files = (found or ("", {}))[1]
        self._say(200, [_listed(path, files[path]) for path in paths if path in files])

    def _modes(self, asked: dict[str, Any]) -> None:
        modes = [
            {"path": one["path"], "uploadMode": "lfs" if is_large(one["path"]) else "regular", "shouldIgnore": False}
            for one in asked["files"]
        ]
        self._say(200, {"files": modes})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            there = one["oid"] in self.hub.uploaded
            upload = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}}
            objects.append(one if there else one | {"actions": upload})
        self._say(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, lines: list[dict[str, Any]]) -> None:
        head, files = repository.commits[-1][0], dict(repository.commits[-1][1])
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, head):
                return self._say(412, {"error": "A commit has happened since. Please refresh and try again."})
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                data = self.hub.uploaded[value["oid"]]
                if hashlib.sha256(data).hexdigest() != value["oid"]:
                    return self._say(422, {"error": f"{value['path']} was not uploaded whole"})
                files[value["path"]] = data
            if line["key"] == "deletedFile":
                del files[value["path"]]
        made = repository.commit(files)
        self._say(200, {"success": True, "commitOid": made, "commitUrl": f"{self.hub.address}/{name}/commit/{made}"})

    def _resolve(self, repository: Repository, revision: str, path: str) -> None:
        found = repository.files(revision)
        data = found[1].get(path) if found else None
        if found is None or data is None:
            return self._say(404, {"error": "Entry not found"}, code="EntryNotFound")
        self.send_response(200)
        for name, value in (("ETag", f'"{_git_hash(data)}"'), ("X-Repo-Commit", found[0])):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _say(self, status: int, told: dict[str, Any] | list[Any], code: str = "") -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        if "error" in told:
            self.send_header("X-Error-Message", told["error"])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _listed(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": _git_hash(data)}


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - as git has it
