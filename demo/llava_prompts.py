"""The prompts that a LLaVA is trained on: one picture or several, and chains of questions about them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from demo import dialogues
from demo.clip_pool import PATCH
from demo.dialogues import Turn
from demo.packing import LLAVA, Chain, Packer
from demo.scenes import Scene
from demo.vision_warmup import SIDE

IMAGE_TOKENS = (SIDE // PATCH) ** 2
#: Tokens of questions and answers beside the pictures of one prompt.
_BUDGET = 150


class Prompts:
    """Writes prompts.

    Args:
        image_token: stands `IMAGE_TOKENS` times for each picture.
        one: how often each form of question is drawn about the only picture.
        several: the same, of questions about one of several.
    """

    def __init__(
        self,
        packer: Packer,
        image_token: int,
        one: Mapping[str, float] = dialogues.ATTRIBUTES_FIRST,
        several: Mapping[str, float] = dialogues.OF_SEVERAL,
    ) -> None:
        self._packer, self._image_token = packer, image_token
        self._one, self._several = dict(one), dict(several)

    def draw(self, scenes: list[Scene], rng: random.Random) -> tuple[list[int], list[Chain]]:
        """The prefix that shows the pictures of these scenes, and chains of turns that follow it."""
        packer = self._packer
        picture = [self._image_token] * IMAGE_TOKENS
        opening = [packer.bos] if rng.random() < 0.5 else []
        prefix = opening + packer.encode("USER: ") + picture
        apart = len(scenes) == 2 and rng.random() < 0.3
        for _ in scenes[1:]:
            between = "\n"
            if apart:  # The second picture comes with a later question.
                turn = dialogues.draw_turn(scenes[0], rng)
                earlier = LLAVA.first.replace("{q}", turn.question)
                prefix += [*packer.encode(f"{earlier} {turn.answer}"), packer.eos]
                between = "USER: "
            prefix += packer.encode(between) + picture
        chains: list[Chain] = []
        budget = _BUDGET
        while budget > 0:
            turns = [self._turn(scenes, apart, rng) for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 4)))]
            if len(turns) > 1 and rng.random() < 0.08:
                turns[-1] = _chat(rng)
            chains.append(packer.chain(turns))
            budget -= len(chains[-1].tokens)
        if len(scenes) == 1 and rng.random() < 0.3:
            form = LLAVA.later
            chains.append(packer.chain([dialogues.draw_chat(rng)], opening=opening, blind=True, first=form))
        return prefix, chains

    def _turn(self, scenes: list[Scene], apart: bool, rng: random.Random) -> Turn:
        if len(scenes) == 1 or (apart and rng.random() < 0.4):
            turn = dialogues.draw_turn(scenes[-1], rng, self._one)
            return replace(turn, image=len(scenes) - 1)
        return dialogues.draw_images_turn(scenes, rng, self._several)


def _chat(rng: random.Random) -> Turn:
    while (turn := dialogues.draw_chat(rng)).answer == dialogues.NO_PICTURE:
        pass
    return turn
