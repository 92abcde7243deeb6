"""`artifacts push` against a stand-in for a hub (tests/fake_hub.py): what is sent, and every way it goes wrong."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.errors import RequestError
from pipelines.cli import main
from pipelines.execution.hub_push import HubPush
from pipelines.execution.workspace import Workspace
from tests.fake_hub import TOKEN, Hub, running_hub
from tests.unit.pipelines.export_records import FILES, workspace_with

REPO = "org/model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub
    from huggingface_hub.utils import _http

    # The stand-in takes large files by Git LFS; and waiting between tries is no part of what is tested.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, str]:
    monkeypatch.chdir(tmp_path)
    return workspace_with(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["artifacts", "push", "gptq", *arguments])
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "Traceback" not in text and "not an explained one" not in text
    assert TOKEN not in text
    return code, text


def test_it_is_told_first_then_sent_and_then_there_is_nothing_to_do(
    hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, "--to", REPO)
    assert code == 0
    assert "the repository is new, and private" in text
    assert "to send: model.safetensors, 7,000 bytes" in text and "nothing was sent; --yes sends it" in text
    assert not hub.repositories and hub.sent("POST", "") == 0

    code, text = said(capsys, "--to", REPO, "--yes")
    repository = hub.repositories[REPO]
    commit, files = repository.commits[-1]
    assert code == 0 and f"commit {commit}, read back and held against it" in text
    assert repository.private
    assert files["model.safetensors"].decode() == FILES["model.safetensors"]
    assert files.keys() == {*FILES, ".gitattributes", "bom.cdx.json", "quantbench-manifest.json"}
    # Card and bill of materials as an export has them.
    assert main(["artifacts", "export", "gptq", "out"]) == 0
    capsys.readouterr()
    assert all(Path("out", name).read_bytes() == data for name, data in files.items() if name != ".gitattributes")

    code, text = said(capsys, "--to", REPO, "--yes")
    assert code == 0 and f"commit {commit} holds {made[1]} already; nothing to send" in text
    assert len(repository.commits) == 2
    told = json.loads(said(capsys, "--to", REPO, "--yes", "--json")[1])
    assert (told["commit"], told["sent"]) == (commit, {})


def test_only_what_differs_is_sent_and_what_a_push_before_left_is_removed(
    hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "--to", REPO, "--yes")
    repository = hub.repositories[REPO]
    files = dict(repository.commits[-1][1])
    manifest = json.loads(files["quantbench-manifest.json"])
    manifest["files"]["model-00002-of-00002.safetensors"] = manifest["files"]["config.json"]
    files |= {
        "quantbench-manifest.json": json.dumps(manifest).encode(),
        "model-00002-of-00002.safetensors": b"{}",
        "config.json": b"changed",
        "notes.md": b"somebody's own",
    }
    repository.commit(files)
    uploads = hub.sent("PUT", "/lfs/")
    code, text = said(capsys, "--to", REPO, "--yes")
    assert code == 0
    assert "removed: model-00002-of-00002.safetensors" in text
    assert "sent: config.json" in text and "sent: model.safetensors" not in text
    left = repository.commits[-1][1]
    assert "notes.md" in left and "model-00002-of-00002.safetensors" not in left
    assert hub.sent("PUT", "/lfs/") == uploads


def test_weights_of_others_are_not_committed_beside(
    hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.made(REPO, {"pytorch_model.bin": b"pickle"})
    code, text = said(capsys, "--to", REPO, "--yes")
    assert code == 2 and "weights that no push of Quantbench left there: pytorch_model.bin" in text
    assert len(hub.repositories[REPO].commits) == 1


def test_a_public_repository_is_asked_for(
    hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "new, and PUBLIC" in said(capsys, "--to", REPO, "--public")[1]
    assert said(capsys, "--to", REPO, "--public", "--yes")[0] == 0
    repository = hub.repositories[REPO]
    assert not repository.private
    repository.commit(repository.commits[-1][1] | {"config.json": b"older"})
    code, text = said(capsys, "--to", REPO, "--yes")
    assert code == 2 and f"all may read {REPO}" in text and len(repository.commits) == 3


@pytest.mark.parametrize(
    ("piece", "answer", "exit_code", "says"),
    [
        ("/commit/", (403, "You don't have the rights"), 2, "the token may not do that: 403"),
        ("/commit/", (403, "Private repository storage limit reached"), 2, "there is no room left for it"),
        ("/objects/batch", (413, "too much"), 2, "there is no room left for it: 413"),
        ("/commit/", (500, "out of order"), 3, "the hub answers 500"),
        ("/api/repos/create", (403, "not a member of org"), 2, "the token may not do that: 403"),
    ],
)
def test_what_the_hub_refuses_is_told_and_changes_nothing(
    piece: str,
    answer: tuple[int, str],
    exit_code: int,
    says: str,
    hub: Hub,
    made: tuple[Workspace, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.answers[piece] = answer
    code, text = said(capsys, "--to", REPO, "--yes")
    assert (code, says in text) == (exit_code, True), text
    assert all(list(files) == [".gitattributes"] for one in hub.repositories.values() for _, files in one.commits)
    # The fault is over: the same command goes through.
    assert said(capsys, "--to", REPO, "--yes")[0] == 0


def test_a_token_that_is_refused(
    hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, text = said(capsys, "--to", REPO, "--yes")
    assert code == 2 and "the hub does not know the token: 401" in text
    assert "hf_wrong" not in text
    monkeypatch.delenv("HF_TOKEN")
    code, text = said(capsys, "--to", REPO, "--yes")
    assert code == 2 and "HF_TOKEN is not set" in text
    assert not hub.repositories


@pytest.mark.parametrize("piece", ["/lfs/", "/commit/"])
def test_a_connection_that_dies_in_the_middle(
    piece: str, hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.ends = {piece}
    code, text = said(capsys, "--to", REPO, "--yes")
    if piece == "/lfs/":  # the hub's client tries again by itself
        assert code == 0
    else:
        assert code == 3 and "broke off" in text and "run the same command again" in text
        assert list(hub.repositories[REPO].commits[-1][1]) == [".gitattributes"]
        assert said(capsys, "--to", REPO, "--yes")[0] == 0
    digest = hashlib.sha256(hub.repositories[REPO].commits[-1][1]["model.safetensors"]).hexdigest()
    assert digest == hashlib.sha256(FILES["model.safetensors"].encode()).hexdigest()


def test_a_branch_that_moved_meanwhile_is_not_overwritten(
    hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    repository = hub.made(REPO, {})
    pushing = HubPush(made[0], "gptq", None, REPO, hub.address, public=False)
    looked = pushing.look()
    repository.commit({"notes.md": b"somebody's own"})
    with pytest.raises(RequestError, match="somebody has committed meanwhile: 412"):
        pushing.push(looked)
    assert len(repository.commits) == 2
    # The next push follows theirs.
    assert said(capsys, "--to", REPO, "--yes")[0] == 0
    assert repository.commits[-1][1]["notes.md"] == b"somebody's own"


def test_bytes_that_are_not_the_digest_s_are_not_sent(
    hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, digest = made
    (workspace.store.path(digest) / "model.safetensors").write_text("others")
    code, text = said(capsys, "--to", REPO, "--yes")
    assert code == 3 and "model.safetensors" in text
    assert not hub.repositories


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--to", "model"], "is no repository of a hub"),
        (["--to", REPO, "--endpoint", "http://hub.example"], "would send the token in the clear"),
        (["--to", REPO, "--endpoint", "ftp://hub.example"], "is no hub's address"),
        ([], "wants --to too"),
    ],
)
def test_a_request_that_is_wrong(
    arguments: list[str], says: str, hub: Hub, made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, *arguments)
    assert code == 2 and says in text
    assert not hub.asked
