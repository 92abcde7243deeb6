"""A signature holds for an object's own files and for nothing else; what does not hold is told apart."""

import base64
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from configs.errors import RequestError, StageError
from registry import signing
from registry.signing import UNSIGNED, outcome_of, sign, signature_outcome, signed_by
from registry.store import DamagedObject, Store
from tests.full_disk import full_disk
from tests.unit.pipelines.export_records import private_pem, write_keys


class Signed(NamedTuple):
    store: Store
    digest: str
    private: Path
    public: Path

    @property
    def file(self) -> Path:
        return self.store.signature_file(self.digest)


def put(store: Store, **files: str) -> str:
    with store.staging() as staging:
        for name, text in files.items():
            (staging / name).write_text(text)
        return store.put(staging).digest


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    store = Store(tmp_path / "store")
    digest = put(store, weights="1" * 100, config="2")
    private, public = write_keys(tmp_path)
    key = sign(store, digest, private)
    assert key == f"sha256:{hashlib.sha256(public.read_bytes()).hexdigest()}"
    return Signed(store, digest, private, public)


def flip(path: Path, place: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_signature_lies_beside_its_object(signed: Signed) -> None:
    outcome = signature_outcome(signed.store, signed.digest, signed.public)
    assert outcome.verdict == "pass"
    assert outcome.reason == f"is signed with the key {signed_by(signed.file)}"
    assert signed.store.verify(signed.digest) == []
    assert signed.store.digests() == [signed.digest]
    assert signed.file.parent.name == "signatures"
    assert [path.name for path in signed.file.parent.iterdir()] == [signed.file.name]


def test_nobody_signed_it(signed: Signed) -> None:
    other = put(signed.store, weights="3")
    assert signature_outcome(signed.store, other, signed.public) == ("inconclusive", "is not signed")


def test_damage_is_told_by_the_digest_before_the_signature_is_asked(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(signed.store.path(signed.digest) / "weights")
    monkeypatch.setattr(signing, "outcome_of", lambda *_: pytest.fail("the signature was asked"))
    assert signature_outcome(signed.store, signed.digest, signed.public) == ("fail", "is damaged: weights: changed")
    with pytest.raises(DamagedObject):
        sign(signed.store, signed.digest, signed.private)


def test_another_key(signed: Signed, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path, "other")
    outcome = signature_outcome(signed.store, signed.digest, other)
    assert outcome.verdict == "fail"
    assert outcome.reason == f"is signed with another key than {other}: with {signed_by(signed.file)}"


def test_the_signature_of_another_object(signed: Signed) -> None:
    other = put(signed.store, weights="3", more="4")
    sign(signed.store, other, signed.private)
    shutil.copyfile(signed.store.signature_file(other), signed.file)
    outcome = signature_outcome(signed.store, signed.digest, signed.public)
    assert outcome.verdict == "fail"
    assert outcome.reason.startswith("is not what was signed: ")
    for part in ("config", "more", "weights"):
        assert part in outcome.reason


def test_no_flipped_byte_of_a_signature_passes(signed: Signed) -> None:
    whole = signed.file.read_bytes()
    payload = whole.index(b'"payload"')
    places = {*range(0, len(whole), 29), payload + 20, len(whole) - 30}
    for place in sorted(places):
        signed.file.write_bytes(whole)
        flip(signed.file, place)
        outcome = signature_outcome(signed.store, signed.digest, signed.public)
        # A letter of a name that nobody reads may change; what is signed may not.
        assert outcome.verdict == "fail" or _says_the_same(signed.file.read_bytes(), whole), (place, outcome)
    signed.file.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in signature_outcome(signed.store, signed.digest, signed.public).reason
    signed.file.write_bytes(b"")
    assert "is damaged" in signature_outcome(signed.store, signed.digest, signed.public).reason


def _says_the_same(changed: bytes, whole: bytes) -> bool:
    """Whether payload and signature are the same: the last letter of base64 holds bits that mean nothing."""
    told = []
    for content in (changed, whole):
        envelope = json.loads(content)["dsseEnvelope"]
        told.append([base64.b64decode(one) for one in (envelope["payload"], envelope["signatures"][0]["sig"])])
    return told[0] == told[1]


def test_what_an_export_adds_is_not_signed_and_all_else_is(signed: Signed, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(signed.store.path(signed.digest), copy)
    for name in UNSIGNED:
        (copy / name).write_text("something")
    assert outcome_of(copy, signed.file, signed.public).verdict == "pass"
    (copy / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in outcome_of(copy, signed.file, signed.public).reason
    (copy / "tokenizer.json").unlink()
    flip(copy / "weights")
    reason = "is not what was signed: \"Hash mismatch for 'weights'\""
    assert outcome_of(copy, signed.file, signed.public) == ("fail", reason)


def test_a_link_to_the_same_bytes_is_no_file(signed: Signed, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(signed.store.path(signed.digest), copy)
    (copy / "weights").unlink()
    (copy / "weights").symlink_to(signed.store.path(signed.digest) / "weights")
    assert outcome_of(copy, signed.file, signed.public).verdict == "fail"


def test_an_object_with_a_link_is_not_signed(signed: Signed, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("1")
    with signed.store.staging() as staging:
        (staging / "weights").symlink_to(tmp_path / "elsewhere")
        digest = signed.store.put(staging).digest
    with pytest.raises(StageError, match=r"cannot be signed: .* symlink"):
        sign(signed.store, digest, signed.private)
    assert not signed.store.signature_file(digest).exists()


def test_a_signature_outlives_its_object(signed: Signed) -> None:
    signed.store.discard(signed.digest)
    assert signature_outcome(signed.store, signed.digest, signed.public).verdict == "fail"
    assert put(signed.store, weights="1" * 100, config="2") == signed.digest
    assert signature_outcome(signed.store, signed.digest, signed.public).verdict == "pass"


def test_signing_anew_replaces_the_signature(signed: Signed, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path, "other", ec.SECP384R1())
    sign(signed.store, signed.digest, private)
    assert signature_outcome(signed.store, signed.digest, public).verdict == "pass"
    assert signature_outcome(signed.store, signed.digest, signed.public).verdict == "fail"


def test_a_full_disk_leaves_the_old_signature(signed: Signed) -> None:
    before = signed.file.read_bytes()
    with full_disk(signed.file.parent, room=0), pytest.raises(OSError, match="No space left"):
        sign(signed.store, signed.digest, signed.private)
    assert signed.file.read_bytes() == before
    assert [path.name for path in signed.file.parent.iterdir()] == [signed.file.name]


def test_a_key_with_a_password(signed: Signed, tmp_path: Path) -> None:
    path = tmp_path / "encrypted.pem"
    path.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    with pytest.raises(RequestError, match="is encrypted") as caught:
        sign(signed.store, signed.digest, path)
    assert "--password-variable" in caught.value.remedy
    with pytest.raises(RequestError, match="the password does not open it"):
        sign(signed.store, signed.digest, path, "wrong")
    assert sign(signed.store, signed.digest, path, "secret").startswith("sha256:")
    with pytest.raises(RequestError, match="is not encrypted"):
        sign(signed.store, signed.digest, signed.private, "secret")


def other_kinds(folder: Path) -> dict[str, bytes]:
    return {
        "RSA": private_pem(rsa.generate_private_key(65537, 2048)),
        "another curve": private_pem(ec.generate_private_key(ec.SECP256K1())),
        "cut off": write_keys(folder, "cut")[0].read_bytes()[:100] + b"\n-----END PRIVATE KEY-----\n",
    }


def test_private_keys_of_other_kinds(signed: Signed, tmp_path: Path) -> None:
    path = tmp_path / "other.pem"
    for kind, content in other_kinds(tmp_path).items():
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"is no EC key on P-256") as caught:
            sign(signed.store, signed.digest, path)
        assert "openssl genpkey" in caught.value.remedy, kind
    for content, said in ((signed.public.read_bytes(), "a public key"), (b"hello", "no private key"), (b"", "no priv")):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=f"holds {said}"):
            sign(signed.store, signed.digest, path)
    for wrong in (tmp_path / "none.pem", tmp_path):
        with pytest.raises(RequestError, match=str(wrong)):
            sign(signed.store, signed.digest, wrong)


def test_public_keys_of_other_kinds(signed: Signed, tmp_path: Path) -> None:
    path = tmp_path / "other.pem"
    for content in (b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        path.write_bytes(content)
        with pytest.raises(RequestError, match="holds no public EC key"):
            signature_outcome(signed.store, signed.digest, path)
    with pytest.raises(RequestError, match="holds a private key") as caught:
        signature_outcome(signed.store, signed.digest, signed.private)
    assert "-pubout" in caught.value.remedy
    with pytest.raises(RequestError, match="cannot be read"):
        signature_outcome(signed.store, signed.digest, tmp_path / "none.pem")


def test_without_the_extra(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for asked in (sign, signature_outcome):
        with pytest.raises(RequestError, match="not installed here") as caught:
            asked(signed.store, signed.digest, signed.private)
        assert caught.value.remedy == "pip install 'quantbench[signing]'"
