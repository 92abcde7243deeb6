"""Scores a served model on a suite: lm-eval makes prompts and judges answers, `evals.asking.client` gets them."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import StageError
from evals.asking.alone import ask_alone
from evals.asking.client import SILENCE_SECONDS, Client
from evals.asking.hub_data import OFFLINE, fetch
from evals.asking.questions import Questioned, Questioner, import_libraries
from evals.asking.request_cache import RequestCache
from evals.asking.request_plan import Answer, Question
from evals.judging.adaptive import Adaptive, Asked, evaluate_adaptively
from evals.judging.pairing import check_conditions
from evals.samples import SAMPLES_FILE, Sample, category_score, write_samples
from evals.suites.resolve import ResolvedSuite, ResolvedTask
from evals.suites.suite import Category
from registry.contracts import AskedAlone, AskingConditions, CategoryLook, Endpoint, EvaluationRecord, TaskScore

OnProgress = Callable[[int, int], None]

_QUIET = {"HF_DATASETS_TRUST_REMOTE_CODE": "0", "TQDM_DISABLE": "1"}
_POOLED = {"word_perplexity", "byte_perplexity"}
"""lm-eval keeps these per item as (log-likelihood, words or bytes); they are pooled over all items."""


@dataclass(frozen=True)
class Prepared:
    """A suite whose tasks are built: what takes lm-eval long and needs no server."""

    resolved: ResolvedSuite
    tasks: Mapping[str, Any]
    """Leaf task's name -> lm-eval's object."""

    def evaluate(
        self,
        endpoint: Endpoint,
        *,
        model_digest: str,
        output_dir: Path,
        num_concurrent: int,
        on_progress: OnProgress,
        cache_file: Path | None = None,
        cache_facts: Mapping[str, str] | None = None,
        engine: Mapping[str, str] | None = None,
        adaptive: Adaptive | None = None,
        silence_seconds: float = SILENCE_SECONDS,
        alone: int = 0,
        further: Callable[[], Sequence[Endpoint]] | None = None,
    ) -> EvaluationRecord:
        """Score the model behind `endpoint`; per-item results go to `output_dir/samples.parquet`.

        Args:
            endpoint: A running server; its model directory holds the tokenizer.
            num_concurrent: Requests kept open at once at each server.
            on_progress: Told (questions answered, questions in all); of an adaptive evaluation, in all so far.
            cache_file: Keeps every answer at once: what is there is not asked again. One file for each model and
                engine; it refuses to serve others.
            cache_facts: What an answer depends on besides model, context length and question: engine, version, dtype.
            engine: What of the engine shapes an answer, for `AskingConditions`.
            adaptive: Asks look by look until every category is decided; all items of the suite when left out.
            silence_seconds: When to give up on a server that answers nothing and computes nothing.
            alone: Items that are asked once more with nothing beside them, at most.
            further: Waits for servers that are alike and still start; they share the questions with the first.

        Raises:
            StageError: The server stopped answering, or answered with what is no number; a task lacks documents, or the
                model the chat template that a category asks for; or the model is not asked as the baseline was.
        """
        with ExitStack() as stack:
            cache = None
            if cache_file is not None:
                facts = {"model_digest": model_digest, "max_model_len": str(endpoint.max_model_len)}
                cache = stack.enter_context(RequestCache(cache_file, facts | dict(cache_facts or {})))
            client = Client([endpoint], num_concurrent, cache, silence_seconds, further)
            asker = Asker(self, endpoint, client, on_progress)
            conditions = asker.conditions(engine or {})
            if adaptive is None:
                asked = Asked(asker.ask(asker.items), [])
            else:
                check_conditions(adaptive.baseline.conditions, conditions)
                asked = evaluate_adaptively(adaptive, self.resolved.suite, asker.ask)
            again = self._ask_alone(asker, asked.samples, alone) if alone else None
        order = {task.name: place for place, task in enumerate(self.resolved.tasks)}
        samples = sorted(asked.samples, key=lambda sample: (order[sample.task], sample.doc_id))
        write_samples(output_dir / SAMPLES_FILE, samples)
        record = self._record(samples, model_digest, asker, conditions, asked.looks)
        return record.model_copy(update={"asked_alone": again, "servers": len(client.endpoints)})

    def _ask_alone(self, asker: Asker, samples: Sequence[Sample], most: int) -> AskedAlone | None:
        shares = {category.name for category in self.resolved.suite.categories if category.unit == "share"}
        return ask_alone(asker.one_at_a_time().ask, [one for one in samples if one.category in shares], most)

    def _record(
        self,
        samples: list[Sample],
        model_digest: str,
        asker: Asker,
        conditions: AskingConditions,
        looks: list[CategoryLook],
    ) -> EvaluationRecord:
        tasks, categories = [], []
        for category in self.resolved.suite.categories:
            mine = [sample for sample in samples if sample.category == category.name]
            categories.append(category_score(category, mine))
            for task in self._names(category):
                score = category_score(category, [sample for sample in mine if sample.task == task])
                fields = score.model_dump(include=set(TaskScore.model_fields) - {"schema_version"})
                tasks.append(TaskScore(task=task, filter=category.filter, **fields))
        return EvaluationRecord(
            model_digest=model_digest,
            conditions=conditions,
            suite=self.resolved.suite.name,
            suite_version=self.resolved.suite.version,
            suite_digest=self.resolved.digest,
            tasks=tasks,
            categories=categories,
            samples_file=SAMPLES_FILE,
            requests=asker.questions,
            requests_sent=asker.client.counts.requests,
            answers_from_cache=asker.client.counts.from_cache,
            truncated_prompts=asker.truncated_prompts,
            looks=looks,
        )

    def _names(self, category: Category) -> list[str]:
        return [task.name for task in self.resolved.of(category.name)]


def prepare(resolved: ResolvedSuite) -> Prepared:
    """Import lm-eval and build the suite's tasks; takes seconds, so it is done while a server starts.

    Rows that this machine's cache lacks are fetched first.

    Raises:
        RequestError: They cannot be had.
        StageError: A task does not give its category's metric or filter.
    """
    os.environ.update(OFFLINE | _QUIET)
    with redirect_stdout(sys.stderr):
        from lm_eval.tasks import TaskManager

        import_libraries()
        manager = TaskManager(include_defaults=False)

        def built() -> Mapping[str, Any]:
            made: Mapping[str, Any] = manager.load([task.lm_eval_config() for task in resolved.tasks])["tasks"]
            return made

        try:
            tasks = built()
        except (ConnectionError, FileNotFoundError, ValueError):  # What is raised for rows that are in no cache.
            if not fetch(resolved.tasks):
                raise
            tasks = built()
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    for category in resolved.suite.categories:
        for task in resolved.of(category.name):
            _check_scored(category, task.name, tasks[task.name])
        check_parallel(category, {task.name: len(tasks[task.name].eval_docs) for task in resolved.of(category.name)})
    return Prepared(resolved, tasks)


def _check_scored(category: Category, name: str, task: Any) -> None:
    """Known before a server is asked thousands of questions."""
    metrics, filters = list(task.aggregation()), [one.name for one in getattr(task, "_filters", [])]
    for what, wanted, given in (("metric", category.metric, metrics), ("filter", category.filter, filters)):
        if wanted not in given:
            raise StageError(
                f"task {name} of category {category.name} gives no {what} {wanted}; it gives {', '.join(given)}",
                remedy=f"name a {what} that the task gives in the suite's file",
            )


def check_parallel(category: Category, documents: Mapping[str, int]) -> None:
    """Questions are matched by their place: with a row missing, all that follow would be matched wrongly."""
    if category.parallel and len(set(documents.values())) > 1:
        told = ", ".join(f"{task} {number}" for task, number in documents.items())
        raise StageError(
            f"category {category.name} is parallel, but its tasks have different numbers of items: {told}",
            remedy="see that the tasks' data are whole and in one order, or take `parallel` out of the suite's file",
        )


class Asker:
    """Asks one served model for items of a suite.

    All requests of the suite are built at once: few-shot examples are drawn as the documents go by, so an item has the
    same prompt in every evaluation, however few are asked.

    Args:
        prepared: The suite.
        endpoint: Its model directory holds the tokenizer.
        client: Gets the answers.
        on_progress: Told (questions answered, questions so far).
    """

    def __init__(self, prepared: Prepared, endpoint: Endpoint, client: Client, on_progress: OnProgress) -> None:
        self.client = client
        self.questions = self.truncated_prompts = 0
        self._prepared, self._on_progress = prepared, on_progress
        self._questioner = Questioner(endpoint.model_path, endpoint.max_model_len)
        self._items = {
            task.name: _built(task, prepared.tasks[task.name], self._questioner) for task in prepared.resolved.tasks
        }

    @property
    def items(self) -> dict[str, list[int]]:
        """Task -> its documents of the suite, by their place in its data."""
        return {name: list(items) for name, items in self._items.items()}

    def conditions(self, engine: Mapping[str, str]) -> AskingConditions:
        """What the answers' comparison with another model's rests on."""
        templated = any(task.chat_template for task in self._prepared.resolved.tasks)
        return AskingConditions(
            max_model_len=self._questioner.max_model_len,
            tokenizer=self._questioner.tokenizer_digest,
            chat_template=self._questioner.chat_template.digest if templated else None,
            engine=dict(engine),
        )

    def one_at_a_time(self) -> Asker:
        """For the same items, each request with nothing beside it."""
        other = copy(self)
        other.client, other.questions, other.truncated_prompts = self.client.one_at_a_time(), 0, 0
        return other

    def ask(self, items: Mapping[str, Sequence[int]]) -> list[Sample]:
        """Samples of these documents of these tasks, in the suite's order.

        Raises:
            StageError: The suite does not have such an item, or what the client raises.
        """
        chosen = {name: self._chosen(name, wanted) for name, wanted in items.items()}
        asked = [one for mine in chosen.values() for _, several in mine.values() for one in several]
        questions = [question for one in asked for question in one.questions]
        before = self.questions
        answers = self.client.ask(questions, lambda done, total: self._on_progress(before + done, before + total))
        self.questions += len(questions)
        self.truncated_prompts += sum(one.truncated for one in asked)
        resolved, tasks = self._prepared.resolved, self._prepared.tasks
        return [
            sample
            for category in resolved.suite.categories
            for task in resolved.of(category.name)
            if task.name in chosen
            for sample in _samples(
                category, task.name, tasks[task.name], chosen[task.name], answers, self._questioner.length
            )
        ]

    def _chosen(self, name: str, wanted: Sequence[int]) -> dict[int, _Item]:
        known = self._items.get(name, {})
        strangers = sorted(set(wanted) - known.keys())
        if strangers or not wanted:
            raise StageError(
                f"task {name} has {len(known)} items in the suite, asked for {strangers or 'none of them'}",
                remedy="see that the task's data is whole, and ask for items that it has",
            )
        return {doc_id: known[doc_id] for doc_id in sorted(set(wanted))}


_Item = tuple[Any, list[Questioned]]
"""A document and what is asked about it."""


def _built(resolved: ResolvedTask, task: Any, questioner: Questioner) -> dict[int, _Item]:
    """The task's items in the suite by their place in its data."""
    chosen = resolved.sampled_ids(len(task.eval_docs))
    if not chosen:
        raise StageError(f"task {resolved.name} has no items", remedy="see that the task's data is whole")
    task.set_fewshot_seed(resolved.seed)
    # Examples as turns of their own are lm-eval's default where a template is applied.
    task.build_all_requests(
        samples=set(chosen),
        apply_chat_template=resolved.chat_template,
        fewshot_as_multiturn=resolved.chat_template,
        chat_template=questioner.chat_template if resolved.chat_template else None,
    )
    for instance in task.instances:
        # lm-eval counts the documents that were chosen; messages and samples name their place in the data.
        instance.doc_id = chosen[instance.doc_id]
    by_document: dict[int, list[Questioned]] = defaultdict(list)
    for one in questioner.ask(task.instances):
        by_document[one.instance.doc_id].append(one)
    documents = task.doc_iterator(samples=set(chosen))
    return {
        doc_id: (document, sorted(by_document[doc_id], key=lambda one: int(one.instance.idx)))
        for doc_id, (_, document) in zip(chosen, documents, strict=True)
    }


def _samples(
    category: Category,
    name: str,
    task: Any,
    items: Mapping[int, _Item],
    answers: Mapping[Question, Answer],
    length: Callable[[str], int],
) -> Iterator[Sample]:
    from lm_eval.utils import handle_non_serializable, hash_string

    def digest(value: Any) -> str:
        return str(hash_string(json.dumps(value, default=handle_non_serializable, sort_keys=True)))

    asked = [one for _, mine in items.values() for one in mine]
    for one in asked:
        one.instance.resps = one.responses(answers)
    # Not `task.apply_filters()`: it wants answers to all of the task's requests.
    for filters in task._filters:
        filters.apply([one.instance for one in asked])
    for doc_id, (document, mine) in items.items():
        found = task.process_results(document, [one.instance.filtered_resps[category.filter] for one in mine])
        score, weight = item_score(category.metric, found, f"task {name}, item {doc_id}")
        yield Sample(
            task=name,
            category=category.name,
            filter=category.filter,
            metric=category.metric,
            doc_id=doc_id,
            doc_hash=digest(document),
            cluster=f"{category.name}:{doc_id}" if category.parallel else "",
            kind=_kind(category, document, f"task {name}, item {doc_id}"),
            prompt_hash=digest([one.instance.args for one in mine]),
            sent_hash=digest([question.key for one in mine for question in one.questions]),
            target_hash=digest(task.doc_to_target(document)),
            score=score,
            weight=weight,
            prompt=mine[-1].instance.args[0],
            prompt_tokens=max(one.prompt_tokens for one in mine),
            truncated=any(one.truncated for one in mine),
            windows=sum(one.windows for one in mine),
            answer_tokens=sum(
                # The end is a token too. What an answer costs is not what was cut off it afterwards.
                length(text) + 1
                for one in mine
                for question in one.questions
                if isinstance(text := answers[question], str)
            ),
            **_readable(category.metric, task, document, mine, answers),
        )


def _kind(category: Category, document: Mapping[str, Any], where: str) -> str:
    """What the document says of its kind.

    Raises:
        StageError: It has no such field.
    """
    if category.kind is None:
        return ""
    if category.kind not in document:
        raise StageError(
            f"{where}: the document has no field {category.kind}, which category {category.name} takes for its kind; it"
            f" has {', '.join(map(str, document))}",
            remedy="name one of its fields by `kind` in the suite's file, or leave `kind` and `kinds_are` out",
        )
    return str(document[category.kind])


def item_score(metric: str, found: Mapping[str, Any], where: str) -> tuple[float, float]:
    """One item's score and weight out of what lm-eval's `process_results` gave.

    Raises:
        StageError: The metric is not there, not a number, or cannot be had for a single item.
    """
    value: Any = found.get(metric)
    weight = 1.0
    if metric in _POOLED and isinstance(value, tuple):
        value, weight = value[0] / value[1], float(value[1])
    elif isinstance(value, list) and value and all(isinstance(one, bool | int | float) for one in value):
        # ifeval's instructions of one prompt: all instructions of all prompts count alike.
        value, weight = sum(value) / len(value), float(len(value))
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise StageError(
            f"{where}: {metric} is {value!r}, no number for an item",
            remedy="name a metric that is a mean over items, or a perplexity, in the suite's file",
        ) from None
    if not math.isfinite(score):
        raise StageError(
            f"{where}: {metric} is {score}",
            remedy="weights or a kernel overflow: for the baseline the source or its dtype is to blame, for an"
            " artifact see its inspection",
        )
    return score, weight


def _readable(
    metric: str, task: Any, document: Any, asked: Sequence[Questioned], answers: Mapping[Question, Answer]
) -> dict[str, Any]:
    """What a reader wants to see of an item, and whether it was decided by a tie."""
    responses = [one.instance.resps[0] for one in asked]
    target = task.doc_to_target(document)
    if task.OUTPUT_TYPE == "generate_until":
        return {"target": _text(target), "answer": responses[0]}
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return {"log_likelihoods": [float(responses[0])]}
    likelihoods = [float(response[0]) for response in responses]
    if task.OUTPUT_TYPE == "loglikelihood":
        tied = any(one.likelihood(answers).tied for one in asked)
        return {"target": _text(target), "log_likelihoods": likelihoods, "tied": tied}
    choices = [str(choice) for choice in task.doc_to_choice(document)]
    likelihoods = likelihoods[: len(choices)]
    lengths = [max(1, len(choice)) if metric == "acc_norm" else 1 for choice in choices]
    normalized = [likelihood / length for likelihood, length in zip(likelihoods, lengths, strict=True)]
    best = max(range(len(choices)), key=normalized.__getitem__)
    right = task.doc_to_text(document) if getattr(task, "multiple_input", 0) else target
    return {
        "target": choices[right] if isinstance(right, int) and 0 <= right < len(choices) else _text(right),
        "log_likelihoods": likelihoods,
        "answer": choices[best],
        "tied": normalized.count(normalized[best]) > 1,
    }


def _text(target: Any) -> str:
    return target if isinstance(target, str) else json.dumps(target, default=str, ensure_ascii=False)
