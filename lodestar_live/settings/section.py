"""What every section of the settings is built on."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    model_validator,
)

_DEEPEST = 4  # lists in lists that any setting has, and some more


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no value of another type.

    Strict and finite: a check that ``armed = "yes"`` or ``inf`` switches off is worse
    than an error. A list is accepted where a tuple is meant, since TOML has no tuples.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _has_tuples(cls, values: Any) -> Any:
        return _with_tuples(values, _DEEPEST)


def _with_tuples(values: Any, depth: int) -> Any:
    if depth == 0:
        return values
    if isinstance(values, dict):
        return {name: _with_tuples(value, depth - 1) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return tuple(_with_tuples(value, depth - 1) for value in values)
    return values


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] >= limits[1]:
        raise ValueError("expected [lowest, highest] with lowest < highest")
    return limits


Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ordered)]
Travel = Annotated[
    tuple[
        Annotated[float, Field(ge=-1e6, le=1e6)],
        Annotated[float, Field(ge=-1e6, le=1e6)],
    ],
    AfterValidator(_ordered),
]
Port = Annotated[int, Field(ge=1, le=65535)]
