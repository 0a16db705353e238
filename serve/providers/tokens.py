"""How many tokens a request will be billed for, by the providers' published rules: pure arithmetic.

These are estimates for budgets and limits before a call; after it, the provider's own count is what is charged.
"""

from __future__ import annotations

import math
import re
from typing import Literal

Detail = Literal["low", "high", "auto"]

# Tokens around each message: its role and separators (the OpenAI Cookbook on counting with tiktoken has 3 or 4).
MESSAGE_TOKENS = 4

# (pattern of the name, base tokens, tokens a tile): OpenAI, "Images and vision", "Calculating costs".
_TILES = (
    (re.compile(r"gpt-4o-mini"), 2833, 5667),
    (re.compile(r"gpt-5(-chat|$)"), 70, 140),
    (re.compile(r"o[13]"), 75, 150),
    (re.compile(r"computer-use"), 65, 129),
)
_USUAL_TILES = (85, 170)
# (pattern of the name, multiplier of patches): the same page; these models see patches of 32 x 32 pixels.
_PATCHES = (
    (re.compile(r"gpt-4\.1-mini|gpt-5(\.\d)?-mini"), 1.62),
    (re.compile(r"gpt-4\.1-nano|gpt-5(\.\d)?-nano"), 2.46),
    (re.compile(r"o4-mini"), 1.72),
)
_MOST_PATCHES = 1536

_GEMINI_TILE = 258
_GEMINI_SMALL = 384
_GEMINI_TILE_SIDE = 768
_GEMINI_VIDEO_SECOND = 263

_CLAUDE_PIXELS_A_TOKEN = 750
# Models up to 4.6 scale images to 1,568 pixels a side and about 1,600 tokens; later ones to 2,576 and 4,784.
_CLAUDE_EARLIER = re.compile(r"claude-(3|(opus|sonnet)-4(-[0-6])?(-\d{8})?$|haiku-4)")
_CLAUDE_LIMITS = {True: (1568, 1600), False: (2576, 4784)}


def text_tokens(text: str) -> int:
    """Tokens of a text: a third of its UTF-8 bytes, rounded up.

    A token is about 4 characters of English (https://help.openai.com/en/articles/4936856 and Google's "Understand and
    count tokens"), and about one character of Chinese, which has 3 bytes; so this is rather too many than too few.
    """
    return math.ceil(len(text.encode()) / 3)


def openai_image_tokens(width: int, height: int, detail: Detail, model: str) -> int:
    """Tokens of an image at an OpenAI model.

    https://platform.openai.com/docs/guides/images-vision#calculating-costs: with `low`, a base; else the image is
    scaled to fit 2048 x 2048, then to a shorter side of 768, and each 512-pixel tile counts on top of the base. `auto`
    counts as `high`, which it may turn out to be. Small models see patches of 32 pixels instead, at most 1,536, whose
    count is multiplied by the model's factor.

    Args:
        width: pixels, as sent.
        height: pixels, as sent.
    """
    for pattern, factor in _PATCHES:
        if pattern.match(model):
            return math.ceil(_patches(width, height) * factor)
    base, tile = next(((base, tile) for pattern, base, tile in _TILES if pattern.match(model)), _USUAL_TILES)
    if detail == "low":
        return base
    width_, height_ = _fit(width, height, 2048)
    shrink = min(1.0, 768 / min(width_, height_))
    return base + tile * math.ceil(width_ * shrink / 512) * math.ceil(height_ * shrink / 512)


def gemini_image_tokens(width: int, height: int) -> int:
    """Tokens of an image at Gemini: 258 where both sides are at most 384 pixels, else 258 for each 768-pixel tile.

    https://ai.google.dev/gemini-api/docs/tokens, "Multimodal tokens".
    """
    if max(width, height) <= _GEMINI_SMALL:
        return _GEMINI_TILE
    return _GEMINI_TILE * math.ceil(width / _GEMINI_TILE_SIDE) * math.ceil(height / _GEMINI_TILE_SIDE)


def gemini_video_tokens(seconds: float, fps: float = 1.0) -> int:
    """Tokens of a video at Gemini: 263 a second at one frame a second (the same page).

    Of those, 258 are the frame's, which there are more or fewer of at another rate.
    """
    frames_a_second = _GEMINI_TILE * fps + (_GEMINI_VIDEO_SECOND - _GEMINI_TILE)
    return math.ceil(seconds * frames_a_second)


def anthropic_image_tokens(width: int, height: int, model: str) -> int:
    """Tokens of an image at Claude: width x height / 750, after the API has scaled a large one down.

    https://platform.claude.com/docs/en/build-with-claude/vision, "Calculate image costs".
    """
    side, most = _CLAUDE_LIMITS[_CLAUDE_EARLIER.match(model) is not None]
    width_, height_ = _fit(width, height, side)
    return min(most, math.ceil(width_ * height_ / _CLAUDE_PIXELS_A_TOKEN))


def _patches(width: int, height: int) -> int:
    """Patches of 32 pixels that cover the image once it is scaled so that there are at most 1,536."""
    count = math.ceil(width / 32) * math.ceil(height / 32)
    if count <= _MOST_PATCHES:
        return count
    scale = math.sqrt(32**2 * _MOST_PATCHES / (width * height))
    wide, high = width * scale / 32, height * scale / 32
    scale *= min(math.floor(wide) / wide, math.floor(high) / high)
    return min(_MOST_PATCHES, math.ceil(width * scale / 32) * math.ceil(height * scale / 32))


def _fit(width: float, height: float, side: int) -> tuple[float, float]:
    """The size within a square of `side`, never larger than it was."""
    scale = min(1.0, side / max(width, height))
    return width * scale, height * scale
