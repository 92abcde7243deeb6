"""Config errors name file, line, text and remedy; whole messages are pinned."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from configs.base import StrictModel
from configs.errors import ConfigError
from configs.loading import load_yaml_model


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


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nshapes:\n  c: {kind: circle, radius: 1}\ntags: [x, y]\n")
    drawing = load_yaml_model(path, Drawing, ["shapes.c.radius=5", "tags.1=z", "scale=2.5"])
    assert (drawing.shapes["c"], drawing.tags, drawing.scale) == (Circle(kind="circle", radius=5), ["x", "z"], 2.5)


@pytest.mark.parametrize("override", ["scale", "tags.9=x", "name.deeper=x"])
def test_bad_override(tmp_path: Path, override: str) -> None:
    message = message_of(write(tmp_path, "name: a\ntags: [x]\n"), [override])
    assert message.startswith(f"--set {override}")
    assert "remedy: write --set dotted.key=value" in message


def test_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, "name: a\nscale: 1\n"), ["scale=-1"])
    assert "scale: 1" not in message
