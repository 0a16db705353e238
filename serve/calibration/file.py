"""The calibration file of a cascade: thresholds with their evidence, from `argus calibrate` to the router."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pydantic import Field, ValidationError

from serve.config.section import Strict
from serve.errors import ConfigError


class CurvePoint(Strict):
    """What a step would do at one threshold, measured on the calibration data.

    Attributes:
        accepted: share of samples that the step would answer itself.
        agreement: share of those that are right; 1 when there are none.
        lower: one-sided exact lower confidence bound of `agreement`.
    """

    threshold: float
    accepted: float = Field(ge=0, le=1)
    agreement: float = Field(ge=0, le=1)
    lower: float = Field(ge=0, le=1)


class StepCalibration(Strict):
    """One step's threshold and its evidence.

    Attributes:
        checkpoint: what was calibrated; another one makes the file stale.
        temperature: divides the step's logits before softmax (Guo et al. 2017).
        threshold: least calibrated confidence at which the step answers; above 1 when nothing could be certified.
        target: wanted agreement among accepted answers.
        confidence: with which it is certified, such as 0.95.
        curve: by falling threshold.
    """

    checkpoint: str
    temperature: float = Field(gt=0)
    threshold: float = Field(ge=0)
    target: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    samples: int = Field(ge=0)
    labels_used: int = Field(ge=0)
    ece_before: float = Field(ge=0, le=1)
    ece_after: float = Field(ge=0, le=1)
    curve: tuple[CurvePoint, ...]


class Calibration(Strict):
    """A cascade's steps, by name."""

    version: int = Field(1, ge=1, le=1)
    cascade: str
    made: date
    steps: dict[str, StepCalibration]


def load_calibration(path: Path) -> Calibration:
    """Reads a file.

    Raises:
        ConfigError: it cannot be read, or is no calibration file.
    """
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param="calibration") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise ConfigError(f"{path}: {where}: {first['msg']}", param="calibration") from None
