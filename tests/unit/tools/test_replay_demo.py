"""The demo's prompts are those that the script writes, and each can be replayed."""

from collections import Counter

from serving_checks.replay.classes import ClassesConfig
from serving_checks.replay.config import PromptsConfig
from serving_checks.replay.prompts import read_prompts
from tools import replay_demo


def test_the_file_is_what_the_script_writes() -> None:
    assert replay_demo.main(check=True) == 0


def test_two_hundred_different_prompts_of_three_classes() -> None:
    read = read_prompts(PromptsConfig(file=replay_demo.FILE), ClassesConfig(metadata="class"), "expected")
    assert (read.record.format, read.record.broken, read.record.prompts) == ("openai", 0, 200)
    assert len({prompt.text for prompt in read.prompts}) == 200
    assert Counter(prompt.prompt_class for prompt in read.prompts) == {
        "arithmetic": 70,
        "instruction": 66,
        "completion": 64,
    }
    assert sum(prompt.expected is not None for prompt in read.prompts) == 136
