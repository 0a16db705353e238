"""A summary of a document made of its own words, without a language model.

The type is told by telling words, the title by its size, the date by its form, the key facts by their colons, and the
summary is the sentences that have most in common with the others (TextRank: Mihalcea and Tarau 2004; with the cosine
of LexRank: Erkan and Radev 2004). It understands nothing: what it gives is what the document literally says.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from deployments.documents.dates import date_in
from deployments.documents.labels import TOTAL, is_label, stated
from deployments.documents.messages import Box, DocumentType, KeyFact, Page, Summary, TextLine
from deployments.documents.paragraphs import paragraphs
from deployments.documents.skew import level_lines

# Words by which a type is known, and how much each says.
_TYPES: dict[DocumentType, dict[str, float]] = {
    "invoice": {
        "invoice": 3,
        "invoice number": 2,
        "bill to": 2,
        "amount due": 2,
        "due date": 1,
        "vat": 1,
        "total": 0.5,
    },
    "receipt": {"receipt": 3, "cash": 1, "change": 1, "card": 0.5, "thank you for": 1, "subtotal": 0.5, "total": 0.5},
    "letter": {"dear": 3, "sincerely": 3, "kind regards": 3, "yours faithfully": 3, "best regards": 2},
    "report": {"report": 3, "executive summary": 2, "findings": 1, "recommendations": 1, "quarter": 1},
    "form": {"form": 2, "application": 1, "please complete": 2, "signature": 1, "tick": 1, "date of birth": 1},
    "contract": {"agreement": 2, "contract": 3, "party": 1, "parties": 1, "hereby": 2, "terms and conditions": 1},
    "article": {"abstract": 3, "introduction": 1, "references": 1, "et al": 1, "conclusion": 1, "keywords": 1},
    "resume": {"curriculum vitae": 4, "resume": 3, "work experience": 2, "education": 1, "skills": 1},
}
_LEAST_EVIDENCE = 3.0
# Words in the title or near it count this much more.
_HEAD_LINES, _HEAD_WEIGHT = 5, 2.0
_TITLE_CHARS, _TITLE_LINES, _TITLE_HEIGHT = 150, 3, 1.15
_SENTENCES, _MOST_SENTENCES = 3, 400
_SUMMARY_CHARS = 600
_MOST_FACTS = 20
_DAMPING = 0.85

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(])")
_WORD = re.compile(r"[^\W\d_]{3,}")
_NAMED = re.compile(r"\s*([^\W\d][^:]{1,38}[^\s:]|[^\W\d]\w?)\s*:\s+(\S.{0,118})\s*")
_NAME = re.compile(r"\s*([^\W\d](?:[^:]{0,38}[^\s:])?)\s*:\s*")
_TOTAL = re.compile(rf"\s*({TOTAL}|total [a-z]+)\s+([^\d%]{{0,4}}\d[\d.,' ]*[^\d%]{{0,4}})\s*", re.I)
_SUBJECT = re.compile(r"\s*(?:subject|re|regarding|betreff|objet)\s*:\s*(\S.*)", re.I)
_SALUTATION = re.compile(r"\s*(?:dear|sehr geehrte\w*|to whom it may concern)\b", re.I)
# A subject stands this far below what is above it, in heights of a line, and has so many words at least.
_ALONE, _SUBJECT_WORDS = 0.8, 2
# Sentences that are less of a document's text than this do not speak for it.
_SPEAKING = 0.25


def summarise(pages: Sequence[Page]) -> Summary:
    """What can be said of the pages by looking at them."""
    levels = [level_lines(page.lines) for page in pages]
    lines = [line for level in levels for line in level]
    kind = _type([line.text for line in lines])
    if kind == "other" and _mostly_tables(pages):
        kind = "table"
    rows = [row for level in levels for row in _rows(level)]
    title = _title(kind, levels[0], _outside_tables(pages[0])) if levels else None
    return Summary(kind, title, date_in(rows), _summary(lines, title) or _opening(rows, title), _facts(rows))


def _type(texts: Sequence[str]) -> DocumentType:
    head, body = " ".join(texts[:_HEAD_LINES]).casefold(), " ".join(texts).casefold()

    def evidence(words: dict[str, float]) -> float:
        return sum(
            weight * (_HEAD_WEIGHT if _says(head, word) else 1.0) for word, weight in words.items() if _says(body, word)
        )

    scores: dict[DocumentType, float] = {kind: evidence(words) for kind, words in _TYPES.items()}
    best = max(scores, key=lambda kind: scores[kind])
    return best if scores[best] >= _LEAST_EVIDENCE else "other"


def _says(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text) is not None


def _mostly_tables(pages: Sequence[Page]) -> bool:
    inside = sum(len(cell.text) for page in pages for table in page.tables for cell in table.cells)
    return 2 * inside > sum(len(page.text) for page in pages)


def _outside_tables(page: Page) -> list[bool]:
    """Of each line, whether it stands in no table."""
    boxes = [table.box for table in page.tables if table.box is not None]
    return [not any(_holds(box, line) for box in boxes) for line in page.lines]


def _holds(box: Box, line: TextLine) -> bool:
    if line.quad is None:
        return False
    x, y = (sum(places) / 4 for places in zip(*line.quad, strict=True))
    return box.left <= x <= box.right and box.top <= y <= box.bottom


def _title(kind: DocumentType, lines: Sequence[TextLine], may_be: Sequence[bool]) -> str | None:
    """What the first page says it is about: of a letter its subject, which is seldom its largest line.

    Args:
        may_be: of each line, whether it can be a title: a cell is none.
    """
    subject = next((match[1] for row in _rows(lines) if (match := _SUBJECT.fullmatch(" ".join(row)))), None)
    if kind == "letter":
        return subject or _above_salutation(lines)
    free = [line for line, is_free in zip(lines, may_be, strict=True) if is_free]
    named = [line for line in free if _WORD.search(line.text) and len(line.text) <= _TITLE_CHARS]
    return _largest(named, lines) or subject or (named[0].text if named else None)


def _above_salutation(lines: Sequence[TextLine]) -> str | None:
    """The line alone above "Dear ...", unless it is the date or the end of an address."""
    at = next((i for i, line in enumerate(lines) if _SALUTATION.match(line.text)), 0)
    if at < 1 or len(_WORD.findall(lines[at - 1].text)) < _SUBJECT_WORDS or date_in([[lines[at - 1].text]]):
        return None
    above, line = lines[at - 2 : at] if at > 1 else (None, lines[0])
    if above is None or above.quad is None or line.quad is None:
        return None
    return line.text if line.quad[0][1] - above.quad[3][1] >= _ALONE * line.height else None


def _largest(named: Sequence[TextLine], lines: Sequence[TextLine]) -> str | None:
    """The largest lines of the page that are text; None when all are of one size."""
    if not named:
        return None
    usual = float(np.median([line.height for line in lines]))
    largest = max(named, key=lambda line: line.height)
    if largest.height < _TITLE_HEIGHT * usual:
        return None
    start = named.index(largest)
    title = [largest]
    for before, after in pairwise(named[start:]):
        if after.height < 0.9 * largest.height or not _below(before, after) or len(title) == _TITLE_LINES:
            break
        title.append(after)
    return " ".join(line.text for line in title)


def _below(before: TextLine, after: TextLine) -> bool:
    """Whether a line stands right under another."""
    if before.quad is None or after.quad is None:
        return False
    return after.quad[0][1] - before.quad[3][1] < before.height


def _beside(before: TextLine, after: TextLine) -> bool:
    """Whether a line stands to the right of another, at the same height."""
    if before.quad is None or after.quad is None:
        return False
    return abs(after.quad[0][1] - before.quad[0][1]) < 0.5 * before.height and after.quad[0][0] >= before.quad[1][0]


def _rows(lines: Sequence[TextLine]) -> list[list[str]]:
    """A page's lines, those that stand beside each other together."""
    rows: list[list[TextLine]] = []
    for line in lines:
        if rows and _beside(rows[-1][-1], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [[line.text for line in row] for row in rows]


def _facts(rows: Sequence[Sequence[str]]) -> tuple[KeyFact, ...]:
    """Names with values: `name: value` in a line or in two beside each other, usual names without a colon, totals."""
    facts: dict[str, KeyFact] = {}
    for name, value in (fact for row in rows for fact in _row_facts(row)):
        facts.setdefault(name.casefold(), KeyFact(name, value))
        if len(facts) == _MOST_FACTS:
            break
    return tuple(facts.values())


def _row_facts(row: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text, following in zip(row, [*row[1:], ""], strict=True):
        if match := _NAMED.fullmatch(text):
            yield match[1], match[2]
        elif following and (match := _NAME.fullmatch(text)):
            yield match[1], following
        elif is_label(text) and any(map(str.isdigit, following)):  # the headings of a table are names too
            yield text, following
        elif fact := stated(text):
            yield fact
    if match := _TOTAL.fullmatch(" ".join(row)):
        yield match[1], match[2].strip()


def _summary(lines: Sequence[TextLine], title: str | None) -> str:
    """The most central sentences in their order; empty when there are none, or hardly any beside all the rest."""
    split = (s for text in paragraphs(lines) if text != title for s in _SENTENCE_END.split(text))
    sentences = [s for s in split if len(_WORD.findall(s)) >= 5 and s[-1:] in ".!?\"')"]
    if not sentences or sum(map(len, sentences)) < _SPEAKING * sum(len(line.text) for line in lines):
        return ""
    sentences = sentences[:_MOST_SENTENCES]
    ranks = _ranks(sentences)
    best = sorted(np.argsort(-ranks, kind="stable")[:_SENTENCES].tolist())
    return " ".join(sentences[i] for i in best)


def _opening(rows: Sequence[Sequence[str]], title: str | None) -> str:
    """How a document without sentences begins."""
    opening = ""
    for row in rows:
        if (text := " ".join(row)) == title:
            continue
        if len(opening) + len(text) > _SUMMARY_CHARS:
            break
        opening += f"; {text}" if opening else text
    return opening


def _ranks(sentences: Sequence[str]) -> npt.NDArray[np.float64]:
    """PageRank over sentences, whose links are the cosines of their words weighted by inverse document frequency."""
    counts = [Counter(word.casefold() for word in _WORD.findall(sentence)) for sentence in sentences]
    vocabulary = {word: i for i, word in enumerate(sorted({word for count in counts for word in count}))}
    weights = np.zeros((len(sentences), len(vocabulary)))
    for i, count in enumerate(counts):
        for word, times in count.items():
            weights[i, vocabulary[word]] = times
    weights *= np.log((1 + len(sentences)) / (1 + (weights > 0).sum(0))) + 1
    weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    links = weights @ weights.T
    np.fill_diagonal(links, 0.0)
    out = links.sum(1, keepdims=True)
    n = len(sentences)
    transition = np.where(out > 0, links / np.where(out > 0, out, 1.0), 1 / n)
    ranks = np.full(n, 1 / n)
    for _ in range(math.ceil(math.log(1e-6) / math.log(_DAMPING))):
        ranks = (1 - _DAMPING) / n + _DAMPING * ranks @ transition
    return ranks
