"""Objects and exported folders held against their digests, and against their signatures where a key is given."""

from pathlib import Path
from typing import NamedTuple

from pipelines.execution.export import differences_of_export, exported_digest
from registry.signing import (
    SIGNATURE_FILE,
    SignatureOutcome,
    check_public_key,
    outcome_of,
    signature_outcome,
    signed_by,
)
from registry.store import Store


class Verified(NamedTuple):
    """What was found of one object or folder."""

    name: str
    differences: list[str]
    """From what its digest says; a signature is not asked for where there are any."""
    signature: SignatureOutcome | None
    """None where there is nothing to tell: no key was given, and nobody signed it."""

    def failed(self, signed: bool) -> bool:
        """Whether something is wrong with it.

        Args:
            signed: It has to be signed.
        """
        verdict = self.signature.verdict if self.signature else "inconclusive"
        return bool(self.differences) or verdict == "fail" or (signed and verdict != "pass")


def verified_object(store: Store, digest: str, public_key: Path | None) -> Verified:
    """An object of the store; every byte is read.

    Raises:
        RequestError: The key cannot be used, or the extra `signing` is not installed.
    """
    differences = store.verify(digest)
    if differences:
        return Verified(digest, differences, None)
    if public_key is None:
        return Verified(digest, [], _unchecked(store.signature_file(digest)))
    return Verified(digest, [], signature_outcome(store, digest, public_key))


def verified_folder(folder: Path, public_key: Path | None) -> Verified:
    """A folder that was exported; every byte is read.

    Raises:
        RequestError: It is none, the key cannot be used, or the extra `signing` is not installed.
    """
    if public_key is not None:
        check_public_key(public_key)
    name, signature = f"{folder}, {exported_digest(folder)}", folder / SIGNATURE_FILE
    differences = differences_of_export(folder)
    if differences:
        return Verified(name, differences, None)
    if public_key is None:
        return Verified(name, [], _unchecked(signature))
    if not signature.is_file():
        return Verified(name, [], SignatureOutcome("inconclusive", "is not signed"))
    return Verified(name, [], outcome_of(folder, signature, public_key))


def _unchecked(signature: Path) -> SignatureOutcome | None:
    """What is told of a signature for which no key was given."""
    if not signature.is_file():
        return None
    key = signed_by(signature)
    if key is None:
        return SignatureOutcome("fail", "has a signature that is damaged: it cannot be read, or names no key")
    return SignatureOutcome("inconclusive", f"is signed, not checked: give --public-key (it names the key {key})")
