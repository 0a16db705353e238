"""What a vision-language model needs of a memory, from its config alone. Pure: no torch, no hub, no files.

Weights are counted exactly, as the architecture is built by transformers; `tests/unit/test_sizing.py` compares. The KV
cache of a token is exact too. Activations are coarse: the widest tensors of one step, in one allocation each.
Sizes are in bytes; a memory budget is in GB of 1e9 bytes, as everywhere (`deployments.gpu`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deployments.generation.published import DEFAULTS

Quantization = Literal["none", "int8", "4bit"]
Config = Mapping[str, Any]

_DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
# bitsandbytes' NF4 keeps one float32 scale for 64 weights (Dettmers et al. 2023, "QLoRA", section 3).
_NF4_BYTES = 0.5 + 4 / 64
# Pictures that the vision tower reads at once for one medium. LLaVA-NeXT cuts an image into at most four tiles and adds
# the whole; a video has `video_frames`, 8 by default.
_PICTURES: Mapping[str, int] = {"llava_next": 5, "video_llava": 8, "llava_next_video": 8}
_KINDS = ("llava", "llava_next", "video_llava", "llava_next_video", "blip-2")


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of a model or a part of it.

    Attributes:
        linear: in matrices that quantisation replaces.
        rows: of those matrices together; 8-bit quantisation keeps a scale for each.
        other: the rest: embeddings, the head over the vocabulary, convolutions, biases, norms.
    """

    linear: int = 0
    rows: int = 0
    other: int = 0

    @property
    def count(self) -> int:
        """All parameters."""
        return self.linear + self.other

    def __add__(self, more: Weights) -> Weights:
        return Weights(self.linear + more.linear, self.rows + more.rows, self.other + more.other)

    def __mul__(self, times: int) -> Weights:
        return Weights(self.linear * times, self.rows * times, self.other * times)

    def size(self, dtype: str, quantization: Quantization) -> int:
        """Bytes in memory."""
        width = _DTYPE_BYTES[dtype]
        match quantization:
            case "none":
                return self.count * width
            case "int8":
                return self.linear + 4 * self.rows + self.other * width
            case "4bit":
                return round(self.linear * _NF4_BYTES) + self.other * width


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model needs, in bytes.

    Attributes:
        weights: loaded.
        kv_per_token: cache for one token of one sequence, prompt or answer.
        activations: of one step, coarse.
    """

    weights: int
    kv_per_token: int
    activations: int

    def total(self, tokens: int) -> int:
        """With a cache of so many tokens, over all sequences together."""
        return self.weights + self.activations + self.kv_per_token * tokens

    def tokens_within(self, budget: float) -> int:
        """Tokens whose cache fits into so many bytes beside weights and activations; 0 if these alone do not fit."""
        return max(0, int(budget - self.weights - self.activations) // self.kv_per_token)


def plan(
    config: Config,
    dtype: str,
    quantization: Quantization = "none",
    *,
    step_tokens: int = 2048,
    sequences: int = 32,
) -> MemoryPlan:
    """The memory plan of a checkpoint.

    Args:
        config: its config.json (`published.config_of` knows those of published ids); what it leaves out has the
            default of transformers' class.
        dtype: `float32`, `float16` or `bfloat16`; the KV cache has it too.
        step_tokens: tokens that the engine computes in one step.
        sequences: answers in progress at once.

    Raises:
        ValueError: an architecture that is not known here; the message names it.
    """
    width = _DTYPE_BYTES[dtype]
    vision = _part(config, "vision_config", _vision_type(config))
    text = _part(config, "text_config", "opt" if _kind(config) == "blip-2" else "llama")
    hidden, inner, vocabulary = _text_widths(text)
    # Residual, normed input, attention's output and q, k, v; a gated feed-forward holds three of its inner width.
    language = step_tokens * (6 * hidden + 3 * inner) * width
    # Logits are float32, and sampling sorts a copy.
    logits = 2 * sequences * vocabulary * 4
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    pictures = _PICTURES.get(_kind(config), 1)
    tower = pictures * tokens * (6 * vision["hidden_size"] + 2 * vision["intermediate_size"]) * width
    return MemoryPlan(weights(config).size(dtype, quantization), kv_per_token(config, dtype), language + logits + tower)


def weights(config: Config) -> Weights:
    """Parameters of a checkpoint.

    Raises:
        ValueError: see `plan`.
    """
    kind = _kind(config)
    vision = _part(config, "vision_config", _vision_type(config))
    if kind == "blip-2":
        text = _part(config, "text_config", "opt")
        queries = _part(config, "qformer_config", "blip_2_qformer")
        width = queries["hidden_size"]
        prefix = Weights(other=config.get("num_query_tokens", 32) * width)
        projection = _linear(width, _text_widths(text)[0])
        return _blip2_vision(vision) + _qformer(queries) + prefix + projection + _language(text)
    text = _part(config, "text_config", "llama")
    hidden = text["hidden_size"]
    bias = config.get("multimodal_projector_bias", True)
    projector = _linear(vision["hidden_size"], hidden, bias) + _linear(hidden, hidden, bias)
    towers = _clip_vision(vision) * (2 if kind == "video_llava" else 1)
    newline = Weights(other=hidden if kind in ("llava_next", "llava_next_video") else 0)
    return towers + projector + newline + _language(text)


def kv_per_token(config: Config, dtype: str) -> int:
    """Bytes of keys and values that all layers keep for one token.

    Raises:
        ValueError: see `plan`.
    """
    text = _part(config, "text_config", "opt" if _kind(config) == "blip-2" else "llama")
    if text["model_type"] == "t5":
        # A decoder layer keeps them for its own tokens, and another set for the encoder's.
        width = text["num_heads"] * text["d_kv"]
        layers = text.get("num_decoder_layers") or text["num_layers"]
    else:
        heads = text.get("num_key_value_heads") or text["num_attention_heads"]
        width, layers = heads * _head_dim(text), text["num_hidden_layers"]
    return int(2 * layers * width * _DTYPE_BYTES[dtype])


def _kind(config: Config) -> str:
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise ValueError(f"model_type is {kind!r}; known are {', '.join(_KINDS)}")
    return str(kind)


def _vision_type(config: Config) -> str:
    return "blip_2_vision_model" if _kind(config) == "blip-2" else "clip_vision_model"


def _part(config: Config, key: str, default_type: str) -> dict[str, Any]:
    """A part's config, completed with the defaults of its `model_type`.

    Raises:
        ValueError: a part of a type that is not known here.
    """
    given = {name: value for name, value in (config.get(key) or {}).items() if value is not None}
    kind = given.get("model_type", default_type)
    if kind not in DEFAULTS:
        raise ValueError(f"{key}.model_type is {kind!r}; known are {', '.join(sorted(DEFAULTS))}")
    return {**DEFAULTS[kind], **given, "model_type": kind}


def _text_widths(text: Config) -> tuple[int, int, int]:
    """Hidden width, the feed-forward's inner width, and the vocabulary's size."""
    names = {"t5": ("d_model", "d_ff"), "opt": ("hidden_size", "ffn_dim")}
    hidden, inner = names.get(text["model_type"], ("hidden_size", "intermediate_size"))
    return text[hidden], text[inner], text["vocab_size"]


def _head_dim(text: Config) -> int:
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])


def _linear(wide: int, high: int, bias: bool = True) -> Weights:
    return Weights(wide * high, high, high if bias else 0)


def _language(text: Config) -> Weights:
    match text["model_type"]:
        case "opt":
            return _opt(text)
        case "t5":
            return _t5(text)
        case _:
            return _llama(text)


def _llama(text: Config) -> Weights:
    """Llama and Mistral: attention without biases, gated feed-forward, RMS norms."""
    hidden, inner, vocabulary = _text_widths(text)
    queries = text["num_attention_heads"] * _head_dim(text)
    keys = (text.get("num_key_value_heads") or text["num_attention_heads"]) * _head_dim(text)
    attention = _linear(hidden, queries, False) + _linear(hidden, keys, False) * 2 + _linear(queries, hidden, False)
    layer = attention + _linear(hidden, inner, False) * 2 + _linear(inner, hidden, False) + Weights(other=2 * hidden)
    # The head is not quantised, so it counts with the embeddings.
    tables = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return layer * int(text["num_hidden_layers"]) + Weights(other=tables + hidden)


def _opt(text: Config) -> Weights:
    """OPT: learned positions (two more than it says), head tied to the embeddings."""
    hidden, inner, vocabulary = _text_widths(text)
    embedded = text.get("word_embed_proj_dim") or hidden
    norm = Weights(other=2 * hidden)
    layer = _linear(hidden, hidden) * 4 + _linear(hidden, inner) + _linear(inner, hidden) + norm * 2
    tables = vocabulary * embedded + (text["max_position_embeddings"] + 2) * hidden
    made = layer * int(text["num_hidden_layers"]) + Weights(other=tables) + norm
    return made if embedded == hidden else made + _linear(embedded, hidden, False) + _linear(hidden, embedded, False)


def _t5(text: Config) -> Weights:
    """T5, T5 1.1 and FLAN-T5: relative positions in the first layer of each stack.

    A config that says the head is not tied is believed: transformers' class ties it, but FLAN-T5's files hold one.
    """
    width, inner, vocabulary = _text_widths(text)
    heads = text["num_heads"] * text["d_kv"]
    norm = Weights(other=width)
    attention = _linear(width, heads, False) * 3 + _linear(heads, width, False) + norm
    up = 2 if str(text["feed_forward_proj"]).startswith("gated") else 1
    feed = _linear(width, inner, False) * up + _linear(inner, width, False) + norm
    encoder = (attention + feed) * int(text["num_layers"])
    decoder = (attention * 2 + feed) * int(text.get("num_decoder_layers") or text["num_layers"])
    positions = Weights(other=2 * text["relative_attention_num_buckets"] * text["num_heads"])
    tables = vocabulary * width * (1 if text.get("tie_word_embeddings", True) else 2)
    return encoder + decoder + positions + norm * 2 + Weights(other=tables)


def _transformer_layer(hidden: int, inner: int) -> Weights:
    """A vision transformer's layer: attention of four matrices, feed-forward of two, two norms."""
    return _linear(hidden, hidden) * 4 + _linear(hidden, inner) + _linear(inner, hidden) + Weights(other=4 * hidden)


def _clip_vision(vision: Config) -> Weights:
    hidden, patch = vision["hidden_size"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    embeddings = vision["num_channels"] * patch * patch * hidden + (patches + 2) * hidden
    layers = _transformer_layer(hidden, vision["intermediate_size"]) * int(vision["num_hidden_layers"])
    return layers + Weights(other=embeddings + 4 * hidden)


def _blip2_vision(vision: Config) -> Weights:
    hidden, patch = vision["hidden_size"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    embeddings = 3 * patch * patch * hidden + hidden + (patches + 2) * hidden
    layers = _transformer_layer(hidden, vision["intermediate_size"]) * int(vision["num_hidden_layers"])
    # The bias of q, k and v is one parameter, which holds zeros for the keys: it counts like three.
    return layers + Weights(other=embeddings + 2 * hidden)


def _qformer(queries: Config) -> Weights:
    """Q-Former: every second layer also attends to the image."""
    width, inner, image = queries["hidden_size"], queries["intermediate_size"], queries["encoder_hidden_size"]
    norm = Weights(other=2 * width)
    own = _linear(width, width) * 4 + norm
    cross = _linear(width, width) * 2 + _linear(image, width) * 2 + norm
    feed = _linear(width, inner) + _linear(inner, width) + norm
    layers = int(queries["num_hidden_layers"])
    crossing = -(-layers // int(queries["cross_attention_frequency"]))
    return (own + feed) * layers + cross * crossing + norm
