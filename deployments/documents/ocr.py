"""Printed text by RapidOCR: PaddleOCR's detector and recogniser on ONNX Runtime, with the models its wheel carries.

RapidOCR fetches a model that is not there, from a host of its choosing. Here every model is named by its path in the
wheel, which it never replaces, and a wheel without them is an error at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidocr import RapidOCR
from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError
from rapidocr.utils.output import RapidOCROutput

from deployments.documents.messages import Box, Quad
from deployments.documents.segments import Word
from serve.errors import ConfigError

_MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
}
# The detector's boxes stand this share of their height away from the letters on each side (its `unclip_ratio`), above
# and below. What is layout works on the letters' own height.
_MARGIN = 0.06
# The engine shrinks a picture to a longest side and then enlarges it to a shortest one: of a strip that leaves nothing,
# or it takes all memory. None is longer than so many times its width when it is read.
_LONGEST = 8
# ONNX Runtime has no error of its own for memory: the allocator's words end what it says.
_OUT_OF_MEMORY = ("std::bad_alloc", "Failed to allocate memory")


class OcrEngine:
    """One engine for one thread at a time.

    Args:
        threads: of each forward pass.

    Raises:
        ConfigError: the installed rapidocr does not carry the models.
    """

    def __init__(self, threads: int) -> None:
        folder = Path(str(files("rapidocr"))) / "models"
        for name in _MODELS.values():
            if not (folder / name).is_file():
                raise ConfigError(f"The installed rapidocr lacks {name}; reinstall a release whose wheel carries it.")
        models = {f"{part}.model_path": str(folder / name) for part, name in _MODELS.items()}
        self._engine = RapidOCR(
            params={
                **models,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Global.log_level": "error",
                "Global.return_word_box": True,
                # Its classifier of upside-down lines turns some upright ones too, and those are lost.
                "Global.use_cls": False,
            }
        )

    def words(self, pixels: npt.NDArray[np.uint8]) -> list[Word]:
        """The words of a picture, with their places in its pixels.

        Args:
            pixels: (height, width, 3) uint8 RGB.

        Raises:
            MemoryError: a forward pass found too little.
        """
        short = -(-max(pixels.shape[:2]) // _LONGEST)
        height, width = (max(0, short - side) for side in pixels.shape[:2])
        if height or width:
            pixels = np.pad(pixels, ((0, height), (0, width), (0, 0)), constant_values=255)
        try:
            found = self._engine(np.ascontiguousarray(pixels[:, :, ::-1]))  # it was trained on BGR, as OpenCV reads
        except ONNXRuntimeError as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                raise MemoryError from error
            raise
        if not isinstance(found, RapidOCROutput) or found.boxes is None:
            return []
        words: list[Word] = []
        texts, scores = found.txts or (), found.scores or ()
        placed: Any = found.word_results
        if len(placed) != len(texts):  # it leaves out lines that it found no words in
            placed = [()] * len(texts)
        for corners, text, score, pieces in zip(found.boxes, texts, scores, placed, strict=True):
            line = [(word.strip(), _quad(quad)) for word, _, quad in pieces if word.strip()]
            # Words are placed by where the recogniser read them; when it lost count, the line stands for them.
            if "".join(word for word, _ in line) != "".join(text.split()):
                line = [(text.strip(), _quad(corners))]
            words += [Word(word, _box(quad), float(score), quad) for word, quad in line]
        return words


def _quad(corners: Sequence[Sequence[float]]) -> Quad:
    a, b, c, d = ((float(x), float(y)) for x, y in corners)
    return a, b, c, d


def _box(quad: Quad) -> Box:
    """The upright box of the letters: a slanted line's is taken at its middle, so that it stays as high as a line."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = quad
    top, bottom = (ay + by) / 2, (cy + dy) / 2
    margin = _MARGIN * (bottom - top)
    return Box(min(ax, dx), top + margin, max(bx, cx), bottom - margin)
