"""The cluster file's reference, written from its types: what docs/cluster-file.md holds."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from serve.config import (
    autoscaling,
    cascades,
    cluster,
    documents,
    kubernetes,
    model_base,
    models,
    objectives,
    overload,
    providers,
    resilience,
    scene_models,
    support,
    tracing,
    videos,
)

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The file", cluster.ClusterFile),
    ("node_pools.NAME", cluster.NodePool),
    ("node_pools.NAME.kubernetes", kubernetes.PoolOnKubernetes),
    ("node_pools.NAME.kubernetes.tolerations[]", kubernetes.Toleration),
    ("models.NAME, kind clip", models.ClipModel),
    ("models.NAME, kind vector_index", models.VectorIndexModel),
    ("models.NAME, kind session_store", models.SessionStoreModel),
    ("models.NAME, kind knowledge_store", models.KnowledgeStoreModel),
    ("models.NAME, kind custom", models.CustomModel),
    ("models.NAME, kinds llava, blip2, video_llava", models.GenerativeModel),
    ("models.NAME, kind florence2", models.Florence2Model),
    ("models.NAME, kind video_classifier", models.VideoClassifierModel),
    ("models.NAME, kind video_reader", models.VideoReaderModel),
    ("models.NAME, kind ocr", models.OcrModel),
    ("models.NAME, kind job_store", models.JobStoreModel),
    ("models.NAME, kind scene_store", scene_models.SceneStoreModel),
    ("models.NAME, kind splat", scene_models.SplatModel),
    ("models.NAME, kind nerf", scene_models.NerfModel),
    ("models.NAME, kind reconstruction", scene_models.ReconstructionModel),
    ("models.NAME.batching", model_base.Batching),
    ("models.NAME.autoscaling", autoscaling.Autoscaling),
    ("models.NAME.placement", model_base.Placement),
    ("autoscaling", autoscaling.ReplicaPolicy),
    ("support", support.Support),
    ("videos", videos.Videos),
    ("documents", documents.Documents),
    ("tracing", tracing.Tracing),
    ("router", cluster.Router),
    ("server", cluster.Server),
    ("limits", cluster.Limits),
    ("url_fetch", cluster.UrlFetch),
    ("auth", cluster.Auth),
    ("auth.keys[]", cluster.ApiKey),
    ("providers.NAME", providers.Provider),
    ("providers.NAME.images", providers.ImagePreparation),
    ("providers.NAME.prices", providers.Prices),
    ("providers.NAME.gemini", providers.Gemini),
    ("providers.NAME.oip", providers.Oip),
    ("cascades.NAME", cascades.Cascade),
    ("cascades.NAME.steps[]", cascades.CascadeStep),
    ("cascades.NAME.steps[].accept", cascades.Accept),
    ("cascades.NAME.steps[].fallback[]", cascades.Fallback),
    ("cascades.NAME.policy", cascades.Policy),
    ("cascades.NAME.shadow", cascades.Shadow),
    ("cascades.NAME.gears[]", cascades.Gear),
    ("resilience", resilience.Resilience),
    ("resilience.cache", resilience.Cache),
    ("resilience.redis", resilience.Redis),
    ("resilience.targets.NAME", resilience.Target),
    ("resilience.targets.NAME.breaker", resilience.Breaker),
    ("resilience.targets.NAME.hedge", resilience.Hedge),
    ("resilience.targets.NAME.retries", resilience.Retries),
    ("resilience.targets.NAME.concurrency", resilience.Concurrency),
    ("overload", overload.Overload),
    ("objectives", objectives.Objectives),
    ("objectives.slos.NAME", objectives.Objective),
    ("objectives.alerts", objectives.Alerts),
    ("tenants.NAME", overload.Tenant),
)


def markdown() -> str:
    """Every section with its keys, types, defaults and meanings."""
    lines = [
        "# The cluster file",
        "",
        "Written by `argus config reference`; a test keeps it in step with the code. Unknown keys are refused. A file",
        "may start with `extends: demo`, `gpu` or `cluster`; its own keys are then merged over that profile.",
    ]
    for title, kind in _SECTIONS:
        lines += [
            "",
            f"## {title}",
            "",
            _first_paragraph(kind),
            "",
            "| key | type | default | meaning |",
            "|---|---|---|---|",
        ]
        lines += [_row(name, field) for name, field in kind.model_fields.items()]
    return "\n".join(lines) + "\n"


def _first_paragraph(kind: type[BaseModel]) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_type(field.annotation, field)} | {_default(field)} | {meaning} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None or field.default in ((), {}):
        return "none"
    if isinstance(field.default, BaseModel):
        return "see below"
    value = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
    return f"`{value}`"


def _type(kind: Any, field: FieldInfo) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " \\| ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0], field)
    if origin is dict:
        value = arguments[1]
        sections = typing.get_origin(value) is typing.Annotated or _is_section(value)
        return "section for each name" if sections else "object" if value is Any else f"{_type(value, field)} a name"
    if origin is tuple:
        return f"list of {_type(arguments[0], field)}"
    if type(None) in arguments or isinstance(kind, types.UnionType):
        return " or ".join(dict.fromkeys(_type(a, field) for a in arguments if a is not type(None)))
    if _is_section(kind):
        return "section"
    name: str = {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        kind.__name__, kind.__name__
    )
    return name + _bounds(field)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _bounds(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{word} {getattr(item, key):g}" for item in field.metadata for key, word in words.items() if hasattr(item, key)
    ]
    return f", {', '.join(found)}" if found else ""
