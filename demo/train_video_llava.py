"""Train the demo Video-LLaVA: a small vision tower for frames and pictures under the demo's small Llama.

    python -m demo.video_pool /var/tmp/videos
    python -m demo.vision_warmup --pool /var/tmp/pool96 --out /var/tmp/tower96.pt
    python -m demo.train_video_llava --pool /var/tmp/videos --tower /var/tmp/tower96.pt --run /var/tmp/video_llava \
        --steps 3000 --out demo/checkpoints/video_llava

One tower learns from both; the checkpoint holds it twice, as image tower and as video tower. Outputs that are dropped
at the end teach its class token where, how large and how turned the subject is in each frame. The first steps are for
that alone. Half way up the language model, every word after a clip is asked for the clip's motion.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from demo import dialogues
from demo.generative_checkpoints import save_video_llava
from demo.generative_tokenizer import IMAGE, VIDEO
from demo.generative_training import (
    WIDTH,
    LayerStates,
    Trainer,
    command_line,
    llama_config,
    parameter_groups,
    prepare,
    start_llama,
    train,
)
from demo.lookups import Lookups
from demo.packing import LLAVA, Chain, Packer, Score, answer_loss, naming_loss, word_tokens
from demo.scenes import COLOURS, MOTIONS, SHAPES, MotionKind, Scene
from demo.video_pool import FRAMES, TRACK, VideoPool, load_video_pool
from demo.vision_batches import Helpers
from demo.vision_warmup import MEAN, STD, load_tower, resized_positions, tower_features

#: Pictures are that small so that eight of them make no long prompt; objects then cover as many patches as the
#: warmed-up tower knows them to. As in LLaVA, four layers are read and one more lies above.
SIDE, PATCH, _LAYERS = 48, 8, 5
IMAGE_TOKENS = (SIDE // PATCH) ** 2
VIDEO_TOKENS = FRAMES * (IMAGE_TOKENS + 1)
_BUDGET = 100
_PICTURE_SHARE = 0.25
_MIRRORED: dict[MotionKind, MotionKind] = {
    "left": "right",
    "right": "left",
    "rotate clockwise": "rotate counter-clockwise",
    "rotate counter-clockwise": "rotate clockwise",
}
_BACKWARDS: dict[MotionKind, MotionKind] = {**_MIRRORED, "up": "down", "down": "up", "still": "still"}
#: What is asked about the still picture and about the things in a clip.
_WEIGHTS = {
    form: dialogues.WEIGHTS[form]
    for form in (
        "colour of the object",
        "shape of the object",
        "the object",
        "colour of a shape",
        "shape of a colour",
        "how many",
        "is there",
        "one of two colours",
        "one of two shapes",
        "caption",
        "json of the object",
    )
}


class FrameHelpers(nn.Module):
    """Outputs that exist only while training: what each frame and its patches show of its subject, and the clip's
    motion."""

    def __init__(self, warmed: Helpers) -> None:
        super().__init__()
        self.patch_colour, self.patch_shape = warmed.patch_colour, warmed.patch_shape
        # Size, and cosine and sine of the turn.
        self.patch_track = nn.Linear(WIDTH, TRACK - 2)
        self.track = nn.Linear(WIDTH, TRACK)
        self.colour = nn.Linear(WIDTH, len(COLOURS))
        self.shape = nn.Linear(WIDTH, len(SHAPES))
        self.motion = nn.Sequential(nn.Linear(FRAMES * WIDTH, 64), nn.GELU(), nn.Linear(64, len(MOTIONS)))
        self.word_motion = nn.Linear(WIDTH, len(MOTIONS))

    def losses(self, hidden: Tensor, tracks: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """For features (B, 8, 1 + P, width), tracks (B, 8, 5), and colour, shape and motion numbers (B, 3)."""
        hidden = F.layer_norm(hidden, hidden.shape[-1:])
        tops, (clips, frames, places) = hidden[:, :, 0], torch.nonzero(_inside(tracks), as_tuple=True)
        patches = hidden[clips, frames, 1 + places]
        colours = self.colour(tops).flatten(0, 1)
        shapes = self.shape(tops).flatten(0, 1)
        return {
            "track": 2.0 * F.smooth_l1_loss(self.track(tops), tracks, beta=0.1),
            "colour": 0.5 * F.cross_entropy(colours, labels[:, 0].repeat_interleave(FRAMES)),
            "shape": F.cross_entropy(shapes, labels[:, 1].repeat_interleave(FRAMES)),
            "motion": F.cross_entropy(self.motion(tops.flatten(1)), labels[:, 2]),
            "patch colour": 0.5 * F.cross_entropy(self.patch_colour(patches), labels[clips, 0] + 1),
            "patch shape": F.cross_entropy(self.patch_shape(patches), labels[clips, 1] + 1),
            "patch track": 2.0 * F.smooth_l1_loss(self.patch_track(patches), tracks[clips, frames, 2:], beta=0.1),
        }


def build_model(tokenizer: PreTrainedTokenizerFast, warmed: CLIPVisionModel) -> VideoLlavaForConditionalGeneration:
    """The model before its training around a part of a warmed-up tower; both towers are one and the same."""
    vision = CLIPVisionConfig(**(warmed.config.to_dict() | {"image_size": SIDE, "num_hidden_layers": _LAYERS}))
    config = VideoLlavaConfig(
        vision_config=vision,
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        video_token_index=tokenizer.convert_tokens_to_ids(VIDEO),
        image_seq_length=IMAGE_TOKENS,
        video_seq_length=VIDEO_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )
    model = VideoLlavaForConditionalGeneration(config)
    core = model.model
    core.image_tower = core.video_tower
    weights = warmed.state_dict()
    name = "embeddings.position_embedding.weight"
    weights[name] = resized_positions(weights[name], SIDE // PATCH)
    core.video_tower.load_state_dict({key: value for key, value in weights.items() if f"layers.{_LAYERS}." not in key})
    start_llama(core.language_model, model.lm_head)
    return model


class VideoPrompts:
    """Writes prompts about a clip, or about its first frame; `tokens` stand for pictures and for videos."""

    def __init__(self, packer: Packer, tokens: tuple[int, int]) -> None:
        self._packer, self._tokens = packer, tokens

    def draw(self, scene: Scene, rng: random.Random, *, picture: bool) -> tuple[list[int], list[Chain]]:
        """Prefix and chains."""
        packer, (image, video) = self._packer, self._tokens
        opening = [packer.bos] if rng.random() < 0.5 else []
        prefix = opening + packer.encode("USER: ") + ([image] * IMAGE_TOKENS if picture else [video] * VIDEO_TOKENS)
        chains: list[Chain] = []
        budget = _BUDGET
        while budget > 0:
            turns = []
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                moving = not picture and rng.random() < 0.65
                turns.append(
                    dialogues.draw_motion_turn(scene, rng) if moving else dialogues.draw_turn(scene, rng, _WEIGHTS)
                )
            chains.append(packer.chain(turns))
            budget -= len(chains[-1].tokens)
        if rng.random() < 0.2:
            chat = dialogues.draw_chat(rng)
            chains.append(packer.chain([chat], opening=opening, blind=True, first=LLAVA.later))
        return prefix, chains


class Batches:
    """Draws the clips and the dialogues of each step."""

    def __init__(self, pool: VideoPool, packer: Packer, tokens: tuple[int, int], seed: int) -> None:
        self.pool, self.packer, self.tokens = pool, packer, tokens
        self.rng = np.random.default_rng(seed)
        self.words = random.Random(seed)
        self.prompts = VideoPrompts(packer, tokens)

    def draw(self, batch: int) -> tuple[Tensor, Tensor, list[Scene]]:
        """Pixels (B, 8, 3, side, side), tracks (B, 8, 5) and scenes of clips, mirrored or backwards at random.

        Growing and shrinking clips never run backwards: the scene would then name the wrong size.
        """
        chosen = np.sort(self.rng.choice(len(self.pool.scenes), batch, replace=False))
        frames = torch.from_numpy(self.pool.frames[chosen]).permute(0, 1, 4, 2, 3).float() / 255.0
        frames = F.interpolate(frames.flatten(0, 1), size=(SIDE, SIDE), mode="bicubic", antialias=True)
        pixels = frames.unflatten(0, (batch, FRAMES))
        tracks = torch.from_numpy(self.pool.tracks[chosen])
        scenes = [self.pool.scene(number) for number in chosen]
        for row, scene in enumerate(scenes):
            shown, kind = scene, scene.motion.kind
            if self.words.random() < 0.5:
                pixels[row], shown = pixels[row].flip(-1), dialogues.mirrored(scene)
                tracks[row, :, 0] *= -1.0
                tracks[row, :, 4] *= -1.0
                kind = _MIRRORED.get(kind, kind)
            if kind in _BACKWARDS and self.words.random() < 0.5:
                pixels[row], tracks[row] = pixels[row].flip(0), tracks[row].flip(0)
                kind = _BACKWARDS[kind]
            scenes[row] = replace(shown, motion=replace(scene.motion, kind=kind))
        gain = 1.0 + 0.12 * (2.0 * torch.rand(batch, 1, 1, 1, 1) - 1.0)
        tint = 0.03 * (2.0 * torch.rand(batch, 1, 3, 1, 1) - 1.0)
        return ((pixels * gain + tint).clamp(0.0, 1.0) - MEAN) / STD, tracks, scenes


def _named(tracks: Tensor, labels: Tensor) -> Tensor:
    """Colour and shape numbers (B, 2, P) of the first frame's patches: the subject's where its centre lies, else 0."""
    grid = SIDE // PATCH
    columns, rows = (((tracks[:, 0, :2] + 1.0) / 2.0 * grid).long().clamp(0, grid - 1)).unbind(-1)
    classes = torch.zeros(len(tracks), 2, grid * grid, dtype=torch.int64)
    classes[torch.arange(len(tracks)), :, rows * grid + columns] = labels[:, :2] + 1
    return classes


def _inside(tracks: Tensor) -> Tensor:
    """Which patches (B, 8, P) of each frame show its subject."""
    grid = SIDE // PATCH
    line = (2.0 * torch.arange(grid) + 1.0) / grid - 1.0
    across = (tracks[..., 0, None] - line).abs()[..., None, :]
    down = (tracks[..., 1, None] - line).abs()[..., None]
    # In these units a side is 2, so that half a size becomes the size; its own patch belongs to a subject of any size.
    reach = (0.7 * tracks[..., 2].exp()).clamp(min=1.0 / grid)[..., None, None]
    return (torch.maximum(across, down) <= reach).flatten(-2)


class Answering(Trainer):
    """Model and helper outputs."""

    def __init__(
        self,
        model: VideoLlavaForConditionalGeneration,
        warmed: Helpers,
        batches: Batches,
        *,
        batch: int,
        frames_only: int,
    ) -> None:
        super().__init__()
        self.model, self.helpers = model, FrameHelpers(warmed)
        self.lookups = Lookups(batches.packer, WIDTH, model.config.text_config.vocab_size)
        self._words = [word_tokens(batches.packer, words) for words in (COLOURS, SHAPES)]
        self._layers = LayerStates(model.model.language_model.layers)
        self._batches, self._batch, self._frames_only = batches, batch, frames_only
        self._score = Score()
        self._shown: dict[str, float] = {}

    def groups(self) -> list[dict[str, object]]:
        """What is trained: all but the layer and the norm above the features; each shared weight once."""
        unused = (f"encoder.layers.{_LAYERS - 1}.", "post_layernorm", "image_tower")
        return parameter_groups(
            (name, parameter) for name, parameter in self.named_parameters() if not any(part in name for part in unused)
        )

    def loss(self, step: int) -> Tensor:
        """The loss of answers and of frame labels on fresh clips."""
        batches, core = self._batches, self.model.model
        warming = step < self._frames_only
        pixels, tracks, scenes = batches.draw(2 * self._batch if warming else self._batch)
        _, hidden = tower_features(core.video_tower, pixels.flatten(0, 1))
        hidden = hidden.unflatten(0, pixels.shape[:2])
        labels = torch.tensor(
            [
                (COLOURS.index(s.subject.colour), SHAPES.index(s.subject.shape), MOTIONS.index(s.motion.kind))
                for s in scenes
            ]
        )
        helped = self.helpers.losses(hidden, tracks, labels)
        if warming:
            self._shown = {name: value.item() for name, value in helped.items()}
            return torch.stack(tuple(helped.values())).sum()
        picture = batches.words.random() < _PICTURE_SHARE
        packed = batches.packer.pack([batches.prompts.draw(scene, batches.words, picture=picture) for scene in scenes])
        seen = hidden[:, 0, 1:] if picture else hidden.flatten(1, 2)
        embedded = core.language_model.embed_tokens(packed.tokens)
        where = (packed.tokens == batches.tokens[0 if picture else 1])[..., None]
        projected = core.multi_modal_projector(seen)
        embedded = embedded.masked_scatter(where, projected)
        states = core.language_model(
            inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        answers, right = answer_loss(states, self.model.lm_head, packed)
        self._score.add(packed, right)
        helped["lookups"] = self.lookups.loss(self._layers.half, packed, [(scene,) for scene in scenes])
        patches = projected if picture else projected.unflatten(1, hidden.shape[1:3])[:, 0, 1:]
        helped["naming"] = naming_loss(patches, core.language_model.embed_tokens, self._words, _named(tracks, labels))
        if not picture:
            rows, columns = torch.nonzero(packed.mask[:, 0, :, VIDEO_TOKENS], as_tuple=True)
            words = self.helpers.word_motion(F.layer_norm(self._layers.half[rows, columns], (WIDTH,)))
            helped["word motion"] = F.cross_entropy(words, labels[rows, 2])
        self._shown = {"answers": answers.item(), **{name: value.item() for name, value in helped.items()}}
        return answers + 0.5 * torch.stack(tuple(helped.values())).sum()

    def describe(self) -> str:
        """Losses of the last step, and the share of right answers since the last call."""
        losses = " ".join(f"{name} {value:.3f}" for name, value in self._shown.items())
        return f"{losses}\n    {self._score.text()}"


def main() -> None:
    """Command line."""
    parser = command_line(__doc__, pool="clips", batch=12)
    parser.add_argument("--frames-only", type=int, default=700, help="steps that teach the vision tower alone")
    arguments = parser.parse_args()
    tokenizer = prepare(arguments)
    tower, warmed = load_tower(arguments.tower)
    model = build_model(tokenizer, tower)
    tokens = (model.config.image_token_id, model.config.video_token_id)
    pool = load_video_pool(arguments.pool)
    batches = Batches(pool, Packer(tokenizer, LLAVA), tokens, arguments.seed)
    trainer = Answering(model, warmed, batches, batch=arguments.batch, frames_only=arguments.frames_only)
    train(arguments, trainer, batches)
    save_video_llava(arguments.out, model, tokenizer)


if __name__ == "__main__":
    main()
