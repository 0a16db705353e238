"""Go on training the demo LLaVA, on a GPU and from its answers alone; see `demo.finetuning`.

    python -m demo.finetune_llava --start demo/checkpoints/llava --minutes 5.5 --workers 13 --layers 6 \
        --out demo/checkpoints/llava
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from demo import dialogues
from demo.clip_pool import render_natively, shrink
from demo.finetuning import Step, Steps, command_line, deepen, read, scene_number, tokenizer_of, train
from demo.generative_checkpoints import save_llava
from demo.llava_prompts import Prompts
from demo.packing import LLAVA, Packed, Packer
from demo.scenes import DIFFICULTIES, Scene, sample_scene
from demo.vision_warmup import SHARES, SIDE, tower_features

#: All forms, and more often what is hard: this training has the time for them.
ONE = dialogues.WEIGHTS | {
    "shape of the object": 2.0,
    "how many": 2.5,
    "how many of a shape": 1.5,
    "how many of a colour": 1.2,
    "left or right": 3.0,
    "above or below": 1.6,
    "place": 0.8,
    "background": 0.6,
    "caption": 1.2,
    "detailed caption": 0.15,
    "json of the objects": 0.4,
    "text": 0.5,
}
SEVERAL = ONE | {"colour of the object": 3.0, "shape of the object": 3.0}
_SEVERAL_SHARE, _ALIKE_SHARE = 0.5, 0.6


class PictureSteps(Steps):
    """Half of the steps show one picture a prompt, half of them two or three."""

    def __init__(self, packer: Packer, image_token: int, batch: int, seed: int) -> None:
        super().__init__(seed)
        self._packer, self._batch = packer, batch
        self._prompts = Prompts(packer, image_token, ONE, SEVERAL)

    def draw(self, rng: random.Random, pixels: np.random.Generator) -> Step:
        """See `Steps.draw`."""
        pictures = rng.choice((2, 2, 2, 3)) if rng.random() < _SEVERAL_SHARE else 1
        rows = [_scenes(pictures, rng) for _ in range(self._batch // pictures)]
        shown = [shrink(render_natively(scene, SIDE, pixels), SIDE) for row in rows for scene in row]
        packed = self._packer.pack([self._prompts.draw(row, rng) for row in rows])
        return Step(np.stack(shown), packed, "one" if pictures == 1 else "several")


def _scenes(count: int, rng: random.Random) -> list[Scene]:
    """Scenes of one prompt; the later ones often have their subject's shape or colour in common with the first."""
    scenes = [_scene(rng)]
    while len(scenes) < count:
        scene = _scene(rng)
        first, second = scenes[0].subject, scene.subject
        alike = first.shape == second.shape or first.colour == second.colour
        if alike or rng.random() > _ALIKE_SHARE:
            scenes.append(scene)
    return scenes


def _scene(rng: random.Random) -> Scene:
    difficulty = rng.choices(DIFFICULTIES, SHARES)[0]
    word = True if difficulty == "easy" and rng.random() < 0.1 else None
    return sample_scene(scene_number(rng), split="train", difficulty=difficulty, word=word)


def states_of(model: LlavaForConditionalGeneration, pixels: Tensor, packed: Packed) -> Tensor:
    """Hidden states (B, L, width) at the top of the language model, for the pictures (N, 3, side, side) of all rows."""
    core = model.model
    patches = core.multi_modal_projector(tower_features(core.vision_tower, pixels)[1][:, 1:])
    return read(core.language_model, packed, model.config.image_token_id, patches)


def main() -> None:
    """Command line."""
    arguments = command_line(__doc__)
    tokenizer = tokenizer_of(arguments.start)
    model = LlavaForConditionalGeneration.from_pretrained(arguments.start, dtype=torch.float32)
    model = deepen(model, arguments.layers)
    packer = Packer(tokenizer, LLAVA)
    steps = PictureSteps(packer, model.config.image_token_id, arguments.batch, arguments.seed)
    train(model, steps, states_of, lambda: save_llava(arguments.out, model, tokenizer), arguments)


if __name__ == "__main__":
    main()
