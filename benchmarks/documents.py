"""`argus bench documents`: what each back end reads of documents whose content is known, served.

Invoices, tables and articles are made here (`document_pages`), as PDFs with a text layer and as pictures of the same
pages; one page was photographed by others. pdfplumber, when it is installed, reads the same PDFs beside us.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from rich.console import Console

from benchmarks.document_pages import STYLES, Grid, Made, article, invoice, picture, table
from benchmarks.report import Column, Report, this_command
from benchmarks.servers import argus
from deployments.documents.messages import Table
from serve.config.checkpoints import DEMO_CHECKPOINTS

READER = "ocr"
GOAL = "the ocr back end has a cell F1 >= 0.9 on text layers and >= 0.8 on pictures"
_LEAST = {"pdf": 0.9, "picture": 0.8}
# What scikit-image's picture of a page says.
PHOTOGRAPHED = (
    "Region-based segmentation Let us first determine markers of the coins and the background. These markers are "
    "pixels that we can label unambiguously as either object or background. Here, the markers are found at the two "
    "extreme parts of the histogram of grey values: >>> markers = np.zeros_like(coins)"
)
# Models that were not trained on documents are shown a few, so that the table says what they do with them.
_FEW = 2
MODELS = {
    "florence2": {"kind": "florence2", "checkpoint": "demo:florence2", "placement": {"num_cpus": 0.3}},
    "llava": {"kind": "llava", "checkpoint": "demo:llava", "placement": {"num_cpus": 0.3}},
}
_DPI = 150
_COLUMNS = (
    Column("backend", "back end"),
    Column("form", "form"),
    Column("kind", "documents"),
    Column("documents", "n", "d"),
    Column("cell_f1", "cell F1", ".3f"),
    Column("text_f1", "word F1", ".3f"),
    Column("cer", "CER", ".3f"),
    Column("facts", "facts", ".1%"),
    Column("seconds", "s / page", ".2f"),
    Column("failed", "failed", "d"),
)


@dataclass(slots=True)
class Scores:
    """Of one back end on one kind of document."""

    cell_f1: list[float] = field(default_factory=list)
    text_f1: list[float] = field(default_factory=list)
    cer: list[float] = field(default_factory=list)
    facts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Means; what was not measured is None."""
        measured = {name: getattr(self, name) for name in ("cell_f1", "text_f1", "cer", "facts", "seconds")}
        return {name: float(np.mean(values)) if values else None for name, values in measured.items()} | {
            "documents": len(self.seconds) + len(self.failures),
            "failed": len(self.failures),
        }


def run(*, documents: int, seed: int, backends: Sequence[str], progress: Console) -> Report:
    """Has every back end read `documents` of each kind in each form.

    Args:
        backends: `ocr`, `florence2`, `llava`; those whose demo checkpoint is not there are left out.
    """
    report = Report(
        this_command(),
        f"Documents read by each back end, {documents} of each kind",
        GOAL,
        _COLUMNS,
        {"documents": documents, "seed": seed, "dpi": _DPI},
    )
    asked = [name for name in backends if name == READER or (DEMO_CHECKPOINTS / name).is_dir()]
    report.notes += [f"{name}: no demo checkpoint" for name in backends if name not in asked]
    report.notes.append("The makers of these pages also wrote the reader; only the photographed page is by others.")
    made = _made(documents, seed)
    with argus("bench-documents", _cluster(asked)) as (http, _), httpx.Client(base_url=http, timeout=600) as client:
        for name in asked:
            failures: Counter[str] = Counter()
            for form in ("pdf", "picture"):
                for kind, pages in made.items():
                    some = pages if name == READER else pages[:_FEW]
                    scores = _measured(some, form, _Served(client, name))
                    failures.update(scores.failures)
                    report.rows.append({"backend": name, "form": form, "kind": kind, **scores.row()})
                    progress.print(f"  {name}, {form}, {kind}: {len(some)} read", highlight=False)
            scores = _photo(client, name)
            failures.update(scores.failures)
            report.rows.append({"backend": name, "form": "picture", "kind": "photographed page", **scores.row()})
            report.notes += [f"{name} failed {times} times: {why}" for why, times in failures.most_common(3)]
    report.rows += _pdfplumber(made, report)
    report.misses += judged(report.rows)
    return report


def judged(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where the goal is missed."""
    ours = [row for row in rows if row["backend"] == READER]
    misses = [] if ours else [f"the back end {READER} was not asked"]
    for row in ours:
        least = _LEAST[row["form"]]
        if row["failed"]:
            misses.append(f"{row['kind']}, {row['form']}: {row['failed']} of {row['documents']} could not be read")
        if row["cell_f1"] is not None and row["cell_f1"] < least:
            misses.append(f"{row['kind']}, {row['form']}: cell F1 is {row['cell_f1']:.3f}; {least} is wanted")
    return misses


def grid_of(table: Table) -> Grid:
    """A table that was read, headings first."""
    return [*([list(table.headers)] if table.headers else []), *map(list, table.rows)]


def cell_f1(truth: Sequence[Grid], read: Sequence[Grid]) -> float:
    """F1 of cells: one counts when its text stands in the same row and column of the same table.

    Tables are matched one to one, the best fitting first. Empty cells are not counted, wrong places are: a row that is
    missed near the top costs all below it.
    """
    wanted, found = [_cells(grid) for grid in truth], [_cells(grid) for grid in read]
    total = sum(map(len, wanted)) + sum(map(len, found))
    pairs = sorted(
        ((len(a & b), i, j) for i, a in enumerate(wanted) for j, b in enumerate(found)), key=lambda pair: -pair[0]
    )
    hits, used = 0, (set[int](), set[int]())
    for shared, i, j in pairs:
        if i not in used[0] and j not in used[1]:
            hits += shared
            used[0].add(i)
            used[1].add(j)
    return 2 * hits / total if total else 1.0


def word_f1(truth: str, read: str) -> float:
    """F1 of words, wherever they stand."""
    wanted, found = Counter(truth.split()), Counter(read.split())
    total = wanted.total() + found.total()
    return 2 * (wanted & found).total() / total if total else 1.0


def character_error_rate(truth: str, read: str) -> float:
    """Least insertions, deletions and replacements of characters, by the length of the truth; white space as one space.

    Order counts: text that is read column by column where it should be row by row is wrong.
    """
    a, b = " ".join(truth.split()), " ".join(read.split())
    if not a:
        return float(bool(b))
    codes = np.array([ord(c) for c in b], np.int64)
    places = np.arange(len(b) + 1)
    row = places.copy()
    for i, character in enumerate(a, 1):
        # Levenshtein row by row; insertions, which depend on the same row, as a running minimum.
        best = np.empty_like(row)
        best[0] = i
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(character)))
        row = np.minimum.accumulate(best - places) + places
    return float(row[-1]) / len(a)


def _cells(grid: Grid) -> set[tuple[int, int, str]]:
    return {(r, c, " ".join(text.split())) for r, row in enumerate(grid) for c, text in enumerate(row) if text.strip()}


def _made(documents: int, seed: int) -> dict[str, list[Made]]:
    seeds = range(seed, seed + documents)
    kinds: dict[str, Callable[[int], Made]] = {"articles in two columns": article}
    for style in STYLES:
        kinds[f"invoices, {style}"] = lambda one, style=style: invoice(one, style=style)
        kinds[f"tables, {style}"] = lambda one, style=style: table(one, style=style)
    return {kind: [make(one) for one in seeds] for kind, make in kinds.items()}


def _cluster(backends: Iterable[str]) -> dict[str, Any]:
    models = {name: MODELS[name] for name in backends if name != READER}
    return {
        "node_pools": {"local": {"cpus": 2}},
        "models": {READER: {"kind": "ocr", "placement": {"num_cpus": 0.3}}, **models},
        "router": {"num_cpus": 0.3},
        "limits": {"default_timeout_s": 300},
        "documents": {"max_tokens": 256, "image_side": 1024},
    }


@dataclass(frozen=True, slots=True)
class _Served:
    """One back end over HTTP."""

    client: httpx.Client
    backend: str

    def ask(self, what: str, data: bytes, **fields: str) -> dict[str, Any]:
        kind = "application/pdf" if data.startswith(b"%PDF-") else "image/png"
        answered = self.client.post(
            f"/v1/documents/{what}", content=data, params=fields, headers={"content-type": kind}
        )
        body: dict[str, Any] = answered.raise_for_status().json()
        return body

    def text(self, data: bytes) -> str:
        return str(self.ask("text", data, backend=self.backend)["text"])

    def tables(self, data: bytes) -> list[Grid]:
        found = self.ask("table", data, backend=self.backend)["tables"]
        return [[*([one["headers"]] if one["headers"] else []), *one["rows"]] for one in found]

    def facts(self, data: bytes) -> dict[str, str]:
        return {fact["name"]: fact["value"] for fact in self.ask("summary", data)["key_facts"]}


def _measured(documents: Sequence[Made], form: str, served: _Served) -> Scores:
    scores = Scores()
    for made in documents:
        data = made.pdf if form == "pdf" else picture(made.pdf, dpi=_DPI)
        truth = " ".join(made.pages[0])
        started = time.perf_counter()
        try:
            read = served.text(data)
            seconds = time.perf_counter() - started
            if made.tables:
                scores.cell_f1.append(cell_f1(made.tables, served.tables(data)))
            if made.facts and served.backend == READER:
                stated = served.facts(data)
                scores.facts.append(sum(stated.get(k) == v for k, v in made.facts.items()) / len(made.facts))
        except httpx.HTTPStatusError as error:
            scores.failures.append(_said(error))
            continue
        scores.seconds.append(seconds)
        scores.text_f1.append(word_f1(truth, read))
        scores.cer.append(character_error_rate(truth, read))
    return scores


def _said(error: httpx.HTTPStatusError) -> str:
    return str(error.response.json()["error"]["message"])[:120]


def _photo(client: httpx.Client, backend: str) -> Scores:
    from PIL import Image
    from skimage.data import page

    file = io.BytesIO()
    Image.fromarray(page()).save(file, "PNG")
    made = Made("photographed page", b"", [[PHOTOGRAPHED]])
    scores = Scores()
    started = time.perf_counter()
    try:
        read = _Served(client, backend).text(file.getvalue())
        scores.seconds.append(time.perf_counter() - started)
        scores.text_f1.append(word_f1(made.pages[0][0], read))
        scores.cer.append(character_error_rate(made.pages[0][0], read))
    except httpx.HTTPStatusError as error:
        scores.failures.append(_said(error))
    return scores


def _pdfplumber(made: dict[str, list[Made]], report: Report) -> list[dict[str, Any]]:
    """The same text layers by a peer; of tables, by lines where it finds some, else by the alignment of words."""
    try:
        import pdfplumber
    except ImportError:
        report.notes.append("pdfplumber is not installed; it would be the peer on text layers")
        return []
    rows = []
    for kind, documents in made.items():
        scores = Scores()
        for one in documents:
            started = time.perf_counter()
            with pdfplumber.open(io.BytesIO(one.pdf)) as document:
                page = document.pages[0]
                read = page.extract_text() or ""
                seconds = time.perf_counter() - started
                by_text = {"vertical_strategy": "text", "horizontal_strategy": "text"}
                tables = page.extract_tables() or page.extract_tables(by_text)
            scores.seconds.append(seconds)
            if one.tables:
                found = [[[" ".join((text or "").split()) for text in row] for row in grid] for grid in tables]
                scores.cell_f1.append(cell_f1(one.tables, found))
            scores.text_f1.append(word_f1(" ".join(one.pages[0]), read))
            scores.cer.append(character_error_rate(" ".join(one.pages[0]), read))
        rows.append({"backend": "pdfplumber", "form": "pdf", "kind": kind, **scores.row()})
    return rows
