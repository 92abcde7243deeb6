"""Config errors name file, line, text and remedy; whole messages are pinned."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from configs.base import StrictModel
from configs.errors import ConfigError
from configs.loading import load_yaml_model
from tests.bounds import run_bounded


class Circle(StrictModel):
    kind: Literal["circle"]
    radius: int


class Square(StrictModel):
    kind: Literal["square"]
    side: int = 1


class Drawing(StrictModel):
    name: str
    scale: float = Field(default=1.0, gt=0)
    shapes: dict[str, Annotated[Circle | Square, Field(discriminator="kind")]] = {}
    tags: list[str] = []


def write(folder: Path, text: str, name: str = "drawing.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def message_of(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_yaml_model(path, Drawing, overrides or [])
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path), path.name)


def test_reads_a_sound_file(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nshapes:\n  c: {kind: circle, radius: 2}\ntags: [x, 'y: z']\n")
    drawing = load_yaml_model(path, Drawing)
    assert drawing.shapes["c"] == Circle(kind="circle", radius=2)
    assert drawing.tags == ["x", "y: z"]


def test_unknown_key_names_line_and_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nscael: 2\n")
    assert message_of(path) == "drawing.yaml:2: unknown key `scael`\n  2 | scael: 2\n  remedy: did you mean `scale`?"


def test_unknown_key_inside_a_union_member(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nshapes:\n  c:\n    kind: circle\n    radius: 1\n    raduis: 2\n")
    assert message_of(path) == (
        "drawing.yaml:6: unknown key `shapes.c.raduis`\n  6 |     raduis: 2\n  remedy: did you mean `radius`?"
    )


def test_unknown_key_without_a_near_one_lists_the_known(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nzzz: 2\n")
    assert message_of(path).endswith("remedy: take it out; known keys here: name, scale, shapes, tags")


def test_wrong_type_names_the_value(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nshapes:\n  c: {kind: circle, radius: wide}\n")
    message = message_of(path)
    assert message.startswith("drawing.yaml:3: `shapes.c.radius`: input should be a valid integer")
    assert "the value is 'wide'" in message


def test_missing_key_points_at_its_mapping(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nshapes:\n  c: {kind: circle}\n")
    assert message_of(path) == (
        "drawing.yaml:3: `shapes.c.radius` is missing\n  3 |   c: {kind: circle}\n  remedy: add `radius:` here"
    )


def test_out_of_range(tmp_path: Path) -> None:
    assert "drawing.yaml:2: `scale`: input should be greater than 0" in message_of(
        write(tmp_path, "name: a\nscale: 0\n")
    )


def test_unknown_tag_of_a_union(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, "name: a\nshapes:\n  c: {kind: oval}\n"))
    assert "drawing.yaml:3" in message
    assert "'circle', 'square'" in message


def test_duplicate_key(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, "name: a\nname: b\n"))
    assert message == "drawing.yaml:2: `name` stands twice\n  2 | name: b\n  remedy: keep one of them"


def test_no_yaml(tmp_path: Path) -> None:
    assert message_of(write(tmp_path, "name: [a\n")).startswith("drawing.yaml:2: not YAML")


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n"])
def test_top_level_must_be_a_mapping(tmp_path: Path, text: str) -> None:
    assert "the top level must be a mapping" in message_of(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    assert "cannot read" in message_of(tmp_path / "none.yaml")


def test_include_merges_mappings_and_keeps_places(tmp_path: Path) -> None:
    write(tmp_path, "name: base\nshapes:\n  c: {kind: circle, radius: 1}\n", "base.yaml")
    path = write(tmp_path, "include: base.yaml\nshapes:\n  s: {kind: square}\n")
    assert set(load_yaml_model(path, Drawing).shapes) == {"c", "s"}
    write(tmp_path, "name: base\nscale: -1\n", "base.yaml")
    assert "base.yaml:2" in message_of(path)


def test_include_of_itself(tmp_path: Path) -> None:
    assert "includes itself" in message_of(write(tmp_path, "include: drawing.yaml\nname: a\n"))


HOSTILE = {
    "alias bomb": (
        "a: &a [1]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in pairwise("abcdefgh")),
        "drawing.yaml:6: it holds more than 100000 values once its aliases are expanded\n  6 | f: &f [",
    ),
    "merge bomb": (
        "a: &a {k: 1}\n"
        + "".join(f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 10)}]}}\n" for a, b in pairwise("abcdefgh")),
        "drawing.yaml:6: it holds more than 100000 values once its aliases are expanded",
    ),
    "cycle": ("name: a\ntags: &t [x, *t]\n", "drawing.yaml:2: an alias stands within what it stands for"),
    "chain": (
        "a0: &a0 [1]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}]\n" for n in range(200)),
        "drawing.yaml:49: values stand more than 50 levels deep\n  49 | a48: &a48 [*a47]\n  remedy: write it flatter",
    ),
    "deep": ("name: a\ntags: " + "[" * 51 + "]" * 51, "drawing.yaml:2: values stand more than 50 levels deep"),
    "very deep": ("name: a\ntags: " + "[" * 10**5, "drawing.yaml: values stand more than 50 levels deep"),
    "long": ("name: " + "a" * (1 << 20), "cannot read drawing.yaml: is larger than 1 MiB\n"),
    "digits": ("name: a\nscale: " + "9" * 10**5, f"drawing.yaml:2: the number {'9' * 40}... has 100000 digits"),
    "huge": ("name: a\nscale: 1.0e+400\n", "drawing.yaml:2: 1.0e+400 is not finite\n  2 | scale: 1.0e+400\n"),
    "infinite": ("name: a\nscale: .inf\n", "drawing.yaml:2: .inf is not finite\n  2 | scale: .inf\n"),
    "nan": ("name: a\nscale: .nan\n", "drawing.yaml:2: .nan is not finite"),
    "octal": (
        "name: a\nscale: 010\n",
        "drawing.yaml:2: 010 would be read as the number 8\n  2 | scale: 010\n"
        '  remedy: write the number as such; write it in quotes, such as "010" if it is none',
    ),
    "clock": ("name: a\nscale: 1:30\n", "drawing.yaml:2: 1:30 would be read as the number 90\n"),
    "clock of seconds": ("name: a\nscale: 1:30.5\n", "drawing.yaml:2: 1:30.5 would be read as the number 90.5\n"),
    "date": (
        "name: 2024-01-31\n",
        "drawing.yaml:1: 2024-01-31 would be read as a date\n  1 | name: 2024-01-31\n"
        '  remedy: write it in quotes, such as "2024-01-31"',
    ),
    "tag": (
        "name: !!python/object/apply:os.getcwd []\n",
        "drawing.yaml:1: the tag tag:yaml.org,2002:python/object/apply:os... is not read here",
    ),
    "scalar tag": ("name: !!python/name:os.getcwd x\n", "drawing.yaml:1: the tag tag:yaml.org,2002:python/name:os.get"),
    "binary": ("name: !!binary aGk=\n", "drawing.yaml:1: the tag tag:yaml.org,2002:binary is not read here"),
    "no number": (
        "name: a\nscale: !!int x\n",
        "drawing.yaml:2: not a value: invalid literal for int() with base 10: 'x'",
    ),
    "nul": (
        'name: a\ntags: ["\\0"]\n',
        'drawing.yaml:2: a string holds a NUL\n  2 | tags: ["\\0"]\n  remedy: take it out',
    ),
    "nul byte": ("name: a\0b\n", "drawing.yaml:1: byte 7 is NUL, which stands in no text\n"),
    "control": ("name: a\nscale: \x07\n", "drawing.yaml:2: not YAML: it holds a control character\n"),
    "merge": ("name: a\nshapes: {<<: {}}\n", "drawing.yaml:2: merge keys (`<<`) are not read here"),
    "key": ("name: a\n? [x, y]\n: 1\n", "drawing.yaml:2: a key is no plain word"),
    "two documents": ("name: a\n---\nname: b\n", "drawing.yaml:2: not YAML: but found another document"),
    "include of a number": (
        "include: 5\n",
        "drawing.yaml:1: `include` names no file\n  remedy: write a file's name or a list",
    ),
    "include of numbers": ("name: a\ninclude: [a.yaml, 5]\n", "drawing.yaml:2: `include` names no file"),
    "include of a device": ("include: /dev/zero\n", "drawing.yaml: cannot read /dev/zero: is a device, not a file\n"),
    "include of a folder": ("include: .\n", "is a folder, not a file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_at_its_place(tmp_path: Path, name: str) -> None:
    text, message = HOSTILE[name]
    assert message in message_of(write(tmp_path, text))


def test_hostile_text_takes_little(tmp_path: Path) -> None:
    """Each is refused within a process's limits of memory and processor time."""
    for name, (text, _) in HOSTILE.items():
        write(tmp_path, text, f"{name}.yaml")
    # A file that includes the next one twice, forty files deep.
    for number in range(40):
        write(tmp_path, f"include: [w{number + 1}.yml, w{number + 1}.yml]\n", f"w{number}.yml")
    write(tmp_path, "name: a\n", "w40.yml")
    write(tmp_path, "include: w0.yml\n", "wide.yaml")
    done = run_bounded(
        "import pathlib, sys\n"
        "from configs.errors import ConfigError\n"
        "from configs.loading import load_yaml_model\n"
        "from tests.unit.configs.test_loading import Drawing\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).glob('*.yaml')):\n"
        "    try: load_yaml_model(path, Drawing)\n"
        "    except ConfigError as error: print(path.stem)\n",
        str(tmp_path),
    )
    assert done.stdout.splitlines() == [
        Path(name).stem for name in sorted(f"{name}.yaml" for name in [*HOSTILE, "wide"])
    ], done.stderr


def test_many_includes_are_refused(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path, f"include: [w{number + 1}.yaml, w{number + 1}.yaml]\n", f"w{number}.yaml")
    write(tmp_path, "name: a\n", "w6.yaml")
    path = write(tmp_path, "include: w0.yaml\n")
    assert message_of(path) == "drawing.yaml: more than 50 files are included\n  remedy: include fewer"


def test_mark_and_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "drawing.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\nscale: 2\r\n")
    assert load_yaml_model(path, Drawing).scale == 2
    path.write_bytes(b"\xef\xbb\xbfname: a\r\n\r\nscael: 2\r\n")
    assert message_of(path).startswith("drawing.yaml:3: unknown key `scael`\n  3 | scael: 2\n")


def test_numbers_and_words_as_people_write_them(tmp_path: Path) -> None:
    path = write(tmp_path, "name: '010'\nscale: 1_000\ntags: [0x, 1e5x, yes please, '2024-01-31', ~x]\n")
    drawing = load_yaml_model(path, Drawing)
    assert (drawing.name, drawing.scale, drawing.tags[3]) == ("010", 1000, "2024-01-31")


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, f"name: a\nscale: {'x' * 5000}\n"))
    assert len(message) < 700
    assert "the value is 'xxx" in message


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nshapes:\n  c: {kind: circle, radius: 1}\ntags: [x, y]\n")
    drawing = load_yaml_model(path, Drawing, ["shapes.c.radius=5", "tags.1=z", "scale=2.5"])
    assert (drawing.shapes["c"], drawing.tags, drawing.scale) == (Circle(kind="circle", radius=5), ["x", "z"], 2.5)


@pytest.mark.parametrize("override", ["scale", "tags.9=x", "name.deeper=x", "tags.²=x"])
def test_bad_override(tmp_path: Path, override: str) -> None:
    message = message_of(write(tmp_path, "name: a\ntags: [x]\n"), [override])
    assert message.startswith(f"--set {override}")
    assert "remedy: write --set dotted.key=value" in message


def test_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, "name: a\nscale: 1\n"), ["scale=-1"])
    assert "scale: 1" not in message
