"""Does the server answer at all, and with text?"""

from configs.errors import StageError
from registry.contracts.serving import Endpoint
from serving_checks.http_json import post_json

PROMPT = "The capital of France is"


def smoke_answer(endpoint: Endpoint, prompt: str = PROMPT, max_tokens: int = 16) -> str:
    """The greedy completion of `prompt`.

    Raises:
        StageError: No answer, an empty one, or log-probabilities that are not finite (weights that overflowed).
    """
    body = {
        "model": endpoint.served_model_name,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "logprobs": 1,
    }
    remedy = (
        "the artifact is broken or the engine's kernel is: look into the server's log and the artifact's inspection"
    )
    try:
        choice = post_json(f"{endpoint.base_url}/v1/completions", body)["choices"][0]
        text, logprobs = str(choice["text"]), choice["logprobs"]["token_logprobs"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StageError(f"the server gave no answer to {prompt!r}: {error!r}", remedy=remedy) from error
    if not text.strip():
        raise StageError(f"the server's answer to {prompt!r} is empty: {text!r}", remedy=remedy)
    # vLLM writes -9999.0 for what JSON cannot hold.
    if not all(isinstance(value, int | float) and -9999.0 < value <= 0.0 for value in logprobs):
        raise StageError(f"the answer to {prompt!r} has log-probabilities {logprobs}", remedy=remedy)
    return text
