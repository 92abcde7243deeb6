"""The request cache: it keeps, it refuses, and damage is a miss."""

import logging
import sqlite3
from pathlib import Path

import pytest

from configs.errors import StageError
from evals.asking.request_cache import RequestCache

FACTS = {"model_digest": "sha256:a", "engine": "vllm 0.32.0", "dtype": "float32", "max_model_len": "2048"}


def test_what_was_put_is_there_after_opening_it_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.sqlite"
    with RequestCache(path, FACTS) as cache:
        cache.put([("k1", [-1.25, True]), ("k2", "täxt\n")])
        cache.put([("k1", [-2.5, False])])
    with RequestCache(path, FACTS) as cache:
        assert cache.get(["k1", "k2", "k3"]) == {"k1": [-2.5, False], "k2": "täxt\n"}


def test_thousands_of_keys(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "cache", FACTS) as cache:
        cache.put((str(number), number) for number in range(3000))
        assert len(cache.get([str(number) for number in range(4000)])) == 3000


@pytest.mark.parametrize("fact", sorted(FACTS))
def test_the_file_of_other_facts_is_not_used(tmp_path: Path, fact: str, caplog: pytest.LogCaptureFixture) -> None:
    with RequestCache(tmp_path / "cache", FACTS) as cache:
        cache.put([("k", 1)])
    with caplog.at_level(logging.WARNING), RequestCache(tmp_path / "cache", FACTS | {fact: "other"}) as cache:
        assert cache.get(["k"]) == {}
        cache.put([("k", 2)])
        assert cache.get(["k"]) == {"k": 2}
    assert f"{fact} is {FACTS[fact]}, asked for other" in caplog.text
    with RequestCache(tmp_path / "cache.damaged", FACTS) as cache:
        assert cache.get(["k"]) == {"k": 1}


def test_a_fact_more_is_another_fact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RequestCache(tmp_path / "cache", FACTS) as cache:
        cache.put([("k", 1)])
    with caplog.at_level(logging.WARNING), RequestCache(tmp_path / "cache", FACTS | {"device": "cpu"}) as cache:
        assert cache.get(["k"]) == {}
    assert "device is None, asked for cpu" in caplog.text


def test_rows_of_another_model_s_file_are_misses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # As a write-ahead log does that was left beside a file of another model.
    for name in ("a", "b"):
        with RequestCache(tmp_path / name, FACTS | {"model_digest": name}) as cache:
            cache.put([("k", name)])
    with sqlite3.connect(tmp_path / "a") as connection:
        connection.execute("ATTACH ? AS other", (str(tmp_path / "b"),))
        connection.execute("INSERT OR REPLACE INTO answers SELECT * FROM other.answers")
    with caplog.at_level(logging.WARNING), RequestCache(tmp_path / "a", FACTS | {"model_digest": "a"}) as cache:
        assert cache.get(["k"]) == {}
    assert "1 damaged answers" in caplog.text


@pytest.mark.slow
def test_a_flipped_bit_gives_no_other_answer(tmp_path: Path) -> None:
    path, given = tmp_path / "cache", {f"key {number}": number / 7 for number in range(20)}
    with RequestCache(path, FACTS) as cache:
        cache.put(given.items())
    whole = path.read_bytes()
    used = [place for place in range(len(whole)) if whole[place]] + list(range(0, 100))
    for place in used[:: max(1, len(used) // 400)]:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        with RequestCache(path, FACTS) as cache:
            assert cache.get(list(given)).items() <= given.items()
            cache.put(given.items())
            assert cache.get(list(given)).items() <= given.items()


@pytest.mark.parametrize("content", [b"this is no database" * 200, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_a_miss_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "cache"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING), RequestCache(path, FACTS) as cache:
        assert cache.get(["k"]) == {}
        cache.put([("k", 1)])
        assert cache.get(["k"]) == {"k": 1}
    assert "is not used" in caplog.text
    assert path.with_name("cache.damaged").read_bytes() == content


def test_pages_that_went_bad_are_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache"
    with RequestCache(path, FACTS) as cache:
        cache.put((f"key {number}", "x" * 50) for number in range(2000))
    content = bytearray(path.read_bytes())
    content[3 * 4096 : len(content) - 4096] = b"\xa5" * (len(content) - 4 * 4096)
    path.write_bytes(content)
    keys = [f"key {number}" for number in range(2000)]
    with caplog.at_level(logging.WARNING), RequestCache(path, FACTS) as cache:
        found = cache.get(keys)
        assert all(value == "x" * 50 for value in found.values())
        assert len(found) < len(keys)
        cache.put((key, 1) for key in keys)
        assert cache.get(keys) == dict.fromkeys(keys, 1)
    assert "damaged" in caplog.text


def test_an_answer_that_was_changed_is_a_miss(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache"
    with RequestCache(path, FACTS) as cache:
        cache.put([("good", -1.0), ("bad", -1.0)])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answers SET value = '-9.0' WHERE key = 'bad'")
    with caplog.at_level(logging.WARNING), RequestCache(path, FACTS) as cache:
        assert cache.get(["good", "bad"]) == {"good": -1.0}
    assert "1 damaged answers" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_no_file_makes_way(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cache"
    path.mkdir() if kind == "folder" else path.symlink_to(tmp_path / "none" / "nowhere")
    with caplog.at_level(logging.WARNING), RequestCache(path, FACTS) as cache:
        cache.put([("k", 1)])
        assert cache.get(["k"]) == {"k": 1}
    assert "is in the way" in caplog.text


def test_a_file_that_another_process_holds_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.asking.request_cache._BUSY_SECONDS", 0.01)
    with RequestCache(tmp_path / "cache", FACTS) as cache:
        cache.put([("k", 1)])
        with sqlite3.connect(tmp_path / "cache") as holder:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(StageError, match="cannot be used"):
                RequestCache(tmp_path / "cache", FACTS)
        assert cache.get(["k"]) == {"k": 1}
