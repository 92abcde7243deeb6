"""Renders one chat template, from standard input, within limits of memory and time: a process of its own.

It writes JSON: null, or the fault and its line. Beyond a limit it ends without a word.
"""

import json
import resource
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

PROCESSOR_SECONDS = 3
MEMORY_BYTES = 512 << 20
"""Of address space, Python and Jinja included."""

_QUESTION = {"role": "user", "content": "Is it raining?"}
_ANSWER = {"role": "assistant", "content": "No."}
_CONVERSATIONS = (
    [_QUESTION],
    [{"role": "system", "content": "Be brief."}, _QUESTION],
    [_QUESTION, _ANSWER, _QUESTION, _ANSWER, _QUESTION],
)
_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def main() -> int:
    """Try the template; the exit code is 1 where memory ran out."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 1))
    try:
        fault = _fault_of(sys.stdin.buffer.read().decode())
    except MemoryError:
        return 1
    print(json.dumps(None if fault is None else {"fault": fault[0], "line": fault[1]}))
    return 0


def _fault_of(text: str) -> tuple[str, int | None] | None:
    import jinja2

    try:
        render = _compiled(text)
    except jinja2.TemplateSyntaxError as error:
        return f"is no Jinja: {error.message}", error.lineno
    except RecursionError:
        return "is nested too deeply", None
    for conversation in _CONVERSATIONS:
        try:
            render(messages=conversation, add_generation_prompt=True, tools=None, documents=None, **_NAMES)
        except OverflowError as error:
            return f"computes beyond bounds: {error}", None
        except RecursionError:
            return "calls itself without end", None
        except MemoryError:
            raise
        except Exception:  # noqa: S112
            # A template may refuse a conversation, in its own words or by stumbling over it; whoever asks is told then.
            continue
    return None


def _compiled(text: str) -> Callable[..., str]:
    """In an environment like that of transformers (utils/chat_template_utils.py)."""
    import jinja2
    from jinja2 import ext, nodes, sandbox

    class Generation(ext.Extension):
        """`{% generation %}` marks what the model wrote, and writes it."""

        tags = {"generation"}

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    def refuse(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **({"ensure_ascii": False} | options))
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = datetime(2024, 7, 26).strftime
    return environment.from_string(text).render


if __name__ == "__main__":
    sys.exit(main())
