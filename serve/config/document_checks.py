"""Names in the `documents` section that are no back ends of the right kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve.config.cluster import ClusterFile
from serve.config.models import Florence2Model, GenerativeModel, OcrModel

_EXTRACTIVE = "extractive"


def document_problems(cluster: ClusterFile) -> Iterator[str]:
    """Everything that is wrong with the `documents` section of a file."""
    documents = cluster.documents
    if documents is None:
        return
    readers = [name for name, model in cluster.models.items() if isinstance(model, OcrModel)]
    if not readers:
        yield "documents: needs a model of kind ocr, which opens documents; this file has none"
    lookers = [
        name for name, model in cluster.models.items() if (isinstance(model, GenerativeModel) and model.max_images)
    ] + list(cluster.providers)
    florence = [name for name, model in cluster.models.items() if isinstance(model, Florence2Model)]
    yield from _ordered("ocr", documents.ocr, [*readers, *florence, *lookers])
    yield from _ordered("summary", documents.summary, [_EXTRACTIVE, *lookers])
    if _EXTRACTIVE in lookers:
        yield f"documents: a model or provider is named {_EXTRACTIVE!r}, which is the built-in summariser's name"


def _ordered(key: str, names: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    for i, name in enumerate(names):
        if name not in known:
            yield f"documents.{key}.{i}: got {name!r}; it must be one of {', '.join(known) or 'none'}"
        elif name in names[:i]:
            yield f"documents.{key}.{i}: got {name!r}, which stands twice; back ends must be distinct"
