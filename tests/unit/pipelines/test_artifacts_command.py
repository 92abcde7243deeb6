"""`artifacts sign`, `verify` and `export` as they are typed: what is said, and the exit code."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipelines.cli import main
from pipelines.execution.workspace import Workspace
from tests.unit.pipelines.export_records import private_pem, workspace_with, write_keys


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, str]:
    """A workspace in the current folder, and two pairs of keys."""
    monkeypatch.chdir(tmp_path)
    for name in ("key", "other"):
        write_keys(tmp_path, name)
    return workspace_with(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["artifacts", *arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err and "not an explained one" not in captured.err
    return code, captured.out + captured.err


def test_from_the_key_to_the_receiver(made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]) -> None:
    digest = made[1]
    assert said(capsys, "verify", "gptq") == (0, f"{digest}: whole\n")
    code, text = said(capsys, "verify", "gptq", "--signed", "--public-key", "key.pub.pem")
    assert (code, text.splitlines()[1]) == (3, "  is not signed")
    code, text = said(capsys, "sign", "gptq", "--key", "key.pem")
    assert code == 0 and text.startswith(f"{digest}: signed with the key sha256:")
    code, text = said(capsys, "verify")
    assert code == 0 and "is signed, not checked: give --public-key" in text
    code, text = said(capsys, "verify", "gptq", "--signed", "--public-key", "key.pub.pem")
    assert code == 0 and "  is signed with the key sha256:" in text
    code, text = said(capsys, "export", "gptq", "out")
    assert code == 0 and f"out: {digest}, with its signature" in text
    code, text = said(capsys, "verify", "./out", "--public-key", "key.pub.pem", "--signed")
    assert code == 0 and f"out, {digest}: whole\n  is signed with" in text
    Path("out/model.sig").unlink()
    assert said(capsys, "verify", "./out", "--public-key", "key.pub.pem")[0] == 0
    assert said(capsys, "verify", "./out", "--public-key", "key.pub.pem", "--signed")[0] == 3


def test_what_does_not_hold_ends_with_3(made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]) -> None:
    workspace, digest = made
    said(capsys, "sign", "gptq", "--key", "other.pem")
    said(capsys, "export", "gptq", "out")
    for asked in (["gptq"], [], ["./out"]):
        code, text = said(capsys, "verify", *asked, "--public-key", "key.pub.pem")
        assert code == 3
        assert "NOT AS SIGNED: it is signed with another key than key.pub.pem" in text
        assert "remedy: " in text
    Path("out/config.json").write_text("{}")
    code, text = said(capsys, "verify", "./out", "--public-key", "key.pub.pem")
    assert code == 3 and "config.json: changed" in text and "SIGNED" not in text
    assert "remedy: have it exported or fetched again" in text
    workspace.store.signature_file(digest).write_text("{}")
    assert said(capsys, "verify", "gptq")[0] == 3
    (workspace.store.path(digest) / "config.json").write_text("{}")
    code, text = said(capsys, "verify", "--public-key", "key.pub.pem", "--json")
    told = json.loads(text)
    assert code == 3 and told[digest] == {"differences": ["config.json: changed"], "signature": None}


def test_a_folder_from_elsewhere_steers_no_terminal(
    made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "export", "gptq", "out")
    Path("out/model.sig").write_text('{"verificationMaterial": {"publicKey": {"hint": "\\u001b[2J"}}}')
    code, text = said(capsys, "verify", "./out")
    assert code == 3 and "names no key" in text
    Path("out/\x1b[2Jevil").touch()
    code, text = said(capsys, "verify", "./out")
    assert code == 3 and "  evil: added" in text and "\x1b" not in text


def test_where_nothing_is_signed_that_is_said(made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "verify", "--public-key", "key.pub.pem")
    assert (code, text) == (0, f"{made[1]}: whole\nnone of them is signed\n")


def test_json_says_the_same(made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]) -> None:
    digest = made[1]
    signed = json.loads(said(capsys, "sign", "gptq", "--key", "key.pem", "--json")[1])
    assert (signed["digest"], Path(signed["signature"]).is_file()) == (digest, True)
    told = json.loads(said(capsys, "verify", "gptq", "--public-key", "key.pub.pem", "--json")[1])
    reason = f"is signed with the key {signed['key']}"
    assert told == {digest: {"differences": [], "signature": {"verdict": "pass", "reason": reason}}}
    exported = json.loads(said(capsys, "export", "gptq", "out", "--json")[1])
    assert (exported["digest"], exported["signed"], exported["folder"]) == (digest, True, str(Path("out").resolve()))
    assert json.loads(said(capsys, "show", "gptq")[1])["signature"] == signed["signature"]


def test_a_signature_that_is_replaced_is_told(made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "sign", "gptq", "--key", "other.pem")
    assert "is gone" not in said(capsys, "sign", "gptq", "--key", "other.pem")[1]
    assert "is gone" in said(capsys, "sign", "gptq", "--key", "key.pem")[1]


def test_a_password_comes_from_the_environment(
    made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("secret.pem").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"pass word"))
    sign = ("sign", "gptq", "--key", "secret.pem")
    code, text = said(capsys, *sign)
    assert code == 2 and "--password-variable" in text
    code, text = said(capsys, *sign, "--password-variable", "KEY_PASSWORD")
    assert code == 2 and "KEY_PASSWORD is not set" in text
    monkeypatch.setenv("KEY_PASSWORD", "pass word")
    code, text = said(capsys, *sign, "--password-variable", "KEY_PASSWORD")
    assert code == 0 and "pass word" not in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("sign gptq", "wants --key too"),
        ("sign", "wants ARTIFACT and --key too"),
        ("show", "wants ARTIFACT too"),
        ("export gptq", "wants DIR too"),
        ("verify --signed --public-key key.pub.pem", "wants an ARTIFACT too"),
        ("verify gptq --signed", "wants --public-key too"),
        ("verify gptq --key key.pem", "knows no --key"),
        ("list gptq", "knows no ARTIFACT"),
        ("show gptq out", "knows no DIR"),
        ("sign gptq --key key.pem --signed", "knows no --signed"),
        ("verify gptq --public-key key.pem", "holds a private key"),
        ("verify --public-key key.pem", "holds a private key"),
        ("verify nowhere", "no model is called 'nowhere'"),
        ("verify ./nowhere", "is no exported artifact"),
        ("verify .", "is no exported artifact"),
        ("export baseline out", "no object in the store|is no artifact of"),
        ("export gptq out --run nowhere", "no finished run of"),
        ("sign gptq --key nowhere.pem", "nowhere.pem: cannot be read"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2(
    made: tuple[Workspace, str], capsys: pytest.CaptureFixture[str], arguments: str, told: str
) -> None:
    code, text = said(capsys, *arguments.split())
    assert code == 2
    assert any(one in text for one in told.split("|")), text
    assert "remedy: " in text
