"""The base of every config and record: frozen, typed, and closed to unknown keys."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses unknown keys.

    A string under a field is that field's help text (pydantic reads attribute docstrings), so what a user may write
    and what it means stand in one place.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        # "model_" is pydantic's own prefix; our users' word for a checkpoint starts with it too.
        protected_namespaces=(),
    )
