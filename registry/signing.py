"""Signatures of the store's objects by OpenSSF Model Signing, with a key pair of one's own and without a network.

A signature is a Sigstore bundle over the digests of an object's files (model_signing 1.1, predicate
https://model_signing/signature/v1.0). It lies beside the object and not in it, and is no part of its digest. What an
export writes beside the model's files is told to the verifier as ignored, so one signature holds for the object in the
store and for every export of it, and for upstream's own command.
"""

import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from configs.errors import RequestError, StageError, UnreadableError
from configs.reading.json_text import read_json_object
from configs.reading.text import read_text
from registry.contracts.comparison import Verdict
from registry.files import write_text_atomically
from registry.os_faults import check_not_refused
from registry.store import Store

CARD_FILE = "README.md"
BILL_FILE = "bom.cdx.json"
MANIFEST_FILE = "quantbench-manifest.json"
SIGNATURE_FILE = "model.sig"
UNSIGNED = (CARD_FILE, BILL_FILE, MANIFEST_FILE, SIGNATURE_FILE)
"""Files that are about the model and not of it: an export writes its own, and no signature covers them."""

_KEY_BYTES = 64 << 10
_SIGNATURE_BYTES = 16 << 20
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_DIGESTS = re.compile(r": Expected 'Digest\(.*?\)', Actual 'Digest\(.*?\)'", re.DOTALL)
"""What the library adds to the name of a file that is not as it was signed: bytes, as Python writes them."""
_ENCRYPTED = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED")
"""How a PEM file says so: PKCS #8, and the older form of OpenSSL."""
_MAKE_PRIVATE = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out private.pem"
_MAKE_PUBLIC = "openssl pkey -in private.pem -pubout -out public.pem"


class SignatureOutcome(NamedTuple):
    """What a signature says of an object: pass, fail, or inconclusive where there is none."""

    verdict: Verdict
    reason: str
    """In a sentence without a subject, such as `is not signed`."""


def sign(store: Store, digest: str, private_key: Path, password: str | None = None) -> str:
    """Sign an object; an older signature of it is replaced.

    Args:
        private_key: An EC key in PEM: P-256, P-384 or P-521.
        password: What the key is encrypted with; None where it is not.

    Returns:
        The key by its fingerprint: `sha256:<hex>` of the public key's PEM file, as OpenSSL writes it.

    Raises:
        RequestError: The key cannot be used, or the extra `signing` is not installed.
        DamagedObject: The object's bytes are not those of its digest.
        StageError: It holds something else than plain files.
    """
    library = _library()
    signer = _signer(library, private_key, password)
    folder = store.open(digest)
    with store.staging() as staging:
        made = staging / SIGNATURE_FILE
        try:
            signer.sign(folder, made)
        except ValueError as error:  # Such as a link: the library takes files and folders only.
            raise StageError(
                f"{store.path(digest)} cannot be signed: {error}",
                remedy="run its recipe again: artifacts hold plain files",
            ) from error
        # What was read for the signature was the object, or it would show now.
        store.open(digest)
        write_text_atomically(store.signature_file(digest), read_text(made, _SIGNATURE_BYTES))
    return str(signed_by(store.signature_file(digest)))


def signature_outcome(store: Store, digest: str, public_key: Path) -> SignatureOutcome:
    """Whether an object is whole and was signed with the private half of `public_key`.

    Raises:
        RequestError: The key cannot be used, or the extra `signing` is not installed.
    """
    check_public_key(public_key)
    differences = store.differences(digest)
    if differences:
        return SignatureOutcome("fail", f"is damaged: {'; '.join(differences)}")
    if not store.signature_file(digest).is_file():
        return SignatureOutcome("inconclusive", "is not signed")
    return outcome_of(store.path(digest), store.signature_file(digest), public_key)


def outcome_of(folder: Path, signature: Path, public_key: Path) -> SignatureOutcome:
    """Whether `signature` is one of the model's files in `folder`, made with the private half of `public_key`.

    Raises:
        RequestError: The key cannot be used, or the extra `signing` is not installed.
        StageError: The machine refused to read the files.
    """
    verifier = _verifier(_library(), public_key)
    key = signed_by(signature)
    if key is None:
        return SignatureOutcome("fail", "has a signature that is damaged: it cannot be read, or names no key")
    try:
        verifier.verify(folder, signature)
    except Exception as error:  # The library and those below it raise a dozen types for what is not as it should be.
        check_not_refused(error, f"verifying the signature of {folder}", folder)
        return SignatureOutcome("fail", _why(error, key, public_key))
    return SignatureOutcome("pass", f"is signed with the key {key}")


def signed_by(signature: Path) -> str | None:
    """Fingerprint of the key that a signature says it was made with, which is no proof; None where it says nothing."""
    try:
        told: Any = read_json_object(signature, _SIGNATURE_BYTES)
    except UnreadableError:
        return None
    for key in ("verificationMaterial", "publicKey", "hint"):
        told = told.get(key) if isinstance(told, dict) else None
    return f"sha256:{told}" if isinstance(told, str) and _FINGERPRINT.fullmatch(told) else None


def check_public_key(path: Path) -> None:
    """Refuse, before anything is read, a key by which nothing can be verified (RequestError)."""
    _verifier(_library(), path)


def _why(error: Exception, key: str, public_key: Path) -> str:
    said = str(error)
    if said.startswith("Key mismatch"):
        return f"is signed with another key than {public_key}: with {key}"
    if said.startswith("Signature mismatch"):
        told = _DIGESTS.sub("", said.removeprefix("Signature mismatch: ").strip("[]"))
        return f"is not what was signed: {told}"
    return f"has a signature that does not verify: it is damaged or forged ({type(error).__name__})"


def _library() -> ModuleType:
    try:
        import model_signing
    except ImportError as error:
        raise RequestError(
            f"signatures need packages that are not installed here ({error.name})",
            remedy="pip install 'quantbench[signing]'",
            blame="machine",
        ) from error
    return model_signing


def _signer(library: ModuleType, path: Path, password: str | None) -> Any:
    text = read_text(path, _KEY_BYTES)
    if "PRIVATE KEY-----" not in text:
        kind = "a public key" if "PUBLIC KEY-----" in text else "no private key in PEM"
        raise RequestError(f"{path} holds {kind}", remedy=f"name the private key; {_MAKE_PRIVATE} makes one")
    encrypted = any(mark in text for mark in _ENCRYPTED)
    if encrypted and password is None:
        raise RequestError(
            f"the key in {path} is encrypted",
            remedy="put its password into an environment variable and name that with --password-variable",
        )
    if password is not None and not encrypted:
        raise RequestError(f"the key in {path} is not encrypted", remedy="leave --password-variable out")
    try:
        # The library is annotated for text, and hands it to a function that takes bytes only.
        signer = library.signing.Config().use_elliptic_key_signer(
            private_key=path, password=password.encode() if password is not None else None
        )
    except Exception as error:  # Of cryptography's, or an AttributeError where the key is none of elliptic curves.
        check_not_refused(error, f"reading {path}", path.parent)
        wrong = "the password does not open it, or it" if encrypted else "it"
        raise RequestError(
            f"the key in {path} cannot be used: {wrong} is no EC key on P-256, P-384 or P-521",
            remedy=f"mend the password, or make a key: {_MAKE_PRIVATE}" if encrypted else f"make one: {_MAKE_PRIVATE}",
        ) from None
    return signer.set_hashing_config(library.hashing.Config().set_ignored_paths(paths=UNSIGNED))


def _verifier(library: ModuleType, path: Path) -> Any:
    text = read_text(path, _KEY_BYTES)
    if "PRIVATE KEY-----" in text:
        raise RequestError(f"{path} holds a private key", remedy=f"name its public half: {_MAKE_PUBLIC}")
    try:
        return library.verifying.Config().use_elliptic_key_verifier(public_key=path)
    except Exception as error:  # As for a private key.
        check_not_refused(error, f"reading {path}", path.parent)
        raise RequestError(
            f"{path} holds no public EC key on P-256, P-384 or P-521 in PEM",
            remedy=f"name the public half of the key: {_MAKE_PUBLIC}",
        ) from None
