"""What recipes and plans are made of: frozen, and no field that nobody knows."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"a range goes from low to high, not from {pair[0]:g} to {pair[1]:g}")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(rising)]
