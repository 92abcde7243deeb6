"""lm-eval against a completions server that is made here: scores, counts, and what happens when it fails."""

import json
import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.errors import RequestError, StageError
from evals.asking.client import Client
from evals.asking.lm_eval_runner import Asker, item_score, prepare
from evals.asking.questions import Questioner
from evals.judging.pairing import pair, paired
from evals.samples import SAMPLES_FILE, Sample, read_samples
from evals.suites import leaf_tasks
from evals.suites.generation import generation
from evals.suites.resolve import load_suite, resolve
from evals.suites.suite import Category, Suite
from registry.contracts import Endpoint, EvaluationRecord
from tests.completions_server import FormulaModel, completions_server
from tests.tiny_llama import make_tiny_tokenizer


class EvenModel(FormulaModel):
    """Every token is as likely as every other, and the one with the lowest id is taken; every text is the same."""

    def __init__(self, logprob: float = -0.5, text: str = " Bern.", fail_after: int | None = None) -> None:
        super().__init__(fail_after)
        self.logprob, self.written = logprob, text

    def log_probability(self, prefix: Sequence[int], token: int) -> float:
        return self.logprob

    def text(self, prompt: Sequence[int]) -> str:
        return self.written


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tiny_tokenizer(path)
    return path


def evaluate(
    model_dir: Path,
    output_dir: Path,
    model: FormulaModel,
    suite: Suite | None = None,
    max_model_len: int = 512,
    **options: Any,
) -> EvaluationRecord:
    with completions_server(model) as url:
        endpoint = Endpoint(
            base_url=url, served_model_name="model", model_path=str(model_dir), max_model_len=max_model_len
        )
        return prepare(resolve(suite or load_suite("demo"))).evaluate(
            endpoint,
            model_digest="sha256:m",
            output_dir=output_dir,
            num_concurrent=4,
            on_progress=lambda done, total: None,
            **options,
        )


PERPLEXITY = {"unit": "perplexity", "higher_is_better": False}


def whole_demo() -> Suite:
    """The demo's suite with all of its rows."""
    suite = load_suite("demo")
    whole = [category.model_copy(update={"limit": None, "items": None}) for category in suite.categories]
    return suite.model_copy(update={"categories": whole})


def small_suite(**changes: object) -> Suite:
    fields: dict[str, object] = {
        "name": "grammar",
        "description": "d",
        "tasks": ["demo_grammar"],
        "metric": "acc",
        "chance": 0.5,
    }
    return Suite(name="small", version="1", description="d", categories=[Category.model_validate(fields | changes)])


def test_every_category_is_scored_and_every_item_kept(model_dir: Path, tmp_path: Path) -> None:
    suite = load_suite("demo")
    model = EvenModel()
    record = evaluate(model_dir, tmp_path, model, suite)
    scores = {score.category: score for score in record.categories}
    assert set(scores) == {category.name for category in suite.categories}
    samples = read_samples(tmp_path / record.samples_file)
    assert len(samples) == sum(score.items for score in record.categories)
    assert {score.category: score.items for score in record.categories} == {
        category.name: resolve(suite).items_of(category.name) for category in suite.categories
    }
    kinds = {sample.category: bool(sample.kind) for sample in samples}
    assert kinds == {category.name: category.kind is not None for category in suite.categories}
    assert record.requests >= record.requests_sent == len(model.bodies)
    assert record.truncated_prompts == 0
    # All tokens are tied, and none that is asked for has the lowest id.
    assert scores["knowledge"].value == 0.0
    assert scores["knowledge"].tied == scores["knowledge"].items
    assert scores["language"].value > 1.0
    assert (scores["language"].unit, scores["language"].tied) == ("perplexity", 0)
    texts = [sample for sample in samples if sample.category == "language"]
    assert {sample.windows for sample in texts} == {1}
    assert scores["language"].windows == len(texts)
    assert not any(sample.windows for sample in samples if sample.category != "language")


def test_choices_that_are_exactly_as_likely_are_counted(model_dir: Path, tmp_path: Path) -> None:
    """Of the two sentences of an item, the first counts then: as lm-eval has it."""

    class Same(EvenModel):
        def log_probability(self, prefix: Sequence[int], token: int) -> float:
            return 0.0

    record = evaluate(model_dir, tmp_path, Same(), small_suite())
    assert record.categories[0].tied == record.categories[0].items == record.tasks[0].tied
    assert evaluate(model_dir, tmp_path / "other", FormulaModel(), small_suite()).categories[0].tied == 0


def test_samples_can_be_read_by_a_person(model_dir: Path, tmp_path: Path) -> None:
    model = FormulaModel()
    record = evaluate(model_dir, tmp_path, model, small_suite())
    samples = read_samples(tmp_path / record.samples_file)
    assert [sample.doc_id for sample in samples] == list(range(len(samples)))
    for sample in samples:
        assert len(sample.log_likelihoods) == 2
        assert sample.target and sample.answer
        assert (sample.answer == sample.target) == (sample.score == 1.0)
        assert sample.prompt_tokens > 0


def test_scores_are_those_of_lm_eval_s_own_client(model_dir: Path, tmp_path: Path) -> None:
    """The same formula through lm-eval's evaluate and a client that asks for one score after the other."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate as evaluate_by_lm_eval

    model, suite = FormulaModel(), whole_demo()

    class Plain(LM):  # type: ignore[misc] # lm-eval has no types
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [self._scores(one)[0] for one in Questioner(str(model_dir), 512).ask(requests)]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            asked = Questioner(str(model_dir), 512).ask(requests)
            return [sum(score for score, _ in self._scores(one)) for one in asked]

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError

        def _scores(self, asked: Any) -> list[tuple[float, bool]]:
            return [model.score(question.context, question.continuation) for question in asked.questions]

    found = evaluate(model_dir, tmp_path, model, suite)
    theirs = evaluate_by_lm_eval(Plain(), {"tasks": prepare(resolve(suite)).tasks}, bootstrap_iters=0)["results"]
    for score in found.tasks:
        assert score.value == pytest.approx(theirs[score.task][f"{score.metric},{score.filter}"], rel=1e-9)


def test_truncated_prompts_are_counted(model_dir: Path, tmp_path: Path) -> None:
    suite = small_suite(name="knowledge", tasks=["demo_knowledge"])
    record = evaluate(model_dir, tmp_path, EvenModel(), suite, max_model_len=14)
    samples = read_samples(tmp_path / record.samples_file)
    assert 0 < record.categories[0].truncated == sum(sample.truncated for sample in samples) < len(samples)
    assert record.truncated_prompts >= record.categories[0].truncated


def test_the_same_prompts_in_other_token_ids_do_not_pair(model_dir: Path, tmp_path: Path) -> None:
    """One model at two context lengths: equal texts, and some lost their beginning."""
    suite = small_suite(name="knowledge", tasks=["demo_knowledge"])
    records = {
        length: evaluate(model_dir, tmp_path / str(length), EvenModel(), suite, max_model_len=length)
        for length in (14, 512)
    }
    short, long = (read_samples(tmp_path / str(length) / SAMPLES_FILE) for length in (14, 512))
    assert [one.prompt_hash for one in short] == [one.prompt_hash for one in long]
    differ = [one.sent_hash != other.sent_hash for one, other in zip(short, long, strict=True)]
    assert differ == [one.truncated for one in short]
    with pytest.raises(StageError, match="the same prompt in different tokens"):
        pair(short, long)
    with pytest.raises(StageError, match="not asked alike: context length 14 and 512"):
        paired(records[14], tmp_path / "14" / SAMPLES_FILE, records[512], tmp_path / "512" / SAMPLES_FILE)


def test_a_text_that_is_read_in_pieces_is_counted(model_dir: Path, tmp_path: Path) -> None:
    suite = small_suite(name="language", tasks=["demo_language"], metric="word_perplexity", chance=None, **PERPLEXITY)
    whole = evaluate(model_dir, tmp_path / "whole", FormulaModel(), suite).categories[0]
    pieces = evaluate(model_dir, tmp_path / "pieces", FormulaModel(), suite, max_model_len=32).categories[0]
    assert whole.windows == whole.items
    assert pieces.windows > 2 * pieces.items
    assert pieces.truncated == 0


def test_a_choice_without_a_token_of_its_own_is_refused(tmp_path: Path) -> None:
    """Nothing is certain, and would beat every other choice."""
    from lm_eval.api.instance import Instance
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "inter": 1, "international": 2, "national": 3, "an": 4}
    special = {"unk_token": "<s>", "bos_token": "<s>"}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path)
    instances = [
        Instance("loglikelihood", {}, ("an inter", choice), place, ("words", 7, 1))
        for place, choice in enumerate((" an", "national"))
    ]
    questioner = Questioner(str(tmp_path), 64)
    assert questioner.ask(instances[:1])[0].questions[0].continuation == (4,)
    with pytest.raises(StageError, match="task words, item 7: the choice 'national' has no token of its own"):
        questioner.ask(instances)


def asked(model_dir: Path, suite: Suite, *several: dict[str, list[int]]) -> list[list[Sample]]:
    """What one asker of `suite` gives for one share of the items after the other."""
    with completions_server(FormulaModel()) as url:
        endpoint = Endpoint(base_url=url, served_model_name="m", model_path=str(model_dir), max_model_len=512)
        asker = Asker(prepare(resolve(suite)), endpoint, Client([endpoint], 4), lambda done, total: None)
        return [asker.ask(items) for items in several]


def test_items_are_asked_alone_as_they_are_among_others(
    model_dir: Path, tmp_path: Path, generating_suite: Suite
) -> None:
    """With examples drawn at random, an item's prompt would change with the number of items built before it."""
    whole = evaluate(model_dir, tmp_path, FormulaModel(), generating_suite)
    by_id = {sample.doc_id: sample for sample in read_samples(tmp_path / whole.samples_file)}
    later, first = asked(model_dir, generating_suite, {"capitals": [2, 1, 2]}, {"capitals": [0]})
    assert [*first, *later] == [by_id[0], by_id[1], by_id[2]]


@pytest.mark.parametrize(("items", "said"), [([], "none of them"), ([0, 10**6], r"\[1000000\]"), ([-1], r"\[-1\]")])
def test_items_that_are_not_there(model_dir: Path, items: list[int], said: str) -> None:
    with pytest.raises(StageError, match=f"demo_grammar has .* asked for {said}"):
        asked(model_dir, small_suite(), {"demo_grammar": items})


def test_one_item_is_scored_without_a_standard_error(model_dir: Path, tmp_path: Path) -> None:
    record = evaluate(model_dir, tmp_path, FormulaModel(), small_suite(limit=1))
    assert (record.categories[0].items, record.categories[0].stderr) == (1, None)


def test_tasks_that_are_added_are_the_only_ones_asked(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = {"engine": "vllm 0", "dtype": "float32"}
    options: dict[str, Any] = {"cache_file": tmp_path / "cache", "cache_facts": facts}
    first = evaluate(model_dir, tmp_path / "first", FormulaModel(), small_suite(), **options)
    more = small_suite(tasks=["demo_grammar", "demo_commonsense"])
    model = FormulaModel()
    both = evaluate(model_dir, tmp_path / "both", model, more, **options)
    assert both.answers_from_cache == first.requests
    alone = evaluate(model_dir, tmp_path / "alone", FormulaModel(), small_suite(tasks=["demo_commonsense"]))
    assert len(model.bodies) == alone.requests_sent
    assert both.tasks[0] == first.tasks[0]
    with caplog.at_level(logging.WARNING):
        other = evaluate(
            model_dir, tmp_path / "other", FormulaModel(), more, **options | {"cache_facts": {"dtype": "bfloat16"}}
        )
    assert other.answers_from_cache == 0, "answers of one dtype are none of another"
    assert "dtype is float32, asked for bfloat16" in caplog.text
    assert (tmp_path / "cache.damaged").is_file()


GENERATING_TASK = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
fewshot_split: test
num_fewshot: 1
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: " {{answer}}."
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: first-word, filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]}
metadata: {version: 1}
"""


@pytest.fixture
def generating_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    """A suite of one task that lets the model write: 3 items, the first of them long; two filters."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "capitals.yaml").write_text(GENERATING_TASK)
    questions = {"well " * 30 + "the capital of Switzerland is": "Bern", "of France:": "Paris", "of Italy:": "Rome"}
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in questions.items()]
    (folder / "capitals.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(leaf_tasks, "TASKS_DIR", folder)
    leaf_tasks.own_task_files.cache_clear()
    yield small_suite(name="capitals", tasks=["capitals"], metric="exact_match", filter="strict", chance=None)
    leaf_tasks.own_task_files.cache_clear()


@pytest.mark.parametrize(("max_model_len", "truncated"), [(512, False), (40, True)])
def test_generated_answers_are_counted_and_scored(
    model_dir: Path, tmp_path: Path, generating_suite: Suite, max_model_len: int, truncated: bool
) -> None:
    model = EvenModel()
    record = evaluate(model_dir, tmp_path, model, generating_suite, max_model_len)
    assert record.requests == record.requests_sent == len(model.bodies) == 3
    assert (record.truncated_prompts > 0) == truncated
    assert record.categories[0].value == pytest.approx(1 / 3)
    first = read_samples(tmp_path / record.samples_file)[0]
    assert (first.target, first.answer, first.log_likelihoods) == (" Bern.", " Bern.", [])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    assert first.answer_tokens == len(tokenizer(" Bern.", add_special_tokens=False).input_ids) + 1


@pytest.mark.parametrize(
    ("settings", "tokens", "stop", "temperature"),
    [
        ("", 256, ["\n\n"], 0.0),
        ("generation_kwargs: {max_gen_toks: 16}", 16, ["\n\n"], 0.0),
        ("generation_kwargs: {until: []}", 256, [], 0.0),
        ("generation_kwargs: {until: ['.'], do_sample: false, temperature: 1}", 256, ["."], 0.0),
        ("generation_kwargs: {until: ['.'], temperature: 0.7, top_p: 0.95}", 256, ["."], 0.7),
        ("generation_kwargs: {max_new_tokens: 9, num_beams: 1, do_sample: false}", 9, ["\n\n"], 0.0),
    ],
)
def test_what_a_task_leaves_out_is_lm_eval_s_default(
    model_dir: Path,
    tmp_path: Path,
    generating_suite: Suite,
    settings: str,
    tokens: int,
    stop: list[str],
    temperature: float,
) -> None:
    """603 of lm-eval's tasks name neither a temperature nor whether to sample."""
    file = leaf_tasks.TASKS_DIR / "capitals.yaml"
    lines = [line for line in GENERATING_TASK.splitlines() if not line.startswith("generation_kwargs")]
    file.write_text("\n".join([*lines, settings]))
    leaf_tasks.own_task_files.cache_clear()
    model = EvenModel()
    evaluate(model_dir, tmp_path, model, generating_suite)
    body = model.bodies[0]
    assert (body["max_tokens"], body["stop"], body["temperature"]) == (tokens, [*stop, "<|im_end|>"], temperature)
    assert (body["top_p"], body["repetition_penalty"], body["top_k"]) == (0.95 if "top_p" in settings else 1.0, 1.0, 0)
    assert not {"do_sample", "until", "num_beams", "max_gen_toks"} & body.keys()


@pytest.mark.parametrize("wanted", [{"until": [1]}, {"max_gen_toks": 0}, {"temperature": "hot"}, {"temperature": -1}])
def test_generation_settings_that_make_no_sense(wanted: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="task t asks for generation settings that"):
        generation("t", wanted)


def test_a_filter_changes_the_score(model_dir: Path, tmp_path: Path, generating_suite: Suite) -> None:
    category = generating_suite.categories[0].model_copy(update={"filter": "first-word"})
    loose = generating_suite.model_copy(update={"categories": [category]})
    record = evaluate(model_dir, tmp_path, EvenModel(), loose)
    # The filter cuts the full stop off, which the target has.
    assert record.categories[0].value == 0.0


def test_few_shot_prompts_are_the_same_each_time(model_dir: Path, tmp_path: Path, generating_suite: Suite) -> None:
    prepared = prepare(resolve(generating_suite))
    hashes = []
    for name in ("one", "two"):
        with completions_server(EvenModel()) as url:
            endpoint = Endpoint(base_url=url, served_model_name="m", model_path=str(model_dir), max_model_len=512)
            record = prepared.evaluate(
                endpoint,
                model_digest="sha256:m",
                output_dir=tmp_path / name,
                num_concurrent=2,
                on_progress=lambda done, total: None,
            )
        hashes.append([sample.prompt_hash for sample in read_samples(tmp_path / name / record.samples_file)])
    assert hashes[0] == hashes[1]


def test_a_server_that_fails_half_way_ends_the_evaluation_and_nothing_is_lost(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.asking.client._PAUSE_SECONDS", 0.0)
    options: dict[str, Any] = {"cache_file": tmp_path / "cache"}
    with pytest.raises(StageError, match=r"server stopped answering.*500"):
        evaluate(model_dir, tmp_path, FormulaModel(fail_after=10), small_suite(), **options)
    assert not (tmp_path / "samples.parquet").exists()
    record = evaluate(model_dir, tmp_path, FormulaModel(), small_suite(), **options)
    assert record.answers_from_cache == 10
    plain = evaluate(model_dir, tmp_path / "plain", FormulaModel(), small_suite())
    assert record.categories == plain.categories


def test_not_a_number_is_no_score(model_dir: Path, tmp_path: Path) -> None:
    language = small_suite(
        name="language", tasks=["demo_language"], metric="word_perplexity", chance=None, **PERPLEXITY
    )
    with pytest.raises(StageError, match="log-likelihood of nan"):
        evaluate(model_dir, tmp_path, EvenModel(logprob=float("nan")), language)


@pytest.mark.parametrize(("what", "wanted"), [("metric", "f1"), ("filter", "strict")])
def test_a_metric_or_filter_that_the_built_task_does_not_give(what: str, wanted: str) -> None:
    """A task that is a Python class says so only when it is built."""
    resolved = resolve(small_suite())
    category = resolved.suite.categories[0].model_copy(update={what: wanted})
    with pytest.raises(StageError, match=f"demo_grammar of category grammar gives no {what} {wanted}; it gives "):
        prepare(replace(resolved, suite=resolved.suite.model_copy(update={"categories": [category]})))


@pytest.mark.parametrize(
    ("metric", "found", "expected"),
    [
        ("acc", {"acc": True}, (1.0, 1.0)),
        ("acc", {"acc": 0.25}, (0.25, 1.0)),
        ("word_perplexity", {"word_perplexity": (-30.0, 10)}, (-3.0, 10.0)),
        ("inst_level_strict_acc", {"inst_level_strict_acc": [True, False, True]}, (2 / 3, 3.0)),
        ("prompt_level_strict_acc", {"prompt_level_strict_acc": False}, (0.0, 1.0)),
    ],
)
def test_a_score_of_one_item(metric: str, found: dict[str, Any], expected: tuple[float, float]) -> None:
    assert item_score(metric, found, "here") == pytest.approx(expected)


@pytest.mark.parametrize("value", [None, (["a"], ["b"]), [], "text", float("nan"), float("inf")])
def test_what_is_no_score_of_one_item(value: Any) -> None:
    with pytest.raises(StageError, match="here: bleu is"):
        item_score("bleu", {"bleu": value}, "here")


class NeighbourModel(FormulaModel):
    """As LLM.int8(): what is computed at the same time changes an answer."""

    def log_probability(self, prefix: Sequence[int], token: int) -> float:
        beside = self.in_flight > 0
        return -(1 + zlib.crc32(str((list(prefix), token, beside)).encode()) % 1000) / 100


@pytest.mark.parametrize(("model", "changes"), [(FormulaModel(), False), (NeighbourModel(delay_seconds=0.02), True)])
def test_what_neighbours_change_is_counted(model_dir: Path, tmp_path: Path, model: FormulaModel, changes: bool) -> None:
    suite = small_suite(tasks=["demo_grammar", "demo_commonsense"], limit=30)
    record = evaluate(model_dir, tmp_path, model, suite, alone=40)
    again = record.asked_alone
    assert again is not None
    assert again.items == 30, "every second of sixty"
    # Three to five of thirty, by which requests happen to meet.
    assert (again.changed > 0) == changes
    assert again.changed_low <= again.changed / again.items <= again.changed_high
    assert again.mean_shift_nats is not None
    assert (again.mean_shift_nats > 0.01) == changes
    # What was asked again is no part of the evaluation's own counts, and comes from no cache.
    without = evaluate(model_dir, tmp_path / "without", FormulaModel(), suite)
    assert record.requests == without.requests
    assert without.asked_alone is None


def test_perplexities_are_not_asked_alone(model_dir: Path, tmp_path: Path) -> None:
    suite = small_suite(tasks=["demo_language"], metric="word_perplexity", chance=None, **PERPLEXITY)
    assert evaluate(model_dir, tmp_path, FormulaModel(), suite, alone=40).asked_alone is None
