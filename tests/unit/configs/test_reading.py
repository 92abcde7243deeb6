"""Text that others wrote: what is read, and the whole message for what is not."""

import json
import os
import socket
from pathlib import Path

import pytest

from configs.errors import UnreadableError
from configs.reading.json_text import parse_json, read_json, read_json_lines, read_json_object
from configs.reading.text import MalformedError, lines_of, opened, read_text
from tests.bounds import run_bounded

GERMAN = "Der Fluß läuft über die Brücke.\n"
SAVE_AGAIN = "\n  remedy: fetch or write the file again"
CONVERT = "\n  remedy: convert it to UTF-8: iconv -f {} -t UTF-8 FILE > NEW"


def refused(path: Path, read: object = read_text) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(path)  # type: ignore[operator]
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path), path.name)


def written(folder: Path, content: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbfone\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
        (GERMAN.encode(), GERMAN),
        ("a\u2028b\x85c".encode(), "a\u2028b\x85c"),
        (b"", ""),
    ],
)
def test_mark_and_line_ends_are_settled(tmp_path: Path, content: bytes, text: str) -> None:
    assert read_text(written(tmp_path, content)) == text


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    written(tmp_path, b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "text"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"one\ntwo\n" + GERMAN.encode("latin-1") * 9,
            "file:3: byte 15 (0xdf) is not UTF-8; the text looks like latin-1 (ISO 8859-1)"
            + CONVERT.format("ISO-8859-1"),
        ),
        (
            "“Quoted”, he said – twice.".encode("cp1252"),
            "file:1: byte 0 (0x93) is not UTF-8; the text looks like Windows-1252" + CONVERT.format("WINDOWS-1252"),
        ),
        (
            "Кошка сидела на окне.".encode("koi8-r"),
            "file:1: byte 0 (0xeb) is not UTF-8: it is text in another encoding, or no text"
            + CONVERT.format("ENCODING"),
        ),
        (
            GERMAN.encode() * 2 + b"\xff" + GERMAN.encode(),
            "file:3: byte 72 (0xff) is not UTF-8, though what is around it is: the text is damaged or cut off"
            + SAVE_AGAIN,
        ),
        (
            GERMAN.encode() * 2 + GERMAN.encode()[:8],
            "file:3: byte 79 (0xc3) is not UTF-8, though what is around it is: the text is damaged or cut off"
            + SAVE_AGAIN,
        ),
        (GERMAN.encode("utf-16"), "file: it is UTF-16, as its first bytes say, not UTF-8" + CONVERT.format("UTF-16")),
        (GERMAN.encode("utf-32"), "file: it is UTF-32, as its first bytes say, not UTF-8" + CONVERT.format("UTF-32")),
        (
            GERMAN.encode("utf-16-le"),
            "file: it looks like UTF-16 without a byte order mark" + CONVERT.format("UTF-16LE"),
        ),
        (
            b"one\r\ntwo\0three",
            "file:2: byte 8 is NUL, which stands in no text\n  remedy: name a text file; this one is binary or damaged",
        ),
    ],
    ids=["latin-1", "windows", "cyrillic", "damaged", "cut off", "utf-16", "utf-32", "utf-16 bare", "nul"],
)
def test_other_encodings_are_refused_at_their_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = written(tmp_path, content)
    assert refused(path) == message
    if not message.startswith("file: "):
        # One line at a time: the same place.
        assert refused(path, lambda one: list(lines_of(one))).split(" is")[0] == message.split(" is", maxsplit=1)[0]


def test_what_is_no_file_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        assert refused(tmp_path / "socket").startswith("socket: is a socket, not a file\n")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    assert refused(tmp_path / "pipe") == "pipe: is a pipe, not a file\n  remedy: name a file with text"
    assert refused(tmp_path / "link").startswith("link: is a device, not a file\n")
    assert "is a folder, not a file" in refused(tmp_path)
    assert refused(tmp_path / "loop").startswith("loop: cannot be read: Too many levels of symbolic links\n")
    assert refused(tmp_path / "none").startswith("none: cannot be read: No such file or directory\n")
    assert refused(tmp_path / ("n" * 300)).endswith("remedy: mend the path or the file's permissions")
    assert "cannot be read: embedded null byte" in refused(Path("a\0b"))


def test_size_is_bounded(tmp_path: Path) -> None:
    path = written(tmp_path, b"x" * 2048)
    with pytest.raises(UnreadableError, match="is larger than 1 KiB"), opened(path, 1024):
        pass
    # A file of /proc says that it is empty.
    with pytest.raises(UnreadableError, match="is larger than 0 KiB"):
        read_text(Path("/proc/self/status"), 10)


def test_lines_end_as_json_lets_them(tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeff{"a": "x\u2028y\x85z"}\r\n\r\n{"a": 2}\r{"a": 3}'.encode())
    assert [*read_json_lines(path)] == [(1, {"a": "x\u2028y\x85z"}), (3, {"a": 2}), (4, {"a": 3})]


DEEP = "[" * 101 + "]" * 101
REFUSED_JSON = {
    "cut": ('{"a": 1,\n"b"', "file:2: not JSON: Expecting ':' delimiter (column 4)"),
    "words": ("just words", "file:1: not JSON: Expecting value (column 1)"),
    "twice": (
        '{"a": {"b": 1},\n "b": 2,\n "a": 3}',
        "file:3: the key 'a' stands twice in one object\n  remedy: mend the text at this place",
    ),
    "nan": ('{"a": "NaN",\n "b": [1,\n NaN]}', "file:3: NaN is no number of JSON"),
    "infinity": ("[1,\n-Infinity]", "file:2: -Infinity is no number of JSON"),
    "overflow": ("[1,\n1e400]", "file:2: the number 1e400 is beyond what a double holds"),
    "digits": (f"[1,\n{'9' * 10**6}]", f"file:2: the number {'9' * 40}... has 1000000 digits"),
    "deep": (DEEP, "file: values stand more than 100 levels deep" + SAVE_AGAIN),
    "very deep": ("[" * 10**6, "file: values stand more than 100 levels deep" + SAVE_AGAIN),
    "deep objects": ('{"a":' * 150 + "1" + "}" * 150, "file: values stand more than 100 levels deep" + SAVE_AGAIN),
    "nul": ('{"a": "b\\u0000c"}', "file: the string 'b\\x00c' holds a NUL"),
    "surrogate": ('["\\ud83d"]', "file: the string '\\ud83d' holds half of a surrogate pair, which is no text"),
}


@pytest.mark.parametrize("name", REFUSED_JSON)
def test_json_is_strict(tmp_path: Path, name: str) -> None:
    text, message = REFUSED_JSON[name]
    assert refused(written(tmp_path, text.encode()), read_json).startswith(message)


@pytest.mark.parametrize(
    "text", ['{"a": {"b": 1}, "b": {"b": 2}}', "[" * 100 + "]" * 100, '"\\ud83d\\ude00"', "1" * 100, "-1.5e300"]
)
def test_sound_json_is_read_as_it_is(text: str) -> None:
    assert parse_json(text) == json.loads(text)


def test_errors_of_rows_name_their_line(tmp_path: Path) -> None:
    path = written(tmp_path, f'{{"a": 1}}\n\n{{"a": 1, "a": 2}}\n{DEEP}\n'.encode())
    assert refused(path, lambda one: list(read_json_lines(one))).startswith("file:3: the key 'a' stands twice")
    path = written(tmp_path, f"1\n{DEEP}\n".encode())
    assert refused(path, lambda one: list(read_json_lines(one))).startswith("file:2: values stand more than 100")


def test_an_object_is_wanted(tmp_path: Path) -> None:
    assert refused(written(tmp_path, b"[1]"), read_json_object) == "file: it holds no JSON object" + SAVE_AGAIN


def test_bytes_of_an_answer_are_text_too() -> None:
    with pytest.raises(MalformedError, match=r"line 1: byte 1 \(0xff\) is not UTF-8"):
        parse_json(b'"\xff"')


def test_what_a_model_said_is_left_to_who_asked() -> None:
    said = parse_json('{"text": "\\u0000\\ud83d", "logprob": NaN, "other": -Infinity}', of_model=True)
    assert said["text"] == "\0\ud83d"
    assert said["logprob"] != said["logprob"]
    for text in (DEEP, "1" * 101, '{"a": 1, "a": 2}'):
        with pytest.raises(MalformedError):
            parse_json(text, of_model=True)


def test_hostile_json_takes_little(tmp_path: Path) -> None:
    """Each is refused within a process's limits of memory and processor time."""
    for name, (text, _) in REFUSED_JSON.items():
        written(tmp_path, text.encode(), name)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "zero").symlink_to("/dev/zero")
    done = run_bounded(
        "import pathlib, sys\n"
        "from configs.errors import UnreadableError\n"
        "from configs.reading.json_text import read_json\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: read_json(path)\n"
        "    except UnreadableError: print(path.name)\n",
        str(tmp_path),
    )
    assert done.stdout.splitlines() == sorted([*REFUSED_JSON, "sparse", "zero"]), done.stderr
