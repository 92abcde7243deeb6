"""Chat templates: which there are, and that one without an end is refused and not waited for."""

import json
from pathlib import Path

import pytest

from configs.errors import UnreadableError
from quantizers.checkpoints.chat_templates import chat_templates, check_chat_templates, has_chat_template

SOUND = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% generation %}{{ bos_token }}{% endgeneration %}{% endif %}"
)


def configured(folder: Path, template: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        check_chat_templates(folder)
    return str(caught.value).replace(f"{folder}/", "")


def test_templates_are_found_where_transformers_finds_them(tmp_path: Path) -> None:
    assert chat_templates(tmp_path) == {}
    assert chat_templates(configured(tmp_path, None)) == chat_templates(configured(tmp_path, "")) == {}
    assert chat_templates(configured(tmp_path, "a")) == {"default": "a"}
    several = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    assert chat_templates(configured(tmp_path, several)) == {"default": "a", "tool_use": "b"}
    (tmp_path / "chat_template.jinja").write_bytes(b"\xef\xbb\xbffile\r\n")
    assert chat_templates(tmp_path) == {"default": "file\n"}


def test_null_and_a_template_for_tools_alone_are_none(tmp_path: Path) -> None:
    assert not has_chat_template(configured(tmp_path, None))
    assert not has_chat_template(configured(tmp_path, [{"name": "tool_use", "template": "b"}]))
    assert has_chat_template(configured(tmp_path, "a"))


@pytest.mark.parametrize(
    "template", [5, [5], {"default": "a"}, [{"name": "default"}], [{"name": "a", "template": None}]]
)
def test_what_is_no_template_is_refused(tmp_path: Path, template: object) -> None:
    assert refused(configured(tmp_path, template)) == (
        "tokenizer_config.json: `chat_template` is neither a text nor a list of named texts\n"
        "  remedy: mend the template, take it out, or fetch the file again"
    )


@pytest.mark.parametrize("template", [SOUND, "{{ raise_exception('no') }}", "{{ messages[7].content }}", "{{ 1 / 0 }}"])
def test_a_template_that_renders_or_refuses_is_sound(tmp_path: Path, template: str) -> None:
    check_chat_templates(configured(tmp_path, template))


@pytest.mark.parametrize(
    ("template", "fact"),
    [
        ("{% for a in range(10**9) %}x{% endfor %}", "computes beyond bounds: Range too big. The sandbox blocks"),
        ("{{ 'a' * 10**10 }}", "needs more than 512 MiB"),
        ("{{ 'a' * 10**25 }}", "computes beyond bounds: cannot fit 'int' into an index-sized integer"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself without end"),
        (
            "{% for a in b %}\n\n{% if %}",
            "is no Jinja: Expected an expression, got 'end of statement block' in its line 3",
        ),
        ("{{ " + "(" * 5000, "is "),
    ],
    ids=["range", "memory", "overflow", "recursion", "syntax", "deep"],
)
def test_a_template_without_bounds_is_refused(tmp_path: Path, template: str, fact: str) -> None:
    assert refused(configured(tmp_path, template)).startswith(f"tokenizer_config.json: the chat template {fact}")


@pytest.mark.slow
def test_a_template_without_end_is_not_waited_for(tmp_path: Path) -> None:
    """It would take a thousand years; the limit is of processor time, whatever else the machine does."""
    loops = "".join(f"{{% for {name} in range(99999) %}}" for name in "abc")
    (tmp_path / "chat_template.jinja").write_text(loops + "{% endfor %}" * 3)
    assert refused(tmp_path) == (
        "chat_template.jinja: the chat template does not come to an end within 3 s of computing\n"
        "  remedy: mend the template, take it out, or fetch the file again"
    )


def test_a_line_of_a_template_s_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("one\n{% endfor %}")
    assert refused(tmp_path).startswith("chat_template.jinja:2: the chat template is no Jinja: Encountered unknown tag")
