"""Scores a served model on a suite through lm-eval's `local-completions`. The only importer of lm_eval."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import StageError
from evals.samples import SAMPLES_FILE, Sample, category_score
from evals.suite import Category, Suite, task_config
from registry.contracts import Endpoint, EvaluationRecord, TaskScore
from registry.files import write_text_atomically

OnProgress = Callable[[int, int], None]

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_TRUST_REMOTE_CODE": "0"}
_SEED = 1234
_ATTEMPTS = 2
_REQUEST_TIMEOUT_SECONDS = 180
"""A server that hangs costs two of these before the evaluation says so."""
_WORDS_PER_DOCUMENT_METRICS = {"word_perplexity"}
"""lm-eval keeps these per item as (log-likelihood, words); everything else is one number."""


@dataclass(frozen=True)
class Prepared:
    """A suite whose tasks are built: what takes lm-eval long and needs no server."""

    suite: Suite
    _tasks: Any

    def evaluate(
        self, endpoint: Endpoint, *, model_digest: str, output_dir: Path, num_concurrent: int, on_progress: OnProgress
    ) -> EvaluationRecord:
        """Score the model behind `endpoint`; per-item results go to `output_dir/samples.jsonl`.

        Args:
            endpoint: A running server; its model directory holds the tokenizer.
            num_concurrent: Requests kept open at once.
            on_progress: Told (requests answered, requests in all).

        Raises:
            StageError: The server stopped answering, or answered with what is no number.
        """
        from lm_eval.evaluator import evaluate

        model = _client(endpoint, num_concurrent, on_progress)
        try:
            # lm-eval's request cache is off (no `use_cache`): its keys do not hold the model.
            results = evaluate(model, self._tasks, bootstrap_iters=0, log_samples=True)
        except Exception as error:  # aiohttp, tenacity and lm-eval each have their own families of errors
            raise StageError(
                f"the evaluation of suite {self.suite.name} stopped: {type(error).__name__}: {error}",
                remedy="see the end of the server's log beside this stage's; run the same command again",
            ) from error
        samples = self._samples(results["samples"])
        lines = "".join(sample.model_dump_json() + "\n" for sample in samples)
        write_text_atomically(output_dir / SAMPLES_FILE, lines)
        return self._record(samples, model_digest, model.requests, model.truncated)

    def _samples(self, by_task: dict[str, list[dict[str, Any]]]) -> list[Sample]:
        return [
            _sample(category, task, raw)
            for category in self.suite.categories
            for task in category.tasks
            for raw in sorted(by_task[task], key=lambda raw: int(raw["doc_id"]))
            if raw["filter"] == category.filter
        ]

    def _record(self, samples: list[Sample], model_digest: str, requests: int, truncated: int) -> EvaluationRecord:
        tasks, categories = [], []
        for category in self.suite.categories:
            mine = [sample for sample in samples if sample.category == category.name]
            if not mine:
                raise StageError(
                    f"category {category.name} got no score for metric {category.metric}, filter {category.filter}",
                    remedy="name a metric and filter that its tasks give in the suite's file",
                )
            categories.append(category_score(category, mine))
            for task in category.tasks:
                score = category_score(category, [sample for sample in mine if sample.task == task])
                tasks.append(
                    TaskScore(task=task, filter=category.filter, **score.model_dump(exclude={"unit", "schema_version"}))
                )
        return EvaluationRecord(
            model_digest=model_digest,
            suite=self.suite.name,
            suite_version=self.suite.version,
            suite_digest=self.suite.digest,
            tasks=tasks,
            categories=categories,
            samples_file=SAMPLES_FILE,
            requests=requests,
            truncated_prompts=truncated,
        )


def prepare(suite: Suite) -> Prepared:
    """Import lm-eval and build the suite's tasks; takes seconds, so it is done while a server starts."""
    # Read by Hugging Face's libraries when they are imported.
    os.environ.update(_OFFLINE)
    with redirect_stdout(sys.stderr):
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_defaults=False)
        tasks = manager.load([task_config(name) for name in suite.task_names])
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    return Prepared(suite, tasks)


def _client(endpoint: Endpoint, num_concurrent: int, on_progress: OnProgress) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    class CountingClient(LocalCompletionsAPI):  # type: ignore[misc] # lm-eval has no types
        """Counts requests and truncated prompts, which lm-eval only logs."""

        requests = 0
        truncated = 0
        _answered = 0

        def batch_loglikelihood_requests(self, chunks: Any) -> Any:
            materialized = list(chunks)
            for _, context, continuation in (item for chunk in materialized for item in chunk):
                self.requests += 1
                self.truncated += len(context) + len(continuation) > self.max_length
            return super().batch_loglikelihood_requests(materialized)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            for text, wanted in (request.args for request in requests):
                room = self.max_length - wanted.get("max_gen_toks", self._max_gen_toks)
                self.requests += 1
                self.truncated += len(self.tok_encode(text)) > room
            return super().generate_until(requests, disable_tqdm)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            """All texts at once: lm-eval's own sends them one after the other, whatever `num_concurrent` says."""
            windows = [self._windows(request.args[0]) for request in requests]
            scored = iter(self._loglikelihood_tokens([window for text in windows for window in text]))
            return [sum(next(scored)[0] for _ in text) for text in windows]

        def _windows(self, text: str) -> list[tuple[None, list[int], list[int]]]:
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            return [(None, *make_disjoint_window(window)) for window in rolling]

        async def amodel_call(self, *args: Any, **kwargs: Any) -> Any:
            answer = await super().amodel_call(*args, **kwargs)
            self._answered += 1
            on_progress(self._answered, max(self.requests, self._answered))
            return answer

    return CountingClient(
        model=endpoint.served_model_name,
        base_url=f"{endpoint.base_url}/v1/completions",
        tokenizer=endpoint.model_path,
        tokenizer_backend="huggingface",
        num_concurrent=num_concurrent,
        max_length=endpoint.max_model_len,
        max_retries=_ATTEMPTS,
        timeout=_REQUEST_TIMEOUT_SECONDS,
        seed=_SEED,
        # Else lm-eval sends the user's OPENAI_API_KEY, if there is one, to the server.
        header={"Content-Type": "application/json"},
    )


def _sample(category: Category, task: str, raw: dict[str, Any]) -> Sample:
    value = raw.get(category.metric)
    weight = 1.0
    if category.metric in _WORDS_PER_DOCUMENT_METRICS and value is not None:
        log_likelihood, weight = value
        value = log_likelihood / weight
    if value is None or not math.isfinite(float(value)):
        raise StageError(
            f"task {task}, item {raw['doc_id']}: {category.metric} is {value}",
            remedy="a model that answers with what is no number is broken: look into the artifact's inspection"
            if value is not None
            else "name a metric that the task gives in the suite's file",
        )
    return Sample(
        task=task,
        category=category.name,
        doc_id=int(raw["doc_id"]),
        doc_hash=raw["doc_hash"],
        prompt_hash=raw["prompt_hash"],
        target_hash=raw["target_hash"],
        filter=raw["filter"],
        metric=category.metric,
        score=float(value),
        weight=float(weight),
    )
