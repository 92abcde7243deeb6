"""Names of ours are refused for what users name."""

import pytest
from pydantic import ValidationError

from configs.names import COLUMNS
from evals.suites.suite import Category, Suite
from pipelines.report.table import build_table
from tests.unit.pipelines.report_records import SUITE, report_rows
from tests.unit.pipelines.test_runner import INT8, run_config


def test_no_method_is_called_like_the_baseline() -> None:
    with pytest.raises(ValidationError, match="the name is taken: baseline is the unquantized model"):
        run_config(methods={"baseline": INT8})


@pytest.mark.parametrize("name", ["Int8", "../int8", "a/b", "", ".int8", "int8\n", "a:b", "a+b", "x" * 101])
def test_a_name_is_a_file_s_on_every_file_system(name: str) -> None:
    with pytest.raises(ValidationError):
        run_config(methods={name: INT8})
    with pytest.raises(ValidationError):
        run_config(name=name)


@pytest.mark.parametrize("name", ["verdict", "Model", "tokens/s", "a/b", "", "\x1b[2J", "x" * 251])
def test_a_category_is_no_column_of_ours(name: str) -> None:
    with pytest.raises(ValidationError):
        Category(name=name, description="", tasks=["t"], metric="acc")


def test_categories_differ_by_more_than_the_case() -> None:
    both = [Category(name=name, description="", tasks=[name], metric="acc") for name in ("math", "Math")]
    with pytest.raises(ValidationError, match="math stands twice"):
        Suite(name="s", version="1", description="", categories=both)


def test_the_report_s_columns_are_known() -> None:
    titles = {column.title for column in build_table(report_rows(), SUITE).columns}
    categories = {category.name for category in SUITE.categories}
    assert titles - categories == set(COLUMNS)
