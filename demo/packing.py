"""Many questions about one picture in one forward pass: chains of turns that share a prefix and do not see each other.

A row is [prefix][chain][chain].. The prefix holds the pictures; every chain is a dialogue of its own that follows the
prefix directly, so its positions go on from there and its attention skips the other chains. A picture's tokens are
thus paid for once, while every first question is asked as it is when served: with nothing before it but the picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from demo.clip_pool import IGNORED
from demo.dialogues import Turn
from demo.generative_tokenizer import BOS

NOTHING = -100


@dataclass(frozen=True, slots=True)
class Style:
    """How a dialogue is written down: the text around a question, first or later, and what follows an answer.

    `first` and `later` have the slot {q}. With `ends_inline` an end token stands between turns; without it, a later
    turn follows its predecessor's answer directly, and the model still learns to end there.
    """

    first: str
    later: str
    ends_inline: bool


LLAVA = Style("\n{q} ASSISTANT:", "USER: {q} ASSISTANT:", True)
BLIP = Style("Question: {q} Answer:", " Question: {q} Answer:", False)


#: What `Packed.images` says of tokens whose turn is about no single picture, and of tokens outside all turns.
NO_SINGLE_IMAGE, NO_TURN = -1, -2


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a question of a form stands: tokens `start` to `end` - 1 of a chain or of a row, the last of which predicts
    the answer."""

    form: str
    start: int
    end: int
    row: int = 0


@dataclass(slots=True)
class Chain:
    """Tokens, and for each the one to be predicted after it, or `NOTHING`, and the picture that its turn is about;
    `answers` has a (form, first place, last place + 1) per turn. A blind chain does not see the prefix."""

    tokens: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    answers: list[tuple[str, int, int]] = field(default_factory=list)
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows ready for a language model: `tokens` and `positions` (B, L), `mask` (B, 1, L, L) bool; `places` (N,) are
    flat numbers of predicting tokens, `targets` (N,) what they predict; `answers` (form, start, end) into these;
    `images` (B, L) the picture that a token's turn is about; `asked` the questions that see their prefix."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    places: Tensor
    targets: Tensor
    answers: tuple[tuple[str, int, int], ...]
    images: Tensor
    asked: tuple[Asked, ...]

    def to(self, device: torch.device) -> Packed:
        """The same on another device."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        return replace(self, **moved)


class Packer:
    """Writes turns as tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, style: Style) -> None:
        self._encoder = tokenizer.backend_tokenizer
        self.style = style
        self.bos = tokenizer.convert_tokens_to_ids(BOS)
        self.eos = tokenizer.eos_token_id
        self.pad = tokenizer.pad_token_id

    def encode(self, text: str) -> list[int]:
        """Tokens of a text without an opening token."""
        tokens: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return tokens

    def chain(
        self, turns: Sequence[Turn], *, opening: Sequence[int] = (), blind: bool = False, first: str = ""
    ) -> Chain:
        """A dialogue as a chain; `first` replaces the style's wording of the first question."""
        chain = Chain(blind=blind)
        chain.tokens += opening
        chain.targets += [NOTHING] * len(opening)
        chain.images += [NO_TURN] * len(opening)
        for number, turn in enumerate(turns):
            form = (first or self.style.first) if number == 0 else self.style.later
            asked = self.encode(form.replace("{q}", turn.question))
            answer = self.encode(f" {turn.answer}")
            start = len(chain.tokens) + len(asked) - 1
            chain.asked.append(Asked(turn.form, len(chain.tokens), start + 1))
            chain.tokens += asked + answer
            image = NO_SINGLE_IMAGE if turn.image is None else turn.image
            chain.images += [image] * (len(asked) + len(answer))
            # The token before an answer predicts its first one, be it the opening of an otherwise empty prompt.
            chain.targets += [NOTHING] * len(asked)
            chain.targets[-1:] = [*answer, self.eos]
            chain.answers.append((turn.form, start, start + len(answer) + 1))
            if self.style.ends_inline and number + 1 < len(turns):
                chain.tokens.append(self.eos)
                chain.targets.append(NOTHING)
                chain.images.append(image)
        return chain

    def pack(self, rows: Sequence[tuple[Sequence[int], Sequence[Chain]]]) -> Packed:
        """Lay out rows of (prefix, chains), padded at the right."""
        length = max(len(prefix) + sum(len(c.tokens) for c in chains) for prefix, chains in rows)
        tokens = torch.full((len(rows), length), self.pad)
        positions = torch.zeros(len(rows), length, dtype=torch.int64)
        # Segment 0 is the prefix, chains count from 1, padding is -1; `sees` says whether a token sees the prefix.
        segments = torch.full((len(rows), length), -1)
        sees = torch.zeros(len(rows), length, dtype=torch.bool)
        images = torch.full((len(rows), length), NO_TURN)
        asked: list[Asked] = []
        places: list[int] = []
        targets: list[int] = []
        answers: list[tuple[str, int, int]] = []
        for row, (prefix, chains) in enumerate(rows):
            end = len(prefix)
            tokens[row, :end] = torch.tensor(prefix, dtype=torch.int64)
            positions[row, :end] = torch.arange(end)
            segments[row, :end] = 0
            for number, chain in enumerate(chains, 1):
                start, end = end, end + len(chain.tokens)
                tokens[row, start:end] = torch.tensor(chain.tokens)
                positions[row, start:end] = torch.arange(end - start) + (0 if chain.blind else len(prefix))
                segments[row, start:end] = number
                sees[row, start:end] = not chain.blind
                if not chain.blind:
                    images[row, start:end] = torch.tensor(chain.images)
                    asked += [Asked(item.form, start + item.start, start + item.end, row) for item in chain.asked]
                for form, first, last in chain.answers:
                    answers.append((form, len(targets), len(targets) + last - first))
                    places += range(row * length + start + first, row * length + start + last)
                    targets += chain.targets[first:last]
        same = segments[:, :, None] == segments[:, None, :]
        shared = sees[:, :, None] & (segments == 0)[:, None, :]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = (same | shared) & causal
        return Packed(
            tokens,
            positions,
            mask[:, None],
            torch.tensor(places),
            torch.tensor(targets),
            tuple(answers),
            images,
            tuple(asked),
        )


def answer_loss(hidden: Tensor, head: nn.Module, packed: Packed) -> tuple[Tensor, Tensor]:
    """Mean loss over the answers for hidden states (B, L, width), and which of their tokens (N,) come out right.

    An answer weighs as the root of its length, lest captions and JSON drown the answers of one word.
    """
    logits = head(hidden.flatten(0, 1)[packed.places])
    losses = F.cross_entropy(logits, packed.targets, reduction="none")
    lengths = torch.tensor([end - start for _, start, end in packed.answers], device=hidden.device)
    weights = (lengths.float() ** -0.5).repeat_interleave(lengths)
    return (weights * losses).sum() / weights.sum(), logits.argmax(-1) == packed.targets


def word_tokens(packer: Packer, words: Sequence[str]) -> Tensor:
    """The tokens of words inside a sentence, each of which must be one."""
    tokens = [packer.encode(f" {word}") for word in words]
    if any(len(pieces) != 1 for pieces in tokens):
        raise ValueError("a word falls into several tokens")
    return torch.tensor(tokens).flatten()


def naming_loss(patches: Tensor, embeddings: nn.Embedding, words: Sequence[Tensor], classes: Tensor) -> Tensor:
    """How badly patches (B, P, width) point at the embeddings of the words for their colour and their shape.

    `words` are the tokens of colours and of shapes, `classes` (B, 2, P) their numbers from 1, 0 for background.
    """
    pointed = F.layer_norm(patches, patches.shape[-1:])
    losses = []
    for place, tokens in enumerate(words):
        labels = torch.where(classes[:, place] == IGNORED, 0, classes[:, place]) - 1
        logits = pointed @ F.normalize(embeddings(tokens), dim=-1).T
        losses.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1))
    return torch.stack(losses).sum()


class Score:
    """How many answers of each form come out right as a whole.

    An answer whose every token is the likeliest one after the right ones before it is the greedy answer itself, so
    this is the exact match that generation would give, for free.
    """

    def __init__(self) -> None:
        self._right: dict[str, int] = defaultdict(int)
        self._asked: dict[str, int] = defaultdict(int)

    def add(self, packed: Packed, right: Tensor) -> None:
        """Count a batch."""
        flags = right.tolist()
        for form, start, end in packed.answers:
            self._asked[form] += 1
            self._right[form] += all(flags[start:end])

    def text(self) -> str:
        """One line of percentages by form, all forms first; counting starts again."""
        total = 100.0 * sum(self._right.values()) / max(1, sum(self._asked.values()))
        parts = [f"{form} {100.0 * self._right[form] / asked:.0f}" for form, asked in sorted(self._asked.items())]
        self._right.clear()
        self._asked.clear()
        return f"ALL {total:.1f} | {', '.join(parts)}"
