"""Names that users give and names that are ours: one of ours is refused where it is read."""

from typing import Annotated

from pydantic import AfterValidator, Field

from configs.quantities import Label, Name

BASELINE = "baseline"
"""The unquantized model among the models of a run."""

_AND = "+"
"""No name that a user gives holds it."""

COLUMNS = ("model", "verdict", "dtype", "size", "bits", "memory", "tokens/s", "TTFT p50", "start", "checks")
"""Of the report's table, beside one for each category of the suite."""


def baseline_in(dtype: str) -> str:
    """The unquantized model, served in the dtype of artifacts that are not served in its own."""
    return f"{BASELINE}{_AND}{dtype}"


def replicate_of(entry: str, number: int) -> str:
    """The artifact of `entry` that is made with the calibration of this number; the first has the entry's own name."""
    return entry if number == 1 else f"{entry}{_AND}{number}"


def entry_of(model: str) -> str:
    """The method's entry that an artifact is made of, or `baseline`."""
    return model.partition(_AND)[0]


def _free_model(name: str) -> str:
    if name == BASELINE:
        raise ValueError(f"the name is taken: {BASELINE} is the unquantized model itself; give the entry another")
    return name


def _free_category(name: str) -> str:
    if name.casefold() in {column.casefold() for column in COLUMNS}:
        raise ValueError("the name is taken by a column of the report; give the category another")
    return name


MethodName = Annotated[Name, AfterValidator(_free_model)]
"""Of a method's entry in a recipe: names a model."""

CategoryName = Annotated[Label, Field(pattern=r"^\w[\w .-]*$"), AfterValidator(_free_category)]
"""Of a suite's category: titles a column."""
