"""Train the demo LLaVA: the demo CLIP's vision tower, enlarged, under a small Llama that answers questions.

    python -m demo.vision_warmup --pool /var/tmp/pool96 --out /var/tmp/tower96.pt
    python -m demo.train_llava --pool /var/tmp/pool96 --tower /var/tmp/tower96.pt --run /var/tmp/llava --steps 3000 \
        --out demo/checkpoints/llava

Patches learn to lie near the words for what they show and to tell where it is, which makes it easy for the language
model to look for what a question names. From a step on the vision tower learns too, from the answers and from its
patch labels. Steps with one picture a prompt alternate with steps of two or three.

With `--start`, a run begins with another run's weights, and with `--tokenizer`, their tokenizer: what the wordings of
today would make is another one.
"""

from __future__ import annotations

import random
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionModel, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from demo import dialogues
from demo.clip_pool import Pool, load_pool
from demo.comparisons import Comparisons, Seen, image_numbers, look_for_ordinals, look_within_images
from demo.generative_checkpoints import save_llava
from demo.generative_tokenizer import IMAGE
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
from demo.llava_prompts import IMAGE_TOKENS, Prompts
from demo.lookups import Lookups, place_codes, placing_loss
from demo.packing import LLAVA, NO_TURN, Chain, Packed, Packer, Score, answer_loss, naming_loss, word_tokens
from demo.scenes import COLOURS, SHAPES, Scene
from demo.vision_batches import Batch, Helpers, draw_pictures
from demo.vision_warmup import MEAN, STD, load_tower, normalised, tower_features

_SEVERAL_SHARE, _BATCHES_SEEN = 0.5, 12
_VISION_RATE, _VISION_WEIGHT, _NAMING_WEIGHT = 0.3, 0.3, 0.3
_PLACING_WEIGHT, _LOOKUP_WEIGHT, _CENTRE_WEIGHT = 1.0, 0.5, 0.2
_COMPARISON_WEIGHTS = {"images": 0.5, "present": 0.5, "same": 1.0, "between": 2.0}


def build_model(tokenizer: PreTrainedTokenizerFast, tower: CLIPVisionModel) -> LlavaForConditionalGeneration:
    """An untrained LLaVA around a warmed-up tower."""
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    start_llama(model.model.language_model, model.lm_head)
    return model


class Batches:
    """Draws the pictures and the dialogues of each step."""

    def __init__(self, pool: Pool, packer: Packer, image_token: int, seed: int) -> None:
        self.pool, self.packer, self.image_token = pool, packer, image_token
        self.rng = np.random.default_rng(seed)
        self.words = random.Random(seed)
        self._prompts = Prompts(packer, image_token)
        subjects = [pool.scene(number).subject for number in range(len(pool.scenes))]
        self._like: dict[str, list[int]] = {}
        for number, item in enumerate(subjects):
            self._like.setdefault(item.shape, []).append(number)
            self._like.setdefault(item.colour, []).append(number)
        self._subjects = subjects

    def draw(self, batch: int, pictures: int) -> tuple[Batch, list[Scene], list[tuple[list[int], list[Chain]]]]:
        """Pictures and scenes, row after row, and the rows of prefix and chains."""
        chosen = np.array([number for _ in range(batch) for number in self._row(pictures)])
        shown = draw_pictures(self.pool, chosen, self.rng, MEAN, STD)
        scenes = [self.pool.scene(number) for number in chosen]
        for place in torch.nonzero(shown.mirrored).flatten().tolist():
            scenes[place] = dialogues.mirrored(scenes[place])
        rows = [
            self._prompts.draw(scenes[start : start + pictures], self.words)
            for start in range(0, len(scenes), pictures)
        ]
        return shown, scenes, rows

    def _row(self, pictures: int) -> list[int]:
        """Pictures of one prompt; a second one often has its subject's shape or colour in common with the first."""
        numbers = [int(self.rng.integers(len(self.pool.scenes)))]
        while len(numbers) < pictures:
            item = self._subjects[numbers[0]]
            kind = self.words.random()
            if kind < 0.6:
                numbers.append(self.words.choice(self._like[item.shape if kind < 0.3 else item.colour]))
            else:
                numbers.append(int(self.rng.integers(len(self.pool.scenes))))
        return numbers


class Answering(Trainer):
    """Model and helper outputs."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        helpers: Helpers,
        batches: Batches,
        *,
        batch: int,
        vision_from: int,
        started: bool,
    ) -> None:
        super().__init__()
        self._started = started
        self.model, self.helpers = model, helpers
        self.lookups = Lookups(batches.packer, WIDTH, model.config.text_config.vocab_size)
        self.comparisons = Comparisons(WIDTH)
        self._layers = LayerStates(model.model.language_model.layers)
        self._vision_from = vision_from
        self._words = [word_tokens(batches.packer, words) for words in (COLOURS, SHAPES)]
        self._batches, self._batch = batches, batch
        self._scores = (Score(), Score())
        self._shown: dict[str, float] = {}

    def groups(self) -> list[dict[str, object]]:
        """What is trained: all but the layer and the norm above the features."""
        tower = self.model.model.vision_tower
        parts = [tower.embeddings, tower.pre_layrnorm, *tower.encoder.layers[:-1], self.helpers]
        seen = [item for part in parts for item in part.named_parameters()]
        rest = [item for item in self.model.named_parameters() if "vision_tower" not in item[0]]
        rest += [*self.lookups.named_parameters(), *self.comparisons.named_parameters()]
        return parameter_groups(rest) + parameter_groups(seen, _VISION_RATE)

    def begin(self) -> None:
        """Have words look for the ordinals that say which picture is meant, and then in that picture."""
        packer, core = self._batches.packer, self.model.model
        shown, _, _ = self._batches.draw(4, 1)
        with torch.no_grad():
            patches = core.multi_modal_projector(self._features(shown)[1][:, 1:]).flatten(0, 1)
        words = torch.nonzero(self.lookups.words >= 0).flatten()
        words = torch.cat([words, word_tokens(packer, ("shape", "colour", "image"))])
        # The last piece where a rare one falls into several.
        ordinals = torch.tensor([packer.encode(f" {word}")[-1] for word in ("first", "second", "third")])
        language = core.language_model
        look_for_ordinals(language.layers[0], language.embed_tokens.weight, patches, words, ordinals)
        if self._started:  # An untrained first layer has nothing to tell the second.
            seen = [self._seen_by_the_second_layer() for _ in range(_BATCHES_SEEN)]
            parts = {field.name: torch.cat([getattr(item, field.name) for item in seen]) for field in fields(Seen)}
            look_within_images(language.layers[1], Seen(**parts))

    @torch.no_grad()
    def _seen_by_the_second_layer(self) -> Seen:
        """Words and patches of prompts with several pictures."""
        pictures = self._batches.words.choice((2, 2, 3))
        shown, _, drawn = self._batches.draw(self._batch // 2, pictures)
        packed = self._batches.packer.pack(drawn)
        language = self.model.model.language_model
        self._answered(packed, self.model.model.multi_modal_projector(self._features(shown)[1][:, 1:]))
        states = language.layers[1].input_layernorm(self._layers.states[0])
        patches = packed.tokens == self._batches.image_token
        words = (self.lookups.words[packed.tokens] >= 0) & (packed.images >= 0)
        others = ~patches & ~words & (packed.images > NO_TURN)
        numbers = image_numbers(patches, pictures)
        return Seen(states[words], packed.images[words], states[patches], numbers[patches], states[others])

    def _features(self, shown: Batch) -> tuple[Tensor, Tensor]:
        return tower_features(self.model.model.vision_tower, shown.pixels)

    def _answered(self, packed: Packed, patches: Tensor) -> Tensor:
        """The states (B, L, width) at the top, with the patches in their places."""
        language = self.model.model.language_model
        where = (packed.tokens == self._batches.image_token)[..., None]
        states: Tensor = language(
            inputs_embeds=language.embed_tokens(packed.tokens).masked_scatter(where, patches),
            attention_mask=packed.mask,
            position_ids=packed.positions,
            use_cache=False,
        ).last_hidden_state
        return states

    def loss(self, step: int) -> Tensor:
        """The loss of answers and of patch labels on fresh pictures."""
        several = self._batches.words.random() < _SEVERAL_SHARE
        pictures = 1 if not several else self._batches.words.choice((2, 2, 2, 3))
        rows = self._batch if pictures == 1 else self._batch // 2
        shown, scenes, drawn = self._batches.draw(rows, pictures)
        packed = self._batches.packer.pack(drawn)
        core = self.model.model
        with torch.set_grad_enabled(step >= self._vision_from):
            early, hidden = self._features(shown)
        patches = core.multi_modal_projector(hidden[:, 1:])
        where = packed.tokens == self._batches.image_token
        states = self._answered(packed, patches)
        answers, right = answer_loss(states, self.model.lm_head, packed)
        self._scores[several].add(packed, right)
        named = naming_loss(patches, core.language_model.embed_tokens, self._words, shown.classes)
        placed = placing_loss(patches, place_codes(shown, scenes))
        grouped = [scenes[start : start + pictures] for start in range(0, len(scenes), pictures)]
        looked = self.lookups.loss(self._layers.half, packed, grouped)
        if several:  # It takes a layer more to look in the picture that is meant, and there only.
            looked = looked + self.lookups.loss(self._layers.states[2], packed, grouped)
        # What is told apart by the first layer can be counted by the second.
        seen_first = self._layers.states[0][where].unflatten(0, (len(scenes), -1))
        centres = self.lookups.centres(seen_first, scenes)
        compared = self.comparisons.losses(self._layers.states, packed, grouped, self.lookups, where)
        self._shown = {"answers": answers.item(), "naming": named.item(), "placing": placed.item()}
        self._shown |= {"lookups": looked.item(), "centres": centres.item()}
        self._shown |= {name: value.item() for name, value in compared.items()}
        loss = answers + _NAMING_WEIGHT * named + _PLACING_WEIGHT * placed
        loss = loss + _LOOKUP_WEIGHT * looked + _CENTRE_WEIGHT * centres
        for name, value in compared.items():
            loss = loss + _COMPARISON_WEIGHTS[name] * value
        if step >= self._vision_from:
            seen = self.helpers.patch_losses(normalised(early), normalised(hidden), shown)
            self._shown |= {name: value.item() for name, value in seen.items()}
            loss = loss + _VISION_WEIGHT * torch.stack(tuple(seen.values())).sum()
        return loss

    def describe(self) -> str:
        """Losses of the last step, and the share of right answers since the last call."""
        losses = " ".join(f"{name} {value:.3f}" for name, value in self._shown.items())
        return f"{losses}\n    one: {self._scores[0].text()}\n    several: {self._scores[1].text()}"


def main() -> None:
    """Command line."""
    parser = command_line(__doc__, pool="pictures", batch=8)
    parser.add_argument("--vision-from", type=int, default=1000, help="step from which the vision tower learns too")
    arguments = parser.parse_args()
    tokenizer = prepare(arguments)
    pool = load_pool(arguments.pool)
    tower, helpers = load_tower(arguments.tower)
    model = build_model(tokenizer, tower)
    batches = Batches(pool, Packer(tokenizer, LLAVA), model.config.image_token_id, arguments.seed)
    trainer = Answering(
        model,
        helpers,
        batches,
        batch=arguments.batch,
        vision_from=arguments.vision_from,
        started=arguments.start is not None,
    )
    train(arguments, trainer, batches)
    save_llava(arguments.out, model, tokenizer)


if __name__ == "__main__":
    main()
