"""What a load test is: where it is sent, when, and how long; as typed settings and as Locust's own arguments."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.traffic.arrivals import Arrivals, parse_arrivals
from serve.errors import ConfigError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_S = 7 * 24 * 3600.0


class Settings(BaseModel):
    """One load test; together with the workload's code it decides every request and its time."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    workload: str = Field(min_length=1, description="Name of the workload; of its file, for one of your own.")
    host: str = Field(pattern=r"^https?://[^/\s]+", description="Base URL of what is loaded.")
    grpc: str = Field("", pattern=r"^$|^[^/]+:\d+$", description="host:port of its gRPC server; empty for none.")
    key_env: str = Field("", description="Environment variable, on every worker, with the API key.")
    arrivals: Arrivals = Field(description="When requests are sent in the measured part.")
    seconds: float = Field(gt=0, le=_LONGEST_S, description="Length of the measured part.")
    warm_up_s: float = Field(5.0, ge=0, le=3600, description="Seconds before it: Poisson arrivals, not measured.")
    grace_s: float = Field(30.0, ge=0, le=3600, description="Seconds that answers are waited for after the end.")
    seed: int = Field(1, ge=0, le=2**63 - 1, description="Of the arrivals.")
    max_in_flight: int = Field(
        2000, ge=1, le=100_000, description="Requests that one worker may have in progress; more are not sent."
    )

    @property
    def end_s(self) -> float:
        """When the measured part ends, since the run began."""
        return self.warm_up_s + self.seconds


def checked(**values: Any) -> Settings:
    """Settings from values that a person gave.

    Raises:
        ConfigError: names the setting, the value and what is wrong with it.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {first['msg']}, got {first['input']!r:.80}", param=where) from None


def parse_seconds(text: str, option: str = "duration") -> float:
    """Reads `90`, `90s`, `5m`, `1h`.

    Args:
        option: that the text is of, for the error.

    Raises:
        ConfigError: it is none of them.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no length of time; write 90, 90s, 5m or 1h", param=option)
    return float(match[1]) * _UNITS[match[2]]


def add_arguments(parser: Any) -> None:
    """Adds ours to Locust's own; they show in its web interface as well."""
    group = parser.add_argument_group("Open-loop schedule")
    group.add_argument("--arrivals", default="poisson:10", help="Process: poisson:100, gamma:100,cv=2, trace:FILE ...")
    group.add_argument("--duration", default="60s", help="Measured part: 90s, 5m, 1h.")
    group.add_argument("--warm-up", default="5s", help="Before it, not measured.")
    group.add_argument("--grace", default="30s", help="How long answers are waited for after the end.")
    group.add_argument("--seed", type=int, default=1, help="Of the arrivals.")
    group.add_argument("--grpc", default="", help="host:port of the target's gRPC server.")
    group.add_argument("--key-env", default="", help="Environment variable with the API key.")
    group.add_argument("--max-in-flight", type=int, default=2000, help="Bound on requests in progress, a worker.")
    group.add_argument("--workload", default="", help="Name in the record; the file's by default.")
    group.add_argument("--record", default="", help="Write the record of the run (JSON) to this file.")


def from_options(options: Namespace, host: str, workload: str) -> Settings:
    """Settings out of Locust's parsed arguments.

    Args:
        host: of Locust's environment; its web interface may have changed it.
        workload: name to use where none was given.

    Raises:
        ConfigError: a value is wrong.
    """
    return checked(
        workload=options.workload or workload,
        host=host,
        grpc=options.grpc,
        key_env=options.key_env,
        arrivals=parse_arrivals(options.arrivals),
        seconds=parse_seconds(options.duration),
        warm_up_s=parse_seconds(options.warm_up, "warm-up"),
        grace_s=parse_seconds(options.grace, "grace"),
        seed=int(options.seed),
        max_in_flight=int(options.max_in_flight),
    )


def to_arguments(settings: Settings) -> Sequence[str]:
    """The same settings as arguments of Locust's command."""
    pairs = {
        "host": settings.host,
        "workload": settings.workload,
        "arrivals": settings.arrivals.model_dump_json(),
        "duration": f"{settings.seconds:.9f}",
        "warm-up": f"{settings.warm_up_s:.9f}",
        "grace": f"{settings.grace_s:.9f}",
        "seed": str(settings.seed),
        "grpc": settings.grpc,
        "key-env": settings.key_env,
        "max-in-flight": str(settings.max_in_flight),
    }
    return [f"--{name}={value}" for name, value in pairs.items() if value]
