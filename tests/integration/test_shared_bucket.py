"""A shared store in a bucket, against a server that answers as S3 does: whole or not at all, and never without end."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError, StageError
from registry import shared_store
from registry.shared_bucket import SharedBucket
from registry.shared_store import DamagedSharedObject, MissingSharedObject, SharedStore
from registry.store import Store
from tests.architecture.repository import ROOT
from tests.moto_server import cut_once, moto_server
from tests.unit.registry.test_shared_store import MODEL, hex_of, put
from tests.walks import take, walk_of

pytestmark = [pytest.mark.environment, pytest.mark.timeout(600)]

ADDRESS = "s3://models/quantbench"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as (url, _):
        yield url


@pytest.fixture(autouse=True)
def this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials as a node has them, and one attempt each of botocore's within those of s3fs."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket `models`, and the library to look into it."""
    ask(f"{server}/moto-api/reset", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is part of `dev`")
    files = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    files.mkdir("models")
    return files


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Store:
    return Store(tmp_path / "there")


def ask(url: str, body: bytes) -> None:
    """Of moto itself."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "text/plain"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30):  # noqa: S310
        pass


def big(store: Store, mib: int = 120) -> str:
    """An object of one file that goes over in parts."""
    with store.staging() as staging:
        (staging / "model.safetensors").write_bytes(os.urandom(mib << 20))
        return store.put(staging).digest


def test_what_one_machine_pushes_another_one_has(
    s3: Any, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**MODEL, "empty.txt": "", "a [1]*?#é.json": "names are taken as they are"}
    digest = put(here, files)
    shared = SharedStore(ADDRESS)
    assert not shared.holds(digest)
    shared.push(here, digest)
    assert shared.holds(digest)
    assert sorted(s3.find("models")) == sorted(
        [f"models/quantbench/manifests/{hex_of(digest)}.json"]
        + [f"models/quantbench/objects/{hex_of(digest)}/{name}" for name in files]
    )
    folder = shared.fetch(there, digest)
    assert {name: (folder / name).read_text() for name in files} == files
    for way in ("send", "receive"):
        monkeypatch.setattr(SharedBucket, way, None)
    shared.push(here, digest)
    shared.fetch(there, digest)


def test_a_large_file_goes_in_parts_and_is_told_of(
    s3: Any, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_store, "_TOLD_EVERY_SECONDS", 0.0)
    digest = big(here)
    shared = SharedStore(ADDRESS)
    for go in (shared.push, shared.fetch):
        told: list[tuple[int, int]] = []
        go(here if go == shared.push else there, digest, lambda done, whole: told.append((done, whole)))  # noqa: B023
        assert len(told) > 2
        assert told[-1] == (120 << 20, 120 << 20)
    assert there.verify(digest) == []


def test_a_push_that_is_killed_shows_nothing_and_goes_on(s3: Any, here: Store, there: Store, tmp_path: Path) -> None:
    digest = big(here)
    program = (
        "import sys; from pathlib import Path; from registry import shared_store; from registry.store import Store\n"
        "shared_store._TOLD_EVERY_SECONDS = 0.0\n"
        "shared_store.SharedStore(sys.argv[1]).push(Store(Path(sys.argv[2])), sys.argv[3], lambda *told: print(told))"
    )
    command = [sys.executable, "-u", "-c", program, ADDRESS, str(tmp_path / "here"), digest]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as pusher:
        assert pusher.stdout is not None
        assert pusher.stdout.readline() == f"({50 << 20}, {120 << 20})\n"
        pusher.kill()
    assert s3.find("models") == []
    shared = SharedStore(ADDRESS)
    with pytest.raises(MissingSharedObject, match=f"{ADDRESS}/objects/{hex_of(digest)} is not there"):
        shared.fetch(there, digest)
    shared.push(here, digest)
    assert shared.fetch(there, digest) == there.path(digest)


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_what_is_damaged_there_is_never_used(damage: str, s3: Any, here: Store, there: Store) -> None:
    digest = put(here, MODEL)
    shared = SharedStore(ADDRESS)
    shared.push(here, digest)
    file = f"models/quantbench/objects/{hex_of(digest)}/model-1.safetensors"
    if damage == "gone":
        s3.rm(file)
    else:
        s3.pipe_file(file, b"eno" * 100 if damage == "changed" else b"one")
    with pytest.raises(DamagedSharedObject, match=f"{ADDRESS}/objects/{hex_of(digest)} .*model-1.safetensors"):
        shared.fetch(there, digest)
    assert there.digests() == []
    shared.discard(digest)
    assert s3.find("models") == []
    shared.discard(digest)
    shared.push(here, digest)
    shared.fetch(there, digest)


def test_an_object_that_changes_while_it_is_fetched_is_not_used(
    s3: Any, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(here, MODEL)
    shared = SharedStore(ADDRESS)
    shared.push(here, digest)
    plainly = SharedBucket.receive

    def changed_before(self: SharedBucket, name: str, target: Path, sent: Any) -> None:
        if name.endswith("config.json"):
            s3.pipe_file(f"models/quantbench/{name}", b"[]")
        plainly(self, name, target, sent)

    monkeypatch.setattr(SharedBucket, "receive", changed_before)
    with pytest.raises(DamagedSharedObject, match=r"config\.json: changed"):
        shared.fetch(there, digest)
    assert there.digests() == []


def test_a_connection_that_breaks_within_a_file_goes_on_where_it_was(
    s3: Any, server: str, here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = big(here, 8)
    SharedStore(ADDRESS).push(here, digest)
    with cut_once(server, 3 << 20) as (url, cuts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        told: list[int] = []
        monkeypatch.setattr(shared_store, "_TOLD_EVERY_SECONDS", 0.0)
        SharedStore(ADDRESS).fetch(there, digest, lambda done, whole: told.append(done))
        assert cuts
    assert told[-1] == 8 << 20
    assert there.verify(digest) == []


def test_a_server_that_goes_in_the_middle_ends_the_push(
    tmp_path: Path, here: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is part of `dev`")
    monkeypatch.setattr(shared_store, "_TOLD_EVERY_SECONDS", 0.0)
    digest = big(here)
    with moto_server(tmp_path) as (url, server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("models")
        shared = SharedStore(ADDRESS)
        with pytest.raises(StageError, match=f"{ADDRESS} does not answer") as refused:
            shared.push(here, digest, lambda done, whole: server.__exit__(None, None, None))
    assert "then run the same command" in refused.value.remedy
    assert here.verify(digest) == []


def test_a_server_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(StageError, match=f"{ADDRESS} does not answer .*EndpointConnectionError") as refused:
        SharedStore(ADDRESS)
    assert refused.value.blame == "machine"
    assert "hunter2" not in str(refused.value)


def test_a_server_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs", reason="the extra `s3` is part of `dev`")
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StageError, match=f"{ADDRESS} does not answer .*Timeout"):
            SharedStore(ADDRESS)


def test_a_bucket_that_is_not_there_is_told(s3: Any) -> None:
    with pytest.raises(RequestError, match="there is no bucket mdoels for s3://mdoels/quantbench"):
        SharedStore("s3://mdoels/quantbench")


def test_a_bucket_that_goes_is_told(s3: Any, here: Store) -> None:
    shared = SharedStore(ADDRESS)
    s3.rmdir("models")
    with pytest.raises(StageError, match=f"sending .* to {ADDRESS}: .* is gone"):
        shared.push(here, put(here, MODEL))


def test_no_credentials_are_told(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StageError, match=f"{ADDRESS} refuses this machine") as refused:
        SharedStore(ADDRESS)
    assert "AWS_PROFILE" in refused.value.remedy


def test_credentials_that_are_refused_are_told(s3: Any, server: str) -> None:
    shared = SharedStore(ADDRESS)
    ask(f"{server}/moto-api/reset-auth", b"0")
    try:
        with pytest.raises(StageError, match=f"{ADDRESS} refuses this machine"):
            shared.holds("sha256:" + "0" * 64)
    finally:
        ask(f"{server}/moto-api/reset-auth", b"inf")


def test_a_profile_is_taken(s3: Any, tmp_path: Path, here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[nodes]\naws_access_key_id = AKIANODE\naws_secret_access_key = hunter2\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "nodes")
    SharedStore(ADDRESS).push(here, put(here, MODEL))


def test_a_probe_tells_one_bucket_from_another(s3: Any) -> None:
    s3.mkdir("other")
    with SharedStore(ADDRESS).probe() as token:
        SharedStore(ADDRESS + "/").answer(token)
        with pytest.raises(StageError, match="s3://other/quantbench on this machine is not the one"):
            SharedStore("s3://other/quantbench").answer(token)
    assert s3.find("models") == []


def test_the_document_begins_with_what_happens(s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    take(walk_of(ROOT / "docs" / "shared-store.md"), capsys)
    assert s3.find("models") == []
