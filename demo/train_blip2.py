"""Train the demo BLIP-2: captions and questions about pictures, through queries that lie on a grid.

    python -m demo.vision_warmup --pool /var/tmp/pool96 --out /var/tmp/tower96.pt
    python -m demo.train_blip2 --pool /var/tmp/pool96 --tower /var/tmp/tower96.pt --run /var/tmp/blip2 --steps 3000 \
        --out demo/checkpoints/blip2

Beside the answers, every query learns to name what lies in its block of patches, by outputs that are dropped at the
end. In the first steps the tower learns on, to make up for what it lost in its move from CLIP's form to BLIP-2's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name
from torch import Tensor, nn
from transformers import Blip2ForConditionalGeneration

from demo import dialogues
from demo.blip2_model import QUERIES, QUERY_GRID, build_model
from demo.clip_pool import IGNORED, Pool, load_pool
from demo.dialogues import Turn
from demo.generative_checkpoints import save_blip2
from demo.generative_training import WIDTH, LayerStates, Trainer, command_line, parameter_groups, prepare, train
from demo.lookups import Lookups, place_codes, placing_loss
from demo.packing import BLIP, Chain, Packer, Score, answer_loss, naming_loss, word_tokens
from demo.scenes import COLOURS, SHAPES, Scene, caption
from demo.vision_batches import Batch, Helpers, draw_pictures
from demo.vision_warmup import MEAN, STD, load_tower, normalised

_BUDGET = 150
_VISION_RATE, _VISION_WEIGHT, _HELPER_WEIGHT = 0.3, 0.3, 0.5
#: What may stand before a caption; nothing is what BLIP-2's own examples use.
_CAPTION_PROMPTS = ("", "", "a picture of", "a photo of", "an image of", "this is a picture of")


class QueryHelpers(nn.Module):
    """Outputs that exist only while training: what lies in each query's block."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Linear(WIDTH, len(COLOURS) + 1)
        self.shape = nn.Linear(WIDTH, len(SHAPES) + 1)

    def loss(self, queries: Tensor, blocks: Tensor) -> Tensor:
        """For queries (B, Q, width) and the blocks' colour and shape numbers (B, 2, Q)."""
        losses = []
        for place, output in enumerate((self.colour, self.shape)):
            weights = torch.ones(output.out_features)
            weights[0] = 0.15
            labels = blocks[:, place].flatten()
            losses.append(F.cross_entropy(output(queries).flatten(0, 1), labels, weights, ignore_index=IGNORED))
        return torch.stack(losses).sum()


def block_classes(classes: Tensor) -> Tensor:
    """Colour and shape numbers (B, 2, Q) of blocks of patches (B, 2, G G): an object's, where there is one."""
    grid = int(classes.shape[-1] ** 0.5)
    block = grid // QUERY_GRID
    blocks = classes.reshape(-1, 2, QUERY_GRID, block, QUERY_GRID, block).permute(0, 1, 2, 4, 3, 5)
    blocks = blocks.reshape(-1, 2, QUERIES, block * block)
    labels = blocks.masked_fill(blocks == IGNORED, -1).amax(dim=-1)
    return labels.masked_fill(labels < 0, IGNORED)


def block_codes(batch: Batch, scenes: Sequence[Scene]) -> Tensor:
    """The patches' place codes, for blocks (B, Q, 6): of each number the one that says most."""
    codes = place_codes(batch, scenes)
    grid = int(codes.shape[1] ** 0.5)
    block = grid // QUERY_GRID
    blocks = codes.reshape(-1, QUERY_GRID, block, QUERY_GRID, block, codes.shape[-1]).permute(0, 1, 3, 5, 2, 4)
    blocks = blocks.reshape(-1, QUERIES, codes.shape[-1], block * block)
    best = blocks.gather(-1, blocks.abs().argmax(dim=-1, keepdim=True)).squeeze(-1)
    return torch.cat([blocks[:, :, :2].mean(dim=-1), best[:, :, 2:]], dim=-1)


class Batches:
    """Draws the pictures and the dialogues of each step."""

    def __init__(self, pool: Pool, packer: Packer, image_token: int, seed: int) -> None:
        self.pool, self.packer, self.image_token = pool, packer, image_token
        self.rng = np.random.default_rng(seed)
        self.words = random.Random(seed)

    def draw(self, batch: int) -> tuple[Batch, list[Scene], list[tuple[list[int], list[Chain]]]]:
        """Pictures, their scenes, and a row of prefix and chains for each."""
        chosen = np.sort(self.rng.choice(len(self.pool.scenes), batch, replace=False))
        shown = draw_pictures(self.pool, chosen, self.rng, MEAN, STD)
        scenes = [self.pool.scene(number) for number in chosen]
        for place in torch.nonzero(shown.mirrored).flatten().tolist():
            scenes[place] = dialogues.mirrored(scenes[place])
        return shown, scenes, [([self.image_token] * QUERIES, self._chains(scene)) for scene in scenes]

    def _chains(self, scene: Scene) -> list[Chain]:
        rng, packer = self.words, self.packer
        chains: list[Chain] = []
        for prompt in rng.sample(_CAPTION_PROMPTS, 2):
            turn = Turn("plain caption", "", caption(scene, "brief"))
            chains.append(packer.chain([turn], opening=[packer.bos], first=prompt))
        budget = _BUDGET
        while budget > 0:
            turns = [dialogues.draw_turn(scene, rng, dialogues.HARDER) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]
            # Chat endpoints leave out the opening token, BLIP-2's own processor does not.
            chains.append(packer.chain(turns, opening=[packer.bos] if rng.random() < 0.75 else []))
            budget -= len(chains[-1].tokens)
        return chains


class Answering(Trainer):
    """Model and helper outputs."""

    def __init__(
        self,
        model: Blip2ForConditionalGeneration,
        helpers: Helpers,
        batches: Batches,
        *,
        batch: int,
        vision_until: int,
    ) -> None:
        super().__init__()
        self._vision_until = vision_until
        self.model, self.helpers, self.queries = model, helpers, QueryHelpers()
        self.lookups = Lookups(batches.packer, WIDTH, model.config.text_config.vocab_size)
        self._layers = LayerStates(model.language_model.model.decoder.layers)
        self._words = [word_tokens(batches.packer, words) for words in (COLOURS, SHAPES)]
        self._batches, self._batch = batches, batch
        self._score = Score()
        self._shown: dict[str, float] = {}

    def groups(self) -> list[dict[str, object]]:
        """What is trained: everything, the tower at a lower rate."""
        named = list(self.named_parameters())
        rest = [item for item in named if "vision_model" not in item[0]]
        return parameter_groups(rest) + parameter_groups(
            [item for item in named if "vision_model" in item[0]], _VISION_RATE
        )

    def loss(self, step: int) -> Tensor:
        """The loss of answers, of queries and of patch labels on fresh pictures."""
        model = self.model
        shown, scenes, rows = self._batches.draw(self._batch)
        packed = self._batches.packer.pack(rows)
        seeing = step < self._vision_until
        with torch.set_grad_enabled(seeing):
            early, hidden = self._features(shown.pixels)
        seen = model.vision_model.post_layernorm(hidden)
        queries = model.qformer(
            query_embeds=model.query_tokens.expand(len(seen), -1, -1), encoder_hidden_states=seen
        ).last_hidden_state
        decoder = model.language_model.model.decoder
        embedded = decoder.embed_tokens(packed.tokens)
        where = (packed.tokens == self._batches.image_token)[..., None]
        projected = model.language_projection(queries)
        embedded = embedded.masked_scatter(where, projected)
        states = decoder(
            inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        answers, right = answer_loss(states, model.language_model.lm_head, packed)
        self._score.add(packed, right)
        blocks = block_classes(shown.classes)
        helped = {
            "queries": self.queries.loss(queries, blocks),
            "naming": 0.5 * naming_loss(projected, decoder.embed_tokens, self._words, blocks),
            "placing": 2.0 * placing_loss(projected, block_codes(shown, scenes)),
            "lookups": self.lookups.loss(self._layers.half, packed, [(scene,) for scene in scenes]),
            "centres": 0.4 * self.lookups.centres(self._layers.half[:, :QUERIES], scenes),
        }
        self._shown = {"answers": answers.item(), **{name: value.item() for name, value in helped.items()}}
        loss = answers + _HELPER_WEIGHT * torch.stack(tuple(helped.values())).sum()
        if seeing:
            patches = self.helpers.patch_losses(normalised(early), normalised(hidden), shown)
            self._shown |= {name: value.item() for name, value in patches.items()}
            loss = loss + _VISION_WEIGHT * torch.stack(tuple(patches.values())).sum()
        return loss

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (B, 1 + G G, width) of the tower half way up and at its top, before the last norm."""
        tower = self.model.vision_model
        hidden = early = tower.embeddings(pixels)
        layers = tower.encoder.layers
        for number, layer in enumerate(layers):
            hidden = layer(hidden)
            if number + 1 == len(layers) // 2:
                early = hidden
        return early, hidden

    def describe(self) -> str:
        """Losses of the last step, and the share of right answers since the last call."""
        losses = " ".join(f"{name} {value:.3f}" for name, value in self._shown.items())
        return f"{losses}\n    {self._score.text()}"


def main() -> None:
    """Command line."""
    parser = command_line(__doc__, pool="pictures", batch=8)
    parser.add_argument("--vision-until", type=int, default=150, help="step up to which the vision tower learns")
    arguments = parser.parse_args()
    tokenizer = prepare(arguments)
    pool = load_pool(arguments.pool)
    tower, helpers = load_tower(arguments.tower)
    typical = draw_pictures(pool, np.arange(64), np.random.default_rng(arguments.seed), MEAN, STD).pixels
    model = build_model(tokenizer, tower, typical)
    batches = Batches(pool, Packer(tokenizer, BLIP), model.config.image_token_id, arguments.seed)
    trainer = Answering(model, helpers, batches, batch=arguments.batch, vision_until=arguments.vision_until)
    train(arguments, trainer, batches)
    save_blip2(arguments.out, model, tokenizer)


if __name__ == "__main__":
    main()
