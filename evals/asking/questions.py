"""lm-eval's requests as questions in token ids: tokenized, cut to the model's context and split into windows as lm-eval
does it, so that its scores come out."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.errors import StageError
from evals.asking.chat_template import ChatTemplate
from evals.asking.request_plan import NOTHING, Answer, Generate, LogLikelihood, Question, Score
from evals.suites.generation import generation
from registry.texts import text_ids, tokenizer_digest

_REQUESTS_A_BATCH = 256
"""Tokenized at once: many for speed, not all since every choice repeats its context."""
_SEED = 1234


def import_libraries() -> None:
    """Import ahead what takes seconds, so that a server does not wait for it."""
    import lm_eval.models.utils
    import transformers

    # Lazy modules load their parts when a name is asked for.
    _ = lm_eval.models.utils.normalize_gen_kwargs, transformers.AutoTokenizer


@dataclass(frozen=True)
class Questioned:
    """One lm-eval request (an `Instance`) and what is asked for it."""

    instance: Any
    questions: tuple[Question, ...]
    """One; several for a text in windows or an answer that is sampled several times."""
    prompt_tokens: int
    truncated: bool
    """Its beginning did not fit into the context and was left out."""
    windows: int = 0
    """Pieces of a running text."""

    def responses(self, answers: Mapping[Question, Answer]) -> list[Any]:
        """What lm-eval wants in `Instance.resps`, one for each repeat."""
        if self.instance.request_type == "generate_until":
            return [_cut(str(answers[question]), question) for question in self.questions]
        whole = self.likelihood(answers)
        if self.instance.request_type == "loglikelihood_rolling":
            return [whole.nats] * self.instance.repeats
        return [(whole.nats, whole.greedy)] * self.instance.repeats

    def likelihood(self, answers: Mapping[Question, Answer]) -> LogLikelihood:
        """Of all that was asked together; nothing of texts."""
        found = (answers[question] for question in self.questions)
        return sum((answer for answer in found if isinstance(answer, LogLikelihood)), NOTHING)


class Questioner:
    """Makes questions with one model's tokenizer.

    A text begins as the model expects it (`registry.texts`), as in lm-eval's `hf` and `vllm`. One token of the context
    stays free for an answer, as in all of lm-eval's served models.
    """

    def __init__(self, model_path: str, max_model_len: int) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
        self._model_path = model_path
        self.max_model_len = max_model_len
        self._room = max_model_len - 1
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        if bos is None and eos is None:
            raise StageError(
                f"the tokenizer in {model_path} has neither BOS nor EOS: a text's first token has no context",
                remedy="add the model's tokenizer_config.json",
                blame="source",
            )
        self._prefix: int = eos if bos is None else bos

    @functools.cached_property
    def tokenizer_digest(self) -> str:
        """Of what makes tokens of texts and texts of tokens."""
        return tokenizer_digest(self._tokenizer)

    @functools.cached_property
    def chat_template(self) -> ChatTemplate:
        """The model's.

        Raises:
            StageError: It has none.
        """
        return ChatTemplate(self._tokenizer, self._model_path)

    def ask(self, instances: Sequence[Any]) -> list[Questioned]:
        """Questions for lm-eval's instances, in their order."""
        asked = []
        for first in range(0, len(instances), _REQUESTS_A_BATCH):
            batch = instances[first : first + _REQUESTS_A_BATCH]
            texts: dict[str, None] = {}
            for instance in batch:
                texts.update(dict.fromkeys(_texts_of(instance)))
            tokens = self._encode(list(texts))
            asked += [self._question(instance, tokens) for instance in batch]
        return asked

    def _question(self, instance: Any, tokens: Mapping[str, tuple[int, ...]]) -> Questioned:
        if instance.request_type == "loglikelihood":
            return self._likelihood(instance, tokens)
        if instance.request_type == "loglikelihood_rolling":
            return self._rolling(instance, tokens)
        if instance.request_type == "generate_until":
            return self._generate(instance, tokens)
        raise StageError(
            f"task {instance.task_name} sends requests of type {instance.request_type}",
            remedy="choose tasks of the types loglikelihood, loglikelihood_rolling, multiple_choice or generate_until",
        )

    def _likelihood(self, instance: Any, tokens: Mapping[str, tuple[int, ...]]) -> Questioned:
        text, continuation_text = _pair(*instance.args)
        if text:
            context = tokens[text]
            continuation = tokens[text + continuation_text][len(context) :]
        else:
            continuation = self._plain(continuation_text)
            if continuation[:1] == (self._prefix,):
                context, continuation = continuation[:1], continuation[1:]
            else:
                context = (self._prefix,)
        if not continuation:
            raise StageError(
                f"{_place(instance)}: the choice {continuation_text!r} has no token of its own after {text[-40:]!r}, so"
                " it would be certain and beat every other",
                remedy="the tokenizer joins it with the context's last word, and lm-eval refuses such a pair too: take"
                " the item out of the task's rows, or leave the task out",
                blame="source",
            )
        excess = max(0, len(context) + len(continuation) - self._room)
        kept = context[excess:]
        if not kept:
            raise StageError(
                f"{_place(instance)}: a choice of {len(continuation)} tokens is longer than the context",
                remedy="raise `max_model_len`, or leave the task out",
            )
        return Questioned(instance, (Score(kept, continuation),), len(kept), excess > 0)

    def _rolling(self, instance: Any, tokens: Mapping[str, tuple[int, ...]]) -> Questioned:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        text = list(tokens[instance.args[0]])
        windows = get_rolling_token_windows(text, self._prefix, max_seq_len=self._room - 1, context_len=1)
        questions = tuple(
            Score(tuple(context), tuple(continuation)) for context, continuation in map(make_disjoint_window, windows)
        )
        return Questioned(instance, questions, len(text), truncated=False, windows=len(questions))

    def _generate(self, instance: Any, tokens: Mapping[str, tuple[int, ...]]) -> Questioned:
        from lm_eval.models.utils import handle_stop_sequences

        text, settings = instance.args
        wanted = generation(instance.task_name, settings)
        prompt = tokens[text] or (self._prefix,)
        room = self._room - wanted.max_tokens
        if room < 1:
            raise StageError(
                f"task {instance.task_name}: answers of {wanted.max_tokens} tokens leave no room for a prompt",
                remedy="raise `max_model_len`, or leave the task out",
            )
        repeats = instance.repeats if wanted.temperature > 0 else 1
        questions = tuple(
            Generate(
                prompt=prompt[-room:],
                max_tokens=wanted.max_tokens,
                stop=tuple(handle_stop_sequences(list(wanted.stop), self._tokenizer.eos_token)),
                temperature=wanted.temperature,
                seed=_SEED + repeat,
                options=json.dumps(dict(wanted.sampling), sort_keys=True),
            )
            for repeat in range(repeats)
        ) * (instance.repeats // repeats)
        return Questioned(instance, questions, min(room, len(prompt)), len(prompt) > room)

    def _encode(self, texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
        return dict(zip(texts, map(tuple, text_ids(self._tokenizer, texts)), strict=True))

    def length(self, text: str) -> int:
        """In tokens, as a model writes it."""
        return len(self._plain(text))

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, return_attention_mask=False).input_ids)


def _cut(text: str, question: Question) -> str:
    """At the first of all stop sequences: one that came with others in a single token, a server may pass over."""
    from lm_eval.models.utils import postprocess_generated_text

    stop = list(question.stop) if isinstance(question, Generate) else None
    return str(postprocess_generated_text(text, stop, None))


def _place(instance: Any) -> str:
    return f"task {instance.task_name}, item {instance.doc_id}"


def _pair(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the context's end belong to the continuation: tokenizers join them with the next word."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _texts_of(instance: Any) -> list[str]:
    if instance.request_type == "loglikelihood":
        context, continuation = _pair(*instance.args)
        return [context, context + continuation] if context else []
    return [instance.args[0]]
