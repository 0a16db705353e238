"""A cluster file that the platform puts on disk, and may change there: a ConfigMap and a Secret of Kubernetes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from serve.config.cluster import Auth, ClusterFile
from serve.config.load import ConfigErrors, load_file
from serve.config.model_base import Section
from serve.config.strict_yaml import read_yaml
from serve.errors import ConfigError

_POLL_S = 1.0


class Mounted(Section):
    """Arguments of `serve.app:from_file`."""

    cluster_file: Path = Field(description="The cluster file.")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Of the cluster file; another content is waited for."
    )
    keys_file: Path | None = Field(None, description="YAML with `keys`, as in the section `auth`, of a Secret.")
    keys_revision: str = Field("1", description="Changed when the keys have, so that they are read anew.")
    insecure: bool = Field(False, description="Start without API keys.")
    wait_s: float = Field(180, ge=0, description="Longest wait for `sha256`: a kubelet takes up to two minutes.")


def read(
    arguments: Mapping[str, Any],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ClusterFile:
    """The checked cluster file, with the keys of the Secret in place of its own.

    Raises:
        ConfigErrors: the arguments or the files are wrong, the file did not appear in time, or there are no keys and
            `insecure` does not say so: pods listen on every address.
    """
    try:
        mounted = Mounted.model_validate(arguments)
    except ValidationError as error:
        raise _wrong(*(f"args.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())) from None
    _await(mounted, clock, sleep)
    over = {} if mounted.keys_file is None else {"auth": {"keys": _keys(mounted.keys_file)}}
    cluster = load_file(mounted.cluster_file, over=over)
    if not cluster.auth.keys and not mounted.insecure:
        raise _wrong("there are no API keys; put some into the Secret of keys_file, or say insecure: true")
    return cluster


def _await(mounted: Mounted, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
    """Returns when the file is the one that is meant: a rolling update must not build the application of yesterday."""
    if mounted.sha256 is None:
        return
    deadline = clock() + mounted.wait_s
    while (found := _digest(mounted.cluster_file)) != mounted.sha256:
        if clock() >= deadline:
            raise _wrong(
                f"{mounted.cluster_file}: has SHA-256 {found}; {mounted.sha256} did not appear in {mounted.wait_s:g} s"
            )
        sleep(_POLL_S)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "none (it cannot be read)"


def _keys(path: Path) -> list[dict[str, Any]]:
    """Without the file's content in any error: whoever puts the keys themselves there must not find them in a log."""
    try:
        auth = Auth.model_validate(read_yaml(path))
    except (ConfigError, ValidationError):
        raise _wrong(
            f"{path}: must be YAML with a list `keys` of {{name, sha256}}, as `argus config hash-key`"
        ) from None
    return auth.model_dump(mode="json")["keys"]  # type: ignore[no-any-return]


def _wrong(*problems: str) -> ConfigErrors:
    return ConfigErrors("; ".join(problems), problems)
