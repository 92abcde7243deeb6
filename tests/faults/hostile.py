"""Hostile inputs by rules: hypothesis draws them, a seed repeats them.

A recipe, a suite or a checkpoint is edited; each edit knows what is right: to be refused, to change nothing, or either,
as long as what is said is understandable.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Right = Literal["refused", "as before", "either"]
T = TypeVar("T")
_EXAMPLES = 12

SPECIAL: tuple[Any, ...] = (
    "", " ", "\0", "\ufeff", "/dev/zero", "/dev/stdin", "/dev/null", "~", "../../etc/passwd", ".", "/", "-1", "1e400",
    "NaN", ".inf", "%41", "a/b", "baseline", "null", "{{x}}", "{0}", "$(id)", "é" * 300, "x" * 5000, "\ud7ff", "a\nb",
    0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e300, 1e-300, float("inf"), float("nan"), True, None, [], {}, [[]],
    [None], {"a": None}, [1, "a", None], {"engine": "openai"}, {"": ""},
)  # fmt: skip
"""Values that some reader somewhere takes for something else."""

VALUES = st.one_of(
    st.sampled_from(SPECIAL),
    st.sampled_from(SPECIAL),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.recursive(st.none() | st.booleans(), lambda inner: st.lists(inner, max_size=3), max_leaves=4),
)


class Edit(NamedTuple):
    """One change of a tree of values."""

    path: tuple[str | int, ...]
    how: Literal["replace", "delete", "add"]
    value: Any


def drawn(strategy: "st.SearchStrategy[T]", number: int) -> T:
    """What hypothesis makes of a seed; the last of a few examples, since the first are the simplest."""
    found: list[T] = []

    @seed(number)
    @settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(example: T) -> None:
        found.append(example)

    keep()
    return found[-1]


def places(tree: Any, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all values in a tree of mappings and lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path for key, value in inner for path in ((*above, key), *places(value, (*above, key)))]


def edits(tree: Any, most: int = 2) -> "st.SearchStrategy[list[Edit]]":
    """One or a few changes of `tree`."""
    hows = st.sampled_from(("replace", "replace", "replace", "delete", "add"))
    return st.lists(st.builds(Edit, st.sampled_from(places(tree)), hows, VALUES), min_size=1, max_size=most)


def edited(tree: Any, changes: list[Edit]) -> Any:
    """`tree` with the changes; those whose place an earlier one took away are left out."""
    import copy

    made = copy.deepcopy(tree)
    for change in changes:
        *above, last = change.path
        node = made
        try:
            for key in above:
                node = node[key]
            if change.how == "delete":
                del node[last]
            elif change.how == "add" and isinstance(node, dict):
                node["no_such_key"] = change.value
            else:
                node[last] = change.value
        except (LookupError, TypeError):
            continue
    return made


Mangle = Callable[[bytes], bytes]

TEXTS: dict[str, tuple[Mangle, Right]] = {
    "byte order mark": (lambda text: b"\xef\xbb\xbf" + text, "either"),
    "CRLF": (lambda text: text.replace(b"\n", b"\r\n"), "either"),
    "UTF-16": (lambda text: text.decode().encode("utf-16"), "either"),
    "latin-1": (lambda text: text + "# caf\u00e9\n".encode("latin-1"), "either"),
    "NUL": (lambda text: text[: len(text) // 2] + b"\0" + text[len(text) // 2 :], "refused"),
    "cut": (lambda text: text[: len(text) // 2], "either"),
    "empty": (lambda text: b"", "refused"),
    "only blanks": (lambda text: b" \n\n\t", "refused"),
    "twice": (lambda text: text + text, "refused"),
    "two documents": (lambda text: text + b"\n---\n" + text, "refused"),
    "tabs": (lambda text: text.replace(b"  ", b"\t"), "refused"),
    "deep": (lambda text: text + b"deep: " + b"[" * 20000 + b"]" * 20000, "refused"),
    "alias bomb": (
        lambda text: (
            text
            + b"a0: &a0 [x, x]\n"
            + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12))
        ),
        "refused",
    ),
    "cycle": (lambda text: text + b"me: &me [*me]\n", "refused"),
    "tag": (lambda text: text + b"x: !!python/object/apply:os.system ['true']\n", "refused"),
    "huge number": (lambda text: text + b"x: " + b"9" * 100000 + b"\n", "refused"),
    "long line": (lambda text: text + b"x: '" + b"y" * 3_000_000 + b"'\n", "refused"),
    "includes itself": (lambda text: b"include: edited.yaml\n" + text, "refused"),
    "includes a device": (lambda text: b"include: /dev/zero\n" + text, "refused"),
    "includes a folder": (lambda text: b"include: .\n" + text, "refused"),
    "merge keys": (lambda text: text + b"x: &x {a: 1}\ny: {<<: *x}\n", "refused"),
    "control characters": (lambda text: text.replace(b"faults", b"fau\x07lts"), "refused"),
}
"""What happens to a text on its way, and what is right."""


class CheckpointFault(NamedTuple):
    """A change of a model folder."""

    name: str
    apply: Callable[[Path, Any], str]
    """Takes the folder and hypothesis's `draw`; says what it did, which names what a refusal has to name."""
    right: Right
    blame: str = ""
    """Pattern that a refusal matches."""
