"""Documents as jobs: pages are read a few at a time, and what has been read is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from deployments.documents.messages import PageRange
from deployments.documents.pages import chosen
from deployments.jobs.types import Progress
from serve.calls import Usage
from serve.context import RequestContext
from serve.documents.service import DocumentService
from serve.documents.types import Asked
from serve.jobs.operation import JobInput, Report
from serve.protocol import document_bodies as bodies
from serve.protocol.bodies import validate
from serve.protocol.document_bodies import DocumentFields, What
from serve.protocol.job_files import Files, accepted

# Pages read at once, and lost when a worker dies.
_PAGES: Final = 4
# A job has time for long documents; its store bounds the result.
_MOST_PAGES: Final = 100_000
_FILES: Final = ("document", "file")


class ReadDocument:
    """`/v1/documents/...`, some pages at a time. All of them are read by the back end that read the first."""

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
            return bodies.summarised(await self._service.summarise(document, asked, context))
        tables = self._what == "table"
        step = min(_PAGES, self._service.most_pages)
        first = replace(asked, max_pages=min(step, asked.max_pages or step))
        parts = [done["0"] if "0" in done else await self._part(document, first, context, tables=tables)]
        total, backend = parts[0]["document"]["pages"], parts[0]["backend"]
        numbers = chosen(asked.pages, total, asked.max_pages, _MOST_PAGES)
        await report(Progress("reading", min(step, len(numbers)), len(numbers)), "0", parts[0])
        for start in range(step, len(numbers), step):
            part = done.get(str(start))
            if part is None:
                some = replace(asked, pages=_ranges(numbers[start : start + step]), max_pages=None, backend=backend)
                part = await self._part(document, some, context, tables=tables)
                await report(Progress("reading", min(start + step, len(numbers)), len(numbers)), str(start), part)
            parts.append(part)
        content = bodies.joined((part["content"] for part in parts), tables=tables)
        usage = sum((Usage(**part["usage"]) for part in parts), Usage())
        return bodies.answer("tables" if tables else "text", backend, parts[0]["document"], content, usage)

    async def _part(self, document: bytes, asked: Asked, context: RequestContext, *, tables: bool) -> dict[str, Any]:
        read = await self._service.read(document, asked, context, tables=tables)
        return {
            "backend": read.backend,
            "document": {"kind": read.document.kind, "pages": read.document.total},
            "content": bodies.part(read, context.request_id, tables=tables),
            "usage": asdict(read.usage),
        }


def _ranges(numbers: Sequence[int]) -> tuple[PageRange, ...]:
    return tuple((number, number) for number in numbers)
