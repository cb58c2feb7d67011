"""A record of checked values: exactly these names and types."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**53)]


class Entry(BaseModel):
    """Exactly these names and types, and finite numbers only."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
