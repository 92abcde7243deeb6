"""Prompts through a chat template: lm-eval's own to the character and the token, and what a template can do wrong."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import StageError
from evals.asking.client import Client
from evals.asking.lm_eval_runner import Asker, prepare
from evals.asking.questions import Questioner
from evals.samples import Sample, read_samples
from evals.suites import leaf_tasks
from evals.suites.resolve import resolve
from evals.suites.suite import Category, Suite
from registry.contracts import Endpoint
from tests.completions_server import FormulaModel, completions_server
from tests.tiny_llama import CHAT_TEMPLATE, make_tiny_llama, make_tiny_tokenizer

REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
TEMPLATES = {"plain": CHAT_TEMPLATE, "writes BOS": "{{ bos_token }}" + CHAT_TEMPLATE, "no system": REFUSES_SYSTEM}

TASK = """
task: capitals
description: "Name the city."
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
fewshot_split: test
num_fewshot: 2
doc_to_text: "{{question}}"
metadata: {version: 1}
"""
WRITES = """
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOOSES = """
output_type: multiple_choice
doc_to_choice: ["Bern", "Paris", "Rome", "the city of Oslo"]
doc_to_target: "{{['Bern', 'Paris', 'Rome'].index(answer)}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(params=[WRITES, CHOOSES], ids=["writes", "chooses"])
def suite(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    """One task with a description and two examples, asked through the chat template."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "capitals.yaml").write_text(TASK + request.param)
    questions = {"The capital of Switzerland is": "Bern", "of France:": "Paris", "of Italy:": "Rome"}
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in questions.items()]
    (folder / "capitals.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(leaf_tasks, "TASKS_DIR", folder)
    leaf_tasks.own_task_files.cache_clear()
    metric = "exact_match" if request.param == WRITES else "acc"
    category = Category(name="capitals", description="", tasks=["capitals"], metric=metric, chat_template=True)
    yield Suite(name="chat", version="1", description="", categories=[category])
    leaf_tasks.own_task_files.cache_clear()


def plainly(suite: Suite) -> Suite:
    return suite.model_copy(update={"categories": [suite.categories[0].model_copy(update={"chat_template": False})]})


def write_template(model_dir: Path, template: str) -> None:
    (model_dir / "chat_template.jinja").write_text(template)


@pytest.fixture
def tokenizer_dir(tmp_path: Path) -> Path:
    """Its tokenizer writes BOS before every text, as Llama's does."""
    path = tmp_path / "model"
    make_tiny_tokenizer(path)
    write_bos_always(path)
    return path


def write_bos_always(path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    file = str(path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    bos = "<|endoftext|>"
    tokenizer.post_processor = TemplateProcessing(f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    tokenizer.save(file)


def asked(model_dir: Path, suite: Suite, model: FormulaModel, output_dir: Path) -> list[Sample]:
    with completions_server(model) as url:
        endpoint = Endpoint(base_url=url, served_model_name="m", model_path=str(model_dir), max_model_len=512)
        record = prepare(resolve(suite)).evaluate(
            endpoint,
            model_digest="sha256:m",
            output_dir=output_dir,
            num_concurrent=2,
            on_progress=lambda done, total: None,
        )
    return read_samples(output_dir / record.samples_file)


@pytest.mark.engine
@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_are_lm_eval_s_to_the_character_and_the_token(template: str, suite: Suite, tmp_path: Path) -> None:
    """lm-eval's evaluator with its `hf` model and `apply_chat_template=True`."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    model_dir = make_tiny_llama(tmp_path / "llama")
    write_bos_always(model_dir)
    write_template(model_dir, TEMPLATES[template])
    prompts: list[Any] = []
    tokens: list[Any] = []

    class Listening(HFLM):  # type: ignore[misc] # lm-eval has no types
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            prompts.extend(one.args for one in requests)
            tokens.extend(self.tok_encode(one.args[0]) for one in requests)
            return ["Bern"] * len(requests)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            prompts.extend(one.args for one in requests)
            tokens.extend(list(self._encode_pair(*one.args)) for one in requests)
            return [(0.0, False)] * len(requests)

    prepared = prepare(resolve(suite))
    task = prepared.tasks["capitals"]
    task.set_fewshot_seed(1234)
    lm = Listening(pretrained=str(model_dir), device="cpu")
    evaluate(lm, prepared.tasks, apply_chat_template=True, fewshot_as_multiturn=True, bootstrap_iters=0)

    endpoint = Endpoint(
        base_url="http://127.0.0.1:9", served_model_name="m", model_path=str(model_dir), max_model_len=512
    )
    again = prepare(resolve(suite))
    asker = Asker(again, endpoint, Client([endpoint], 1), lambda done, total: None)
    ours = [one for _, several in asker._items["capitals"].values() for one in several]
    assert [one.instance.args for one in ours] == prompts
    questions = [one.questions[0] for one in ours]
    found = [
        [list(one.context), list(one.continuation)] if hasattr(one, "context") else list(one.prompt)
        for one in questions
    ]
    assert found == tokens
    first = found[0][0] if isinstance(found[0][0], list) else found[0]
    assert first[0] == 0 and first[1] != 0, "one BOS"
    assert ("system" in prompts[0][0]) == (template != "no system")
    assert prompts[0][0].count("<|im_start|>assistant") == 3, "examples are turns of their own"


def test_a_template_makes_other_prompts_digests_and_answers(suite: Suite, tokenizer_dir: Path, tmp_path: Path) -> None:
    chat = asked(tokenizer_dir, suite, FormulaModel(), tmp_path / "chat")
    plain = asked(tokenizer_dir, plainly(suite), FormulaModel(), tmp_path / "plain")
    assert all(
        one.prompt.startswith("<|im_start|>system\nName the city.<|im_end|>\n<|im_start|>user\n") for one in chat
    )
    assert not any("<|im_start|>" in one.prompt for one in plain)
    assert not {one.prompt_hash for one in chat} & {one.prompt_hash for one in plain}
    assert resolve(suite).digest != resolve(plainly(suite)).digest
    assert resolve(suite).tasks[0].digest != resolve(plainly(suite)).tasks[0].digest


def test_a_model_without_a_template_is_asked_nothing(suite: Suite, tokenizer_dir: Path, tmp_path: Path) -> None:
    (tokenizer_dir / "chat_template.jinja").unlink()
    model = FormulaModel()
    with pytest.raises(StageError, match=re.escape(f"{tokenizer_dir} has no chat template")):
        asked(tokenizer_dir, suite, model, tmp_path)
    assert model.bodies == []
    assert asked(tokenizer_dir, plainly(suite), model, tmp_path), "a suite that does not ask for one needs none"


@pytest.mark.parametrize("template", ["{{ raise_exception('not today') }}", "{% if %}"])
def test_a_template_that_cannot_be_filled_in(template: str, tokenizer_dir: Path) -> None:
    write_template(tokenizer_dir, template)
    with pytest.raises(StageError, match="refuses a conversation of user"):
        Questioner(str(tokenizer_dir), 512).chat_template([{"role": "user", "content": "Hello"}])


def test_a_template_s_date_is_always_the_same(tokenizer_dir: Path) -> None:
    """Else what was asked yesterday would not pair with what is asked today."""
    write_template(tokenizer_dir, "{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}")
    template = Questioner(str(tokenizer_dir), 512).chat_template
    assert template([{"role": "user", "content": "Hello"}]) == "26 Jul 2024: Hello"


def test_an_answer_that_has_begun_goes_on(tokenizer_dir: Path) -> None:
    template = Questioner(str(tokenizer_dir), 512).chat_template
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well,"}]
    assert template(messages, add_generation_prompt=False).endswith("<|im_start|>assistant\nWell,")
