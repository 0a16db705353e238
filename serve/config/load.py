"""From YAML to a checked `ClusterFile`, or to errors that name the key, the value and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from serve.calibration.file import load_calibration
from serve.config.autoscaling import autoscaling_problems
from serve.config.cascade_checks import cascade_problems
from serve.config.cascades import Cascade
from serve.config.checkpoints import DEMO_CALIBRATIONS, DEMO_SCENES
from serve.config.checkpoints import DEMO_CHECKPOINTS as DEMO_CHECKPOINTS
from serve.config.checkpoints import checkpoint_label as checkpoint_label
from serve.config.cluster import ClusterFile
from serve.config.document_checks import document_problems
from serve.config.model_base import CheckpointModel, StoreModel
from serve.config.models import KINDS, ClipModel, CustomModel, GenerativeModel, KnowledgeStoreModel, VectorIndexModel
from serve.config.objectives import objective_problems
from serve.config.placement_checks import placement_problems
from serve.config.provider_checks import provider_problems
from serve.config.scene_checks import scene_problems
from serve.config.scene_models import SceneStoreModel
from serve.config.strict_yaml import read_yaml
from serve.config.tracing import tracing_problems
from serve.config.video_checks import video_problems
from serve.errors import ConfigError
from serve.validation import fields_at, real_path

_FOLDER = Path(__file__).parent / "profiles"
PROFILES = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


class ConfigErrors(ConfigError):
    """Everything that is wrong with one file, one line each in `problems`."""

    def __init__(self, message: str, problems: tuple[str, ...] = (), **fields: Any) -> None:
        super().__init__(message, **fields)
        self.problems = problems

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.message, self.problems, self.code, self.param)

    def at(self, param: str) -> ConfigErrors:
        """See `ArgusError.at`."""
        return _rebuild(self.message, self.problems, self.code, param)


def _rebuild(message: str, problems: tuple[str, ...], code: str, param: str | None) -> ConfigErrors:
    return ConfigErrors(message, problems, code=code, param=param)


# In addresses: a user's name and password.
_USER_INFO = re.compile(r"//[^/\s'\"]*@")


def load_profile(name: str, *, calibrations: bool = True) -> ClusterFile:
    """A shipped cluster file by name; see `load_file`.

    Raises:
        ConfigErrors: there is no such profile.
    """
    if name not in PROFILES:
        raise _errors("--profile", [f"profile {name!r} does not exist; it must be one of {', '.join(PROFILES)}"])
    return load_file(_FOLDER / f"{name}.yaml", calibrations=calibrations)


def load_file(path: Path, *, calibrations: bool = True, over: Mapping[str, Any] | None = None) -> ClusterFile:
    """Reads and checks a cluster file. Relative paths become absolute, and calibration files take their paths' places.

    Args:
        calibrations: off leaves those as paths, unread: for whoever makes them.
        over: keys that take the file's own keys' places.

    Raises:
        ConfigErrors: with one line for each problem found.
    """
    return parse(_merge(_read(path), over or {}), source=str(path), folder=path.parent, calibrations=calibrations)


def parse(
    data: Mapping[str, Any], *, source: str = "cluster file", folder: Path = Path(), calibrations: bool = True
) -> ClusterFile:
    """Checks a cluster file given as a mapping; see `load_file`."""
    try:
        cluster = ClusterFile.model_validate(data)
    except ValidationError as error:
        raise _errors(source, _problems(error.errors(include_url=False))) from None
    cluster = _with_paths(cluster, folder)
    unread: list[str] = []
    if calibrations:
        cluster, unread = _with_calibrations(cluster)
    if problems := [*unread, *_cross_check(cluster)]:
        raise _errors(source, problems)
    return cluster


def _errors(source: str, problems: list[str]) -> ConfigErrors:
    return ConfigErrors(f"{source}: " + "; ".join(problems), tuple(problems))


def _read(path: Path) -> dict[str, Any]:
    """The file with its `extends` merged in: the named profile first, this file's keys over it."""
    try:
        data = read_yaml(path)
    except ConfigError as error:
        raise _errors(str(path), [error.message.removeprefix(f"{path}: ")]) from None
    if not isinstance(data, dict):
        raise _errors(str(path), [f"holds a {type(data).__name__}; it must be a mapping with name, node_pools, models"])
    base = data.pop("extends", None)
    if base is None:
        return data
    if base not in PROFILES:
        raise _errors(str(path), [f"extends: got {base!r}; it must be one of {', '.join(PROFILES)}"])
    return _merge(_read(_FOLDER / f"{base}.yaml"), data)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _problems(errors: Sequence[ErrorDetails]) -> list[str]:
    """One line a problem; a list that is too short only because an entry of it is wrong is not one of its own."""
    places = [error["loc"] for error in errors]
    return [
        _describe(error)
        for error in errors
        if error["type"] != "too_short"
        or not any(len(p) > len(error["loc"]) and p[: len(error["loc"])] == error["loc"] for p in places)
    ]


def _describe(detail: ErrorDetails) -> str:
    kind = detail["type"]
    path = real_path(ClusterFile, detail["loc"], unknown_key=kind == "extra_forbidden")
    key = ".".join(str(part) for part in path)
    if kind == "extra_forbidden":
        known = fields_at(ClusterFile, detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = detail["input"].get("kind") if isinstance(detail["input"], dict) else None
        said = "is missing" if found is None else f"got {found!r}"
        return f"{key}.kind: {said}; it must be one of {', '.join(KINDS)}"
    if kind == "missing":
        return f"{key}: is missing; it is required"
    message = detail["msg"].removeprefix("Value error, ")
    if path and path[-1] == "sha256":  # whoever pastes the key itself must not find it in a log
        return f"{key}: is no SHA-256 in hexadecimal; `argus config hash-key` makes it from a key"
    if "env" in [str(part).rpartition("_")[2] for part in path[-2:]]:  # likewise, in place of a variable's name
        return f"{key}: is no name of an environment variable (capitals, digits, '_'); the secret itself stands nowhere"
    value = _USER_INFO.sub("//***@", repr(detail["input"]))
    shown = value if len(value) <= 80 else value[:77] + "..."
    return f"{key or 'file'}: got {shown}; {message[0].lower()}{message[1:]}"


def _cross_check(cluster: ClusterFile) -> Iterable[str]:
    """Problems that only show across sections."""
    yield from placement_problems(cluster)
    for name in cluster.models.keys() & cluster.providers.keys():
        yield f"providers.{name}: a model has the same name; names must be unique across models and providers"
    known = ["default", *(key.name for key in cluster.auth.keys)] if cluster.auth.keys else ["default", "anonymous"]
    for name in cluster.tenants.keys() - set(known):
        yield f"tenants.{name}: is no client of this file, which knows {', '.join(known)} (names of auth.keys)"
    yield from provider_problems(cluster)
    yield from cascade_problems(cluster)
    for name in cluster.resilience.targets.keys() - cluster.models.keys() - cluster.providers.keys():
        yield f"resilience.targets.{name}: there is no model or provider of this name"
    yield from _support_problems(cluster)
    yield from video_problems(cluster)
    yield from document_problems(cluster)
    yield from scene_problems(cluster)
    yield from objective_problems(cluster)
    yield from autoscaling_problems(cluster)
    yield from tracing_problems(cluster.tracing, cluster.providers)


def _support_problems(cluster: ClusterFile) -> Iterable[str]:
    """Names in the `support` section that are no models of the right kind."""
    support = cluster.support
    if support is None:
        return
    models = cluster.models
    stores = [name for name, model in models.items() if isinstance(model, KnowledgeStoreModel)]
    chats = [name for name, model in models.items() if isinstance(model, GenerativeModel)]
    embeds = [
        name
        for name, model in models.items()
        if isinstance(model, ClipModel) or (isinstance(model, CustomModel) and "embed" in model.tasks)
    ]
    for key, name, right, what in (
        ("knowledge", support.knowledge, stores, "of kind knowledge_store"),
        ("chat_model", support.chat_model, chats, "that chats"),
        ("escalation_model", support.escalation_model, [*chats, *cluster.providers], "or a provider that chats"),
        ("embedding_model", support.embedding_model, embeds, "that embeds"),
    ):
        if name is not None and name not in right:
            yield f"support.{key}: got {name!r}; it must be a model of this file {what}: {', '.join(right) or 'none'}"
    if support.embedding_model is not None and not any(
        isinstance(model, VectorIndexModel) for model in models.values()
    ):
        yield "support.embedding_model: needs a model of kind vector_index, which this file does not have"


def _with_paths(cluster: ClusterFile, folder: Path) -> ClusterFile:
    models: dict[str, Any] = dict(cluster.models)
    for name, model in cluster.models.items():
        if isinstance(model, CheckpointModel):
            models[name] = model.model_copy(update={"checkpoint": _resolve(model.checkpoint, folder)})
        elif isinstance(model, StoreModel):
            models[name] = model.model_copy(update={"path": str(Path(model.path).absolute())})
        if isinstance(model, SceneStoreModel):
            files = {scene: _scene_file(source, folder) for scene, source in model.preload.items()}
            models[name] = models[name].model_copy(update={"preload": files})
    cascades: dict[str, Any] = dict(cluster.cascades)
    for name, cascade in cluster.cascades.items():
        if isinstance(cascade.calibration, str):
            path = _calibration_path(cascade.calibration, folder)
            cascades[name] = cascade.model_copy(update={"calibration": str(path)})
    return cluster.model_copy(update={"models": models, "cascades": cascades})


def _calibration_path(calibration: str, folder: Path) -> Path:
    if calibration.startswith("demo:"):
        return DEMO_CALIBRATIONS / f"{calibration.removeprefix('demo:')}.json"
    return (folder / calibration).resolve()


def _with_calibrations(cluster: ClusterFile) -> tuple[ClusterFile, list[str]]:
    """The cluster with calibration files in their paths' places (a router need not have them), and what is wrong."""
    cascades: dict[str, Cascade] = dict(cluster.cascades)
    problems: list[str] = []
    for name, cascade in cluster.cascades.items():
        if isinstance(cascade.calibration, str):
            try:
                calibration = load_calibration(Path(cascade.calibration))
                cascades[name] = cascade.model_copy(update={"calibration": calibration})
            except ConfigError as error:
                problems.append(f"cascades.{name}.calibration: {error.message}")
    return cluster.model_copy(update={"cascades": cascades}), problems


def _scene_file(source: str, folder: Path) -> str:
    if source.startswith("demo:"):
        return str(DEMO_SCENES / source.removeprefix("demo:"))
    return str((folder / source).resolve())


def _resolve(checkpoint: str, folder: Path) -> str:
    if checkpoint.startswith("demo:"):
        return str(DEMO_CHECKPOINTS / checkpoint.removeprefix("demo:"))
    if checkpoint.startswith(("./", "../", "/")):
        return str((folder / checkpoint).resolve())
    return checkpoint
