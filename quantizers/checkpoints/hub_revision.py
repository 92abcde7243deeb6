"""The commit that a branch or tag of the hub points to now."""

import re

from configs.errors import RequestError, StageError
from quantizers.checkpoints.sources import HubSource

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SECONDS = 30.0


def at_commit(source: HubSource) -> HubSource:
    """The source at the commit that its revision means now; a commit is never asked about.

    Raises:
        RequestError: The hub has no such model or revision, or does not show it.
        StageError: It does not answer, so that nobody knows what the revision means now.
    """
    if _COMMIT.fullmatch(source.revision):
        return source
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    what = f"{source.id} at {source.revision}"
    try:
        commit = HfApi().model_info(source.id, revision=source.revision, timeout=_TIMEOUT_SECONDS).sha
    except RevisionNotFoundError as error:
        raise RequestError(
            f"the hub has no revision {source.revision} of {source.id}", remedy="name a branch, a tag or a commit"
        ) from error
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise RequestError(
            f"the hub does not show {source.id}: it is not there, private or gated",
            remedy="check the id, accept the model's terms, and log in with a token that may read it (`hf auth login`)",
        ) from error
    except Exception as error:  # The hub's client raises dozens of types; all of them mean the same to a user.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StageError(
            f"the hub does not tell which commit {what} is now: {reason}",
            remedy=f"try again when it answers, or name a commit, which needs no answer{_seen_last(source)}",
            blame="machine",
        ) from error
    if commit is None or not _COMMIT.fullmatch(commit):
        raise StageError(
            f"the hub tells no commit of {what}", remedy="name a commit as `source.revision`", blame="source"
        )
    return source.model_copy(update={"revision": commit})


def _seen_last(source: HubSource) -> str:
    """The commit that the revision meant when it was fetched to this disk last, in words."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.id, "config.json", revision=source.revision)
    if not isinstance(found, str):
        return ""
    commit = next((part for part in found.split("/") if _COMMIT.fullmatch(part)), None)
    return f"; on this disk it was {commit}" if commit else ""
