"""The knowledge store on a real folder: documents, search by words, and bounds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.knowledge_store import KnowledgeStore, revision_of
from deployments.knowledge_types import Chunk, Document
from deployments.sqlite_store import FILE_NAME
from serve.config.support import Support
from serve.errors import NotFound, OutOfCapacity

PLENTY = 1 << 30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    made = open_store(tmp_path)
    yield made
    made.close()


def open_store(folder: Path, *, chunks: int = 100, size: int = PLENTY) -> KnowledgeStore:
    return KnowledgeStore(folder, max_chunks=chunks, max_bytes=size, clock=lambda: 5.0)


def put(store: KnowledgeStore, name: str, *texts: str, base: str = "shop", title: str | None = None) -> Document:
    text = "\n\n".join(texts)
    revision = revision_of(title, text, "c")
    chunks = [Chunk(f"{name}/{revision}/{i}", name, title, text.index(part), part) for i, part in enumerate(texts)]
    return store.put(Document(base, name, title, revision, len(text), len(texts), 0.0), text, chunks)


def found(store: KnowledgeStore, query: str, base: str = "shop") -> list[str]:
    return [match.chunk.document for match in store.search(base, query, 10)]


def test_documents_come_back_and_survive(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    made = put(store, "returns", "Send it back.", "It is free.", title="Returns")
    assert (made.chunks, made.characters, made.created_at) == (2, 26, 5.0)
    store.close()
    store = open_store(tmp_path)
    assert store.get("shop", "returns") == (made, "Send it back.\n\nIt is free.")
    assert [(base.name, base.documents, base.chunks) for base in store.bases()] == [("shop", 1, 2)]
    (match,) = store.search("shop", "free", 5)
    assert store.chunks("shop", ["nothing", match.chunk.id]) == [match.chunk]
    assert (match.chunk.title, match.chunk.start, match.chunk.text) == ("Returns", 15, "It is free.")
    store.close()


def test_a_document_is_replaced_whole(store: KnowledgeStore) -> None:
    first = put(store, "a", "old words", "more old words")
    assert put(store, "a", "old words", "more old words") == first
    put(store, "a", "new words")
    assert found(store, "old") == [] and found(store, "new") == ["a"]
    assert store.chunks("shop", [f"a/{first.revision}/0"]) == []
    assert store.stats().entries == 1


def test_what_is_deleted_is_not_found(store: KnowledgeStore) -> None:
    put(store, "a", "one word")
    put(store, "b", "one word")
    put(store, "c", "one word", base="other")
    store.delete("shop", "a")
    assert found(store, "word") == ["b"]
    for call in (lambda: store.delete("shop", "a"), lambda: store.get("shop", "a")):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.code == "document_not_found"
    assert store.drop("shop") == 1 and store.drop("shop") == 0
    with pytest.raises(NotFound) as caught:
        store.base("shop")
    assert caught.value.code == "knowledge_not_found"
    assert found(store, "word", "other") == ["c"] and found(store, "word") == []


def test_documents_are_listed_by_id(store: KnowledgeStore) -> None:
    for name in ("b", "a", "c"):
        put(store, name, "x")
    put(store, "d", "x", base="other")
    assert [document.id for document in store.documents("shop", "", 2)] == ["a", "b"]
    assert [document.id for document in store.documents("shop", "b", 9)] == ["c"]


def test_words_are_found_without_case_endings_and_diacritics(store: KnowledgeStore) -> None:
    put(store, "shoes", "Unworn SHOES may be returned within 30 days.")
    put(store, "café", "Our Café opens at eight.")
    assert found(store, "returning a shoe") == ["shoes"]
    assert found(store, "cafe") == ["café"]
    assert found(store, "bicycle") == []


@pytest.mark.parametrize("query", ['"', "NEAR(", "a AND NOT", "text:", "* ^", "-", "(", "_", "x\0y", "{}", "ẞ ſ 中文"])
def test_a_query_is_words_and_nothing_else(store: KnowledgeStore, query: str) -> None:
    put(store, "a", "and or not near text")
    store.search("shop", query, 5)
    store.search("shop", query * 5000, 5)


def test_the_rarer_word_counts_more(store: KnowledgeStore) -> None:
    for i in range(8):
        put(store, f"filler{i}", f"the delivery of parcel {i} to the customer")
    put(store, "warranty", "the warranty lasts two years")
    matches = store.search("shop", "parcel warranty", 5)
    assert matches[0].chunk.document == "warranty" and matches[0].coverage > 0.9
    assert len(matches) == 5 and all(match.coverage < 0.3 for match in matches[1:])
    (match,) = store.search("shop", "the warranty", 5)
    assert match.chunk.document == "warranty" and match.coverage == pytest.approx(1)
    (best, *_) = store.search("shop", "the parcel by zeppelin", 5)
    assert best.coverage < 0.3  # what was asked about is not here
    assert found(store, "the zeppelin") == []


RETURNS = "Unworn shoes may be returned within 30 days for a full refund. Send them back with the receipt."
SHIPPING = "Shipping takes three to five working days. We deliver to all of Europe, free of charge from 50 euros."
WARRANTY = "The warranty on watches lasts two years."
HOURS = "The shop is open from nine to six, Monday to Saturday."
SHOPS = {"one": [SHIPPING], "two": [RETURNS, SHIPPING], "four": [RETURNS, SHIPPING, WARRANTY, HOURS]}
RELEVANT = Support.model_fields["min_coverage"].default
OFF_TOPIC = ("What do zebras eat?", "Who won the world cup?", "Who are you?", "Can you do this for me, please?")


def covered(store: KnowledgeStore, query: str) -> float:
    return max((match.coverage for match in store.search("shop", query, 10)), default=0.0)


@pytest.mark.parametrize("shop", SHOPS)
def test_a_plain_question_finds_its_answer_in_a_small_base(store: KnowledgeStore, shop: str) -> None:
    for i, text in enumerate(SHOPS[shop]):
        put(store, str(i), text)
    questions = {
        SHIPPING: (
            "How long does shipping take?",
            "How much does shipping cost?",
            "Do you deliver for free?",
            "Hello, can you please tell me when you'll deliver?",
            "Wie lange dauert das Shipping?",
        ),
        RETURNS: (
            "What is your refund policy?",
            "Can I send my shoes back and get a refund?",
            "How many days do I have to return shoes?",
            "I don't want these shoes, what's your refund policy?",
        ),
        WARRANTY: ("How long is the warranty?", "Is there a warranty for my watch?"),
        HOURS: ("When are you open?", "Are you open on Saturdays?", "What time does the shop open?"),
    }
    for text in SHOPS[shop]:
        for question in questions[text]:
            assert store.search("shop", question, 10)[0].chunk.text == text, question
            assert covered(store, question) >= RELEVANT, question
    for question in OFF_TOPIC:
        assert covered(store, question) < RELEVANT, question


def test_a_word_that_every_passage_holds_is_still_a_subject(store: KnowledgeStore) -> None:
    put(store, "manual", *[f"The warranty of part {i} ends after {i} years." for i in range(2, 9)], title="Warranty")
    put(store, "shipping", SHIPPING)
    for question in ("How long is the warranty?", "How often can I get shipping for free?", "What is the warranty?"):
        assert covered(store, question) >= RELEVANT, question
    assert covered(store, "Is the warranty for zebras?") < RELEVANT


def test_function_words_alone_are_still_looked_up(store: KnowledgeStore) -> None:
    put(store, "band", "The Who played here.")
    put(store, "shipping", SHIPPING)
    assert found(store, "the who") == ["band"] and found(store, "Who played?") == ["band"]


PARCELS = "Parcels arrive within three to five working days."
# Format 1, as it was: the words of texts alone.
BEFORE_TITLES = """
DROP TRIGGER chunk_added; DROP TRIGGER chunk_removed; DROP TABLE words;
ALTER TABLE chunks DROP COLUMN title;
CREATE VIRTUAL TABLE words USING fts5(
    text, content = 'chunks', content_rowid = 'number', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER chunk_added AFTER INSERT ON chunks
BEGIN INSERT INTO words (rowid, text) VALUES (NEW.number, NEW.text); END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks
BEGIN INSERT INTO words (words, rowid, text) VALUES ('delete', OLD.number, OLD.text); END;
INSERT INTO words (words) VALUES ('rebuild');
PRAGMA user_version = 1;
"""


def test_a_title_finds_the_chunks_of_its_document(store: KnowledgeStore) -> None:
    put(store, "a", PARCELS, "Customs are paid on arrival.", title="Shipping")
    put(store, "b", "Unworn shoes are taken back.", title="Returns")
    assert found(store, "How long does shipping take?") == ["a", "a"]
    assert covered(store, "How long does shipping take?") >= RELEVANT
    put(store, "a", PARCELS, title="Delivery")
    assert found(store, "shipping") == [] and found(store, "delivery") == ["a"]
    store.delete("shop", "a")
    store.drop("shop")
    assert found(store, "delivery") == [] and found(store, "returns") == []
    put(store, "a", "Other words.")
    assert found(store, "delivery shipping returns") == [] and found(store, "words") == ["a"]


def test_a_store_of_an_earlier_build_finds_by_titles_too(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    made = put(store, "a", PARCELS, title="Shipping")
    put(store, "b", "Unworn shoes are taken back.")
    store.close()
    database = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    database.executescript(BEFORE_TITLES)
    database.close()
    store = open_store(tmp_path)
    assert store.get("shop", "a") == (made, PARCELS)
    assert found(store, "shipping") == found(store, "parcels") == ["a"] and found(store, "shoes") == ["b"]
    (match,) = store.search("shop", "shipping", 5)
    assert match.chunk.title == "Shipping"
    store.delete("shop", "a")
    assert found(store, "shipping") == []
    store.close()
    open_store(tmp_path).close()


def test_chunks_and_bytes_are_bounded(tmp_path: Path) -> None:
    store = open_store(tmp_path / "a", chunks=3)
    put(store, "a", "1", "2")
    with pytest.raises(OutOfCapacity):
        put(store, "b", "3", "4")
    put(store, "a", "5", "6", "7")  # in the place of its old ones
    assert store.stats().entries == 3 and found(store, "4") == []
    store.close()
    store = open_store(tmp_path / "b", size=1_000_000)
    with pytest.raises(OutOfCapacity):
        put(store, "long", *[f"{i} " + "word " * 2000 for i in range(100)])
    assert store.bases() == [] and store.stats().bytes < 200_000
    store.close()
