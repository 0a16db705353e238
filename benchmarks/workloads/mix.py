"""Which kind of a workload's requests comes next: drawn from the mix, by the request's number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from itertools import accumulate

from benchmarks.targets import Kind, load_targets

_LARGEST = float(1 << 64)


@cache
def mix_of(workload: str) -> Mapping[str, Kind]:
    """The kinds of requests of a workload of the shipped targets file."""
    return load_targets().workload(workload).mix


def chosen(mix: Mapping[str, Kind], salt: str, number: int) -> str:
    """The kind of request `number`: independent draws with the mix's shares, the same ones in every run."""
    point = draw(salt, number)
    bounds = accumulate(kind.share for kind in mix.values())
    return next((name for name, bound in zip(mix, bounds, strict=True) if point < bound), [*mix][-1])


def draw(salt: str, number: int) -> float:
    """A number in [0, 1) that follows from the request's number; another one for each salt."""
    digest = hashlib.blake2b(number.to_bytes(8), digest_size=8, person=salt.encode()[:16]).digest()
    return int.from_bytes(digest) / _LARGEST
