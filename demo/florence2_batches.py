"""Pictures, prompts and answers for the training of the demo Florence-2, drawn anew by worker processes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from demo.florence2_lessons import TASKS, Lesson, draw_lessons, page_lessons
from demo.florence2_model import GRID, SIDE, build_processor
from demo.florence2_tokenizer import build_tokenizer
from demo.florence2_words import GLYPHS, Line, draw_page, glyph_boxes, is_seen, random_word, reworded, scene_lines
from demo.scenes import COLOURS, SHAPES, Difficulty, Scene, coverage, render, sample_scene

#: What a patch can show: nothing, a shape, or a letter or digit.
CONTENTS = 1 + len(SHAPES) + len(GLYPHS)
#: Shares of easy, medium and hard scenes, and of pages of printed lines.
_KINDS: tuple[Difficulty | None, ...] = ("easy", "medium", "hard", None)
_SHARES = (0.16, 0.5, 0.12, 0.22)
_WORD_CHANCE = 0.5
#: Lessons of one picture, and where a batch's lessons, sorted by length, are cut into groups: few are long.
LESSONS, _CUTS = 4, (0.8,)
#: A picture is drawn at another size and resized this often, as the processor will do with any picture.
_RESIZED = 0.4


class Group(NamedTuple):
    """Lessons of like length: `pictures` (N,), `prompts` (N, P), `answers` (N, A), `tasks` (N,) int64, padded by 1."""

    pictures: Tensor
    prompts: Tensor
    answers: Tensor
    tasks: Tensor


class Batch(NamedTuple):
    """`pixels` (B, side, side, 3) uint8, `patches` (B, grid, grid, 2) int64: contents and colour; and the lessons."""

    pixels: Tensor
    patches: Tensor
    groups: list[Group]


class Lessons(IterableDataset[Batch]):
    """An endless stream of batches; each worker process draws its own scenes."""

    def __init__(self, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number = 0 if worker is None else worker.id
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        rng = random.Random(1000 * self.seed + number)
        # Scene numbers of different workers and runs never meet: each has 2^40 of its own.
        index = (1000 * self.seed + number) << 40
        packer = Packer()
        while True:
            pictures, patches, lessons = [], [], []
            for place in range(self.batch):
                picture, found, asked = draw_picture(index, rng)
                pictures.append(picture)
                patches.append(found)
                lessons += [(place, lesson) for lesson in asked]
                index += 1
            yield Batch(
                torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(patches)), packer.groups(lessons)
            )


def stream(batch: int, workers: int, seed: int) -> Iterator[Batch]:
    """Batches from so many worker processes, or from this one."""
    loader = DataLoader(
        Lessons(batch, seed),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


class Packer:
    """Turns lessons into token ids, as the processor would but without the picture's tokens."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.processor = build_processor(self.tokenizer)

    def prompt(self, lesson: Lesson) -> str:
        """The published sentence of a task."""
        plain = self.processor.task_prompts_without_inputs.get(lesson.task)
        return plain or self.processor.task_prompts_with_input[lesson.task].format(input=lesson.given)

    def groups(self, lessons: Sequence[tuple[int, Lesson]]) -> list[Group]:
        """The lessons, each with its picture's number, sorted by length into groups."""
        prompts = self.tokenizer([self.prompt(lesson) for _, lesson in lessons])["input_ids"]
        answers = self.tokenizer([lesson.answer for _, lesson in lessons])["input_ids"]
        order = sorted(range(len(lessons)), key=lambda place: (len(answers[place]), len(prompts[place])))
        groups = []
        for chosen in np.split(np.array(order), [int(share * len(order)) for share in _CUTS]):
            groups.append(
                Group(
                    torch.tensor([lessons[place][0] for place in chosen]),
                    _padded([prompts[place] for place in chosen], self.tokenizer.pad_token_id),
                    _padded([answers[place] for place in chosen], self.tokenizer.pad_token_id),
                    torch.tensor([TASKS.index(lessons[place][1].task) for place in chosen]),
                )
            )
        return groups


def draw_picture(index: int, rng: random.Random) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Lesson]]:
    """A picture (side, side, 3), what its patches show (grid, grid, 2), and lessons about it."""
    kind = rng.choices(_KINDS, _SHARES)[0]
    size = rng.randint(160, 320) if rng.random() < _RESIZED else SIDE
    if kind is None:
        scene = sample_scene(index, difficulty="easy", word=False)
        picture, lines = draw_page(scene, size, rng)
        return _resized(picture), patch_contents(None, lines, size), page_lessons(lines, size, LESSONS, rng)
    scene = trainable(sample_scene(index, difficulty=kind, word=rng.random() < _WORD_CHANCE), rng)
    picture = _resized(render(scene, size))
    return picture, patch_contents(scene, scene_lines(scene, size), size), draw_lessons(scene, size, LESSONS, rng)


def trainable(scene: Scene, rng: random.Random) -> Scene:
    """The scene with a word that may be trained on; in six cases of ten random letters take a listed word's place."""
    if scene.word is None or (is_seen(scene.word.text) and rng.random() < 0.4):
        return scene
    return reworded(scene, random_word(rng, len(scene.word.text)))


def patch_contents(scene: Scene | None, lines: Sequence[Line], size: int) -> NDArray[np.int64]:
    """What each patch shows, (grid, grid, 2): 0, a shape from 1 or a glyph from 9; and 0, or a colour from 1."""
    found = np.zeros((GRID, GRID, 2), np.int64)
    if scene is not None:
        shown = coverage(scene, 4 * GRID).reshape(-1, GRID, 4, GRID, 4).mean((2, 4))
        for number, item in enumerate(scene.objects):
            here = (shown[number] > 0.2) & (shown[number] == shown.max(0))
            found[here] = (1 + SHAPES.index(item.shape), 1 + COLOURS.index(item.colour))
    for line in lines:
        for letter, box in glyph_boxes(line):
            rows = slice(int(box.top / size * GRID + 0.5), max(int(box.bottom / size * GRID + 0.5), 1))
            columns = slice(int(box.left / size * GRID + 0.5), max(int(box.right / size * GRID + 0.5), 1))
            found[rows, columns] = (1 + len(SHAPES) + GLYPHS.index(letter), 0)
    return found


def _resized(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if len(picture) == SIDE:
        return picture
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    table = torch.full((len(rows), max(map(len, rows))), pad)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row)
    return table
