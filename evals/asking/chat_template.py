"""A conversation as the text that a chat model reads: as lm-eval's `hf` model writes it, but always on the same day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2

from configs.errors import StageError
from registry.hashing import digest_of

_TODAY = datetime(2024, 7, 26)
"""Some templates write the day's date, and prompts of two days do not pair: for them it is the day that Llama 3.1's
template names."""

_REFUSALS = (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError)
"""Of a conversation by a template: in its own words, or by stumbling over it."""

Messages = Sequence[dict[str, str]]


class ChatTemplate:
    """The template of a served model; called as lm-eval calls `LM.apply_chat_template`.

    Args:
        tokenizer: The model's, of transformers.
        model_path: For messages.

    Raises:
        StageError: The model has no template, or several and none is the default.
    """

    def __init__(self, tokenizer: Any, model_path: str) -> None:
        try:
            tokenizer.get_chat_template()
        except ValueError as error:
            raise StageError(
                f"the tokenizer in {model_path} has no chat template, or several without a default",
                remedy="add the model's chat_template.jinja, or take `chat_template` out of a copy of the suite's file",
            ) from error
        self._tokenizer, self._model_path = tokenizer, model_path

    @property
    def digest(self) -> str:
        """Of the template's text."""
        return digest_of(self._tokenizer.get_chat_template())

    def __call__(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        """The conversation up to where the model's answer begins or, without the prompt for one, goes on.

        Raises:
            StageError: The template refuses it, also without its system message.
        """
        try:
            return self._rendered(messages, add_generation_prompt)
        except _REFUSALS:
            # Some templates refuse a system message; lm-eval leaves it out for them.
            rest = [message for message in messages if message["role"] != "system"]
        try:
            return self._rendered(rest, add_generation_prompt)
        except _REFUSALS as error:
            raise StageError(
                f"the chat template of {self._model_path} refuses a conversation of"
                f" {', '.join(message['role'] for message in messages)}: {error}",
                remedy="mend the model's chat template, or take `chat_template` out of a copy of the suite's file",
            ) from error

    def _rendered(self, messages: Messages, add_generation_prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            strftime_now=_TODAY.strftime,
        )
        return text
