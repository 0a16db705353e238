"""A document cut into passages."""

from __future__ import annotations

from semantic_text_splitter import TextSplitter


def passages(text: str, most_chars: int, overlap: int) -> list[tuple[int, str]]:
    """Passages in order, each with the position of its first character.

    A passage ends at the best boundary that fits: a paragraph before a sentence, a sentence before a word (Unicode
    Standard Annex 29), and never inside a character. White space around it is left out.

    Args:
        most_chars: length of the longest passage.
        overlap: most characters that a passage repeats from the end of the one before, in whole sentences or words;
            less than `most_chars`.
    """
    found = TextSplitter(most_chars, overlap=overlap).chunk_indices(text)
    # Unicode's white space lacks four of the separators that Python, and our check of texts, takes for it.
    return [(start, passage) for start, passage in found if passage.strip()]
