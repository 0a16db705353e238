"""Documents as jobs: pages are read a few at a time, and what has been read is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from deployments.documents.messages import Page
from deployments.jobs.types import Progress
from serve.calls import Usage
from serve.context import RequestContext
from serve.documents.service import DocumentService
from serve.documents.types import Asked
from serve.errors import ArgusError, raise_if_all_failed
from serve.jobs.failures import kept, raise_if_all
from serve.jobs.operation import JobInput, Report
from serve.protocol import document_bodies as bodies
from serve.protocol.bodies import validate
from serve.protocol.document_bodies import DocumentFields, What
from serve.protocol.job_files import Files, accepted

# Pages read at once, and lost when a worker dies.
_PAGES: Final = 4
_FILES: Final = ("document", "file")


class ReadDocument:
    """`/v1/documents/...`, some pages at a time. All of them are read by the back end that read the first, unless it
    fails: then by the next one, whose name stands beside these pages.
    """

    def __init__(self, service: DocumentService, what: What) -> None:
        self._service = service
        self._what = what

    async def admit(self, fields: Mapping[str, Any], files: Files, context: RequestContext) -> JobInput:
        """See `serve.jobs.operation.Operation.admit`."""
        checked = validate(fields, DocumentFields)
        checked.asked()
        param, source = bodies.one_document([*accepted(files, _FILES)], checked.document)
        document = await self._service.admit(source, context, param)
        return JobInput(checked.model_dump(exclude={"document"}), (document,))

    async def run(
        self, given: JobInput, context: RequestContext, report: Report, done: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `serve.jobs.operation.Operation.run`."""
        asked = validate(given.fields, DocumentFields).asked()
        document = given.media[0]
        if self._what == "summary":
            await report(Progress("summarising", 0, 1))
            summary = await self._service.summarise(document, replace(asked, in_groups=True), context)
            return bodies.summarised(summary)
        tables = self._what == "table"
        size = min(_PAGES, self._service.most_pages)
        first = done.get("0") or await self._part(document, asked.first_group(size), context, tables=tables)
        backend, parts = first["backend"], [first]
        groups = asked.further_groups(size, first["document"]["pages"], backend)
        read = len(first["content"]["pages"])
        total = read + sum(len(group.pages) for group in groups)
        await report(Progress("reading", read, total), "0", first)
        for group in groups:
            part = done.get(str(read))
            start, read = read, read + len(group.pages)
            if part is None:
                part = await self._part(document, group, context, tables=tables)
                await report(Progress("reading", read, total), str(start), part)
            parts.append(part)
        raise_if_all([part.get("failure") for part in parts])
        for part in parts:
            if part["backend"] != backend:
                part["content"]["pages"] = [page | {"backend": part["backend"]} for page in part["content"]["pages"]]
        content = bodies.joined((part["content"] for part in parts), tables=tables)
        usage = sum((Usage(**part["usage"]) for part in parts), Usage())
        return bodies.answer("tables" if tables else "text", backend, first["document"], content, usage)

    async def _part(self, document: bytes, asked: Asked, context: RequestContext, *, tables: bool) -> dict[str, Any]:
        read = await self._service.read(document, asked, context, wanted="tables" if tables else "text")
        return {
            "backend": read.backend,
            "document": {"kind": read.document.kind, "pages": read.document.total},
            "content": bodies.part(read, context.request_id, tables=tables),
            "usage": asdict(read.usage),
            "failure": _failure(read.document.pages),
        }


def _failure(pages: Sequence[Page | Exception]) -> dict[str, Any] | None:
    """What is kept of the first page's error when none of them could be read."""
    try:
        raise_if_all_failed(pages)
    except ArgusError as error:
        return kept(error if error.param else error.at("document"))
    return None
