"""Go on training the demo Video-LLaVA, on a GPU and from its answers alone; see `demo.finetuning`.

    python -m demo.finetune_video_llava --start demo/checkpoints/video_llava --minutes 5 --workers 8 --layers 6 \
        --out demo/checkpoints/video_llava
"""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import VideoLlavaForConditionalGeneration

from demo.clip_pool import shrink
from demo.finetuning import Step, Steps, command_line, deepen, read, scene_number, tokenizer_of, train
from demo.generative_checkpoints import save_video_llava
from demo.packing import LLAVA, Packed, Packer
from demo.scenes import MOTIONS, Scene, render_video, sample_scene
from demo.train_video_llava import SIDE, VideoPrompts
from demo.video_pool import FRAMES
from demo.vision_warmup import tower_features

_EASY_SHARE, _PICTURE_SHARE = 0.5, 0.2
_NATIVE_SIZES, _NATIVE_SHARES = (64, 96, 128, 224), (0.6, 0.2, 0.12, 0.08)
_RATES = (3.0, 4.0, 4.0, 5.0)


class ClipSteps(Steps):
    """Most steps ask about clips, some about their first frames alone."""

    def __init__(self, packer: Packer, tokens: tuple[int, int], batch: int, seed: int) -> None:
        super().__init__(seed)
        self._packer, self._batch = packer, batch
        self._prompts = VideoPrompts(packer, tokens)

    def draw(self, rng: random.Random, pixels: np.random.Generator) -> Step:
        """See `Steps.draw`: pictures are (B, 8, side, side, 3), or (B, 1, side, side, 3) of first frames."""
        picture = rng.random() < _PICTURE_SHARE
        scenes = [_scene(rng) for _ in range(self._batch)]
        shown = np.stack([_clip(scene, pixels, 1 if picture else FRAMES) for scene in scenes])
        packed = self._packer.pack([self._prompts.draw(scene, rng, picture=picture) for scene in scenes])
        return Step(shown, packed, "pictures" if picture else "clips")


def _scene(rng: random.Random) -> Scene:
    difficulty = "easy" if rng.random() < _EASY_SHARE else "medium"
    return sample_scene(scene_number(rng), split="train", difficulty=difficulty, motion=rng.choice(MOTIONS))


def _clip(scene: Scene, rng: np.random.Generator, frames: int) -> NDArray[np.uint8]:
    size, fps = int(rng.choice(_NATIVE_SIZES, p=_NATIVE_SHARES)), float(rng.choice(_RATES))
    return np.stack([shrink(picture, SIDE) for picture in render_video(scene, size, FRAMES, fps)[:frames]])


def states_of(model: VideoLlavaForConditionalGeneration, pixels: Tensor, packed: Packed) -> Tensor:
    """Hidden states (B, L, width) at the top of the language model, for frames (B, T, 3, side, side)."""
    core = model.model
    seen = tower_features(core.video_tower, pixels.flatten(0, 1))[1].unflatten(0, pixels.shape[:2])
    picture = pixels.shape[1] == 1
    patches = core.multi_modal_projector(seen[:, 0, 1:] if picture else seen.flatten(1, 2))
    token = model.config.image_token_id if picture else model.config.video_token_id
    return read(core.language_model, packed, token, patches)


def main() -> None:
    """Command line."""
    arguments = command_line(__doc__)
    tokenizer = tokenizer_of(arguments.start)
    model = VideoLlavaForConditionalGeneration.from_pretrained(arguments.start, dtype=torch.float32)
    model = deepen(model, arguments.layers)
    model.model.image_tower = model.model.video_tower  # one tower, saved twice
    packer = Packer(tokenizer, LLAVA)
    tokens = (model.config.image_token_id, model.config.video_token_id)
    steps = ClipSteps(packer, tokens, arguments.batch, arguments.seed)
    train(model, steps, states_of, lambda: save_video_llava(arguments.out, model, tokenizer), arguments)


if __name__ == "__main__":
    main()
