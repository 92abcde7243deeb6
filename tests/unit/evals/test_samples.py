"""Per-item records as files: what is written is read, what is damaged is said."""

from pathlib import Path

import pytest

from configs.errors import StageError
from evals.asking.lm_eval_runner import check_parallel
from evals.samples import Sample, category_score, read_samples, write_samples
from evals.suites.suite import Category

SAMPLE = Sample(
    task="arc",
    category="knowledge",
    filter="none",
    metric="acc",
    doc_id=3,
    doc_hash="d",
    prompt_hash="p",
    sent_hash="s",
    target_hash="t",
    score=1.0,
    prompt="Who?",
    target="Ü",
    prompt_tokens=7,
    log_likelihoods=[-1.5, -2.25],
    answer="Ü",
)
PERPLEXITY = Category(
    name="language", description="", tasks=["t"], metric="word_perplexity", unit="perplexity", higher_is_better=False
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    samples = [SAMPLE, SAMPLE.model_copy(update={"doc_id": 4, "log_likelihoods": [], "weight": 12.0})]
    write_samples(tmp_path / "deep" / "samples.parquet", samples)
    assert read_samples(tmp_path / "deep" / "samples.parquet") == samples
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["samples.parquet"]


def test_no_samples_are_a_file_too(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples.parquet", [])
    assert read_samples(tmp_path / "samples.parquet") == []


def test_long_texts_are_cut(tmp_path: Path) -> None:
    long = SAMPLE.model_copy(update={"prompt": "a" * 9000 + "end", "target": "t" * 9000, "answer": "b" * 9000})
    write_samples(tmp_path / "samples.parquet", [long])
    (read,) = read_samples(tmp_path / "samples.parquet")
    assert (len(read.prompt), len(read.target), len(read.answer)) == (4000, 500, 1000)
    assert read.prompt.endswith("end")


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "half", "flipped"])
def test_a_damaged_file_is_said(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "samples.parquet"
    write_samples(path, [SAMPLE] * 50)
    content = path.read_bytes()
    changed = {"empty": b"", "text": b"{}\n", "half": content[: len(content) // 2], "flipped": content[::-1]}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(StageError, match=r"samples\.parquet is damaged"):
        read_samples(path)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    path = tmp_path / "samples.parquet"
    row = SAMPLE.model_dump(exclude={"schema_version", "score"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    with pytest.raises(StageError, match="score"):
        read_samples(path)


def test_one_sample_has_no_standard_error() -> None:
    score = category_score(PERPLEXITY, [SAMPLE.model_copy(update={"score": -2.0, "weight": 5.0})])
    assert score.stderr is None
    assert score.value == pytest.approx(7.389, abs=1e-3)


def test_a_hopeless_perplexity_is_a_number() -> None:
    score = category_score(PERPLEXITY, [SAMPLE.model_copy(update={"score": -9000.0})])
    assert score.value == pytest.approx(1.79e308, rel=0.01)


def test_items_of_a_cluster_count_as_one() -> None:
    """Clusters of unequal size against the textbook: ratio of cluster totals (Cochran, 9A.1), by hand."""
    scores = {"q1": [1.0, 1.0, 0.0], "q2": [0.0, 0.0], "q3": [1.0]}
    samples = [
        SAMPLE.model_copy(update={"cluster": name, "doc_hash": f"{name}{place}", "score": score})
        for name, rows in scores.items()
        for place, score in enumerate(rows)
    ]
    category = Category(name="c", description="", tasks=["t"], metric="acc")
    found = category_score(category, samples)
    assert (found.value, found.items) == (0.5, 6)
    # Sums of score - 1/2 by cluster: 1/2, -1, 1/2.
    assert found.stderr == pytest.approx((3 / 2 * (0.25 + 1 + 0.25)) ** 0.5 / 6)
    assert category_score(category, samples[:3]).stderr is None


def test_questions_matched_by_place_are_equally_many() -> None:
    category = Category(name="languages", description="", tasks=["de", "sw"], metric="acc", parallel=True)
    check_parallel(category, {"de": 250, "sw": 250})
    with pytest.raises(StageError, match=r"category languages is parallel.*de 250, sw 249") as caught:
        check_parallel(category, {"de": 250, "sw": 249})
    assert "parallel" in caught.value.remedy
    check_parallel(category.model_copy(update={"parallel": False}), {"de": 250, "sw": 249})


def test_a_score_knows_that_its_kinds_are_a_sample() -> None:
    """Four kinds of ten items, two of them wrong throughout: that is four witnesses and not forty."""
    samples = [
        SAMPLE.model_copy(
            update={"doc_hash": f"d{item}", "doc_id": item, "kind": f"k{item % 4}", "score": item % 4 > 1}
        )
        for item in range(40)
    ]
    plain = Category(name="knowledge", description="", tasks=["arc"], metric="acc")
    sampled = plain.model_copy(update={"kind": "template", "kinds_are": "sample"})
    one, four = category_score(plain, samples), category_score(sampled, samples)
    assert one.stderr == pytest.approx(0.5 / 39**0.5)
    assert four.stderr == pytest.approx(0.5 / 3**0.5)
    assert (four.low, four.high) == (pytest.approx(0.150, abs=1e-3), pytest.approx(0.850, abs=1e-3))
