"""Does the server answer at all, and with text?"""

from collections.abc import Callable
from urllib.error import HTTPError

from configs.errors import RequestError, StageError
from registry.contracts.serving import Endpoint
from serving_checks.transport.http_json import authorization, post_json, refusal

PROMPT = "The capital of France is"


def smoke_answer(
    endpoint: Endpoint,
    prompt: str = PROMPT,
    max_tokens: int = 16,
    *,
    with_logprobs: bool = True,
    unquantized: bool = False,
    remedy_for: Callable[[int], str | None] = lambda status: None,
) -> str:
    """The greedy completion of `prompt`.

    Args:
        unquantized: The model is as it came: what is wrong with its answer is no artifact's fault.
        with_logprobs: Ask for log-probabilities too, where the engine gives them.
        remedy_for: Of the engine.

    Raises:
        RequestError: The server refuses, and the config can be changed so that it does not.
        StageError: No answer, an empty one, or log-probabilities that are not finite (weights that overflowed).
    """
    body = {
        "model": endpoint.served_model_name,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.0,
    } | ({"logprobs": 1} if with_logprobs else {})
    silent = "look into the server's log for why: it would do so again"
    url, key = f"{endpoint.base_url}/v1/completions", endpoint.api_key_variable
    try:
        choice = post_json(url, body, api_key_variable=key)["choices"][0]
        text, logprobs = str(choice["text"]), choice["logprobs"]["token_logprobs"] if with_logprobs else []
    except HTTPError as error:
        told = refusal(error.code, error.reason, error.read().decode(errors="replace"), authorization(key))
        what, mended = f"the server answered {prompt!r} with {told}", remedy_for(error.code)
        raise (
            RequestError(what, remedy=mended) if mended else StageError(what, remedy=silent, blame="engine")
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        what = f"the server gave no answer to {prompt!r}: {error!r}"
        raise StageError(what, remedy=silent, blame="engine") from error
    if not text.strip():
        raise _unsound(f"the server's answer to {prompt!r} is empty: {text!r}", unquantized)
    # -9999.0 stands for what JSON cannot hold (vLLM).
    if not all(isinstance(value, int | float) and -9999.0 < value <= 0.0 for value in logprobs):
        raise _unsound(f"the answer to {prompt!r} has log-probabilities {logprobs}", unquantized)
    return text


def _unsound(what: str, unquantized: bool) -> StageError:
    if unquantized:
        return StageError(
            f"{what}, from the source's own weights",
            remedy="nothing was quantized yet: see whether another program gets an answer from the source, or serve it"
            " in another dtype",
            blame="source",
        )
    return StageError(
        what,
        remedy="the artifact is broken or the engine's kernel for it is: look into the server's log and the artifact's"
        " inspection",
        blame="engine",
    )
