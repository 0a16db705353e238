"""What a radiance field is made of; a checkpoint carries it, and it says which tensors must be there."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Vector = tuple[float, float, float]
Variant = Literal["hash", "mlp"]

_FARTHEST, _SMALLEST = 1e9, 1e-6


class FieldSettings(BaseModel):
    """Bounds are such that no file can ask for more memory than a scene may take."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    variant: Variant = Field(description="`hash`: a hash grid with small MLPs; `mlp`: the published pair of MLPs.")
    least: Vector = Field(description="Lower corner of the box outside of which there is nothing.")
    most: Vector = Field(description="Upper corner.")
    background: Vector | None = Field(
        None, description="Colour that it was trained before; None: on transparent pictures, so any goes."
    )
    occupancy: int = Field(64, ge=8, le=256, description="Cells of the occupancy grid along each axis.")
    # mlp
    width: int = Field(256, ge=8, le=1024, multiple_of=2, description="Units of a layer of the MLP.")
    # hash
    levels: int = Field(10, ge=1, le=24, description="Grids, from the coarsest to the finest.")
    features: int = Field(2, ge=1, le=8, description="Values at a vertex.")
    log2_table: int = Field(15, ge=8, le=22, description="Logarithm of the most entries of a level's table.")
    coarsest: int = Field(16, ge=2, le=1024, description="Cells of the coarsest grid along each axis.")
    finest: int = Field(256, ge=2, le=8192, description="Cells of the finest grid along each axis.")
    hidden: int = Field(64, ge=8, le=512, description="Units of a layer of the small MLPs.")

    @model_validator(mode="after")
    def _ordered(self) -> FieldSettings:
        # Beyond, float32 has no room for places within the box.
        if max(map(abs, (*self.least, *self.most))) > _FARTHEST or self.side < _SMALLEST:
            raise ValueError(f"the box from {self.least} to {self.most} is too large, too far away or too small")
        if not all(low < high for low, high in zip(self.least, self.most, strict=True)):
            raise ValueError(f"the box from {self.least} to {self.most} is empty")
        if self.coarsest > self.finest:
            raise ValueError(f"coarsest is {self.coarsest}, finest is {self.finest}; coarsest must not exceed finest")
        return self

    @property
    def side(self) -> float:
        """Of the smallest cube that holds the box from its lower corner on."""
        return max(high - low for low, high in zip(self.least, self.most, strict=True))
