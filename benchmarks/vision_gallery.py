"""Every task of Florence-2 on a generated scene and on a photograph, asked of a running server; makes docs/vision.md.

    argus up --profile demo --detach
    python -m benchmarks.vision_gallery --url http://127.0.0.1:8000

The demo checkpoint knows the scene world only: its answers about the photograph show the path, not a skill.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from demo.scenes import Box, detections, grounded_caption, label, printed_text, render, sample_scene

_FOLDER = Path(__file__).parent.parent / "docs"
_SIZE = 384
_SCENE = 41
_QUALITY = 80
#: What an answer may hold that has a place in the picture.
_PLACED = ("boxes", "quads", "polygons")

Region = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Subject:
    """A picture, and what tasks that need a text or a region are given; `word` is the region that is read."""

    name: str
    pixels: NDArray[np.uint8]
    texts: dict[str, str]
    region: Region
    word: Region


def scene_subject() -> Subject:
    """A held-out scene with a word."""
    scene = sample_scene(_SCENE, split="test", difficulty="medium", word=True)
    box = detections(scene, _SIZE)[0].box
    name = label(scene.subject)
    texts = {
        "phrase-grounding": grounded_caption(scene, _SIZE).text,
        "referring-segmentation": f"the {name}",
        "open-vocabulary-detection": name,
    }
    printed = printed_text(scene, _SIZE)
    assert printed is not None, "the scene was asked to have a word"
    return Subject("scene", render(scene, _SIZE), texts, _region(box), _region(printed.box))


def _region(box: Box) -> Region:
    return box.left, box.top, box.right, box.bottom


def photo_subject() -> Subject:
    """scikit-image's photograph of a cat."""
    texts = {
        "phrase-grounding": "a cat with green eyes",
        "referring-segmentation": "the cat",
        "open-vocabulary-detection": "cat",
    }
    return Subject(
        "photo", np.asarray(skimage.data.chelsea()), texts, (100.0, 60.0, 300.0, 250.0), (100.0, 60.0, 300.0, 250.0)
    )


def answers(client: httpx.Client, subject: Subject) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each task with its answer, all from one request."""
    tasks = client.get("/v1/vision").raise_for_status().json()["data"]
    asked = [
        {"task": task["task"]}
        | ({"text": subject.texts[task["task"]]} if task["needs"] == "text" else {})
        | ({"region": _asked_region(subject, task["task"])} if task["needs"] == "region" else {})
        for task in tasks
    ]
    buffer = io.BytesIO()
    Image.fromarray(subject.pixels).save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    body = {"image": image, "tasks": asked, "render": True}
    answered = client.post("/v1/vision", json=body, timeout=300.0).raise_for_status().json()
    yield from zip(asked, answered["results"][0]["answers"], strict=True)


def _asked_region(subject: Subject, task: str) -> Region:
    return subject.word if task == "region-ocr" else subject.region


def in_words(answer: dict[str, Any]) -> str:
    """What a task answered, on one line of a table."""
    if "error" in answer:
        return f"error: {answer['error']['code']}"
    parts: list[str] = [answer["text"] or "(nothing)"] if "text" in answer else []
    parts += [f"{found['label'] or 'box'} {[round(x) for x in found['box']]}" for found in answer.get("boxes", ())]
    parts += [f"{quad['text']} {[round(x) for x in quad['points'][0]]}.." for quad in answer.get("quads", ())]
    parts += [
        f"{found['label'] or 'outline'} of {len(found['rings'][0])} points" for found in answer.get("polygons", ())
    ]
    return "; ".join(parts).replace("|", "\\|") or "(nothing)"


def has_a_place(asked: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether there is something to draw onto the picture; the other answers are words alone, or nothing."""
    return "annotated" in answer and ("region" in asked or any(answer.get(kind) for kind in _PLACED))


def gallery(client: httpx.Client, folder: Path) -> str:
    """The page, its pictures written beside it in place of those that an earlier run wrote."""
    pictures = folder / "vision"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.jpg"):
        old.unlink()
    columns = [column(client, subject, pictures) for subject in (scene_subject(), photo_subject())]
    rows = [f"| `{task}` | {columns[0][task]} | {columns[1][task]} |" for task in columns[0]]
    return "\n".join(
        [
            "# Florence-2: every task on a scene and on a photograph",
            "",
            "The demo checkpoint knows the scene world only: its answers about the photograph (scikit-image's",
            "cat) show the path, not a skill. Places are pixels; a region that was asked about is outlined in black.",
            "Made by `python -m benchmarks.vision_gallery`.",
            "",
            "| task | scene | photograph |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def column(client: httpx.Client, subject: Subject, folder: Path) -> dict[str, str]:
    """What each task says about a picture, as a table's cell: words, and below them the drawing."""
    cells: dict[str, str] = {}
    for asked, answer in answers(client, subject):
        task = asked["task"]
        given = asked.get("text") or ("the region" if "region" in asked else "")
        cells[task] = f"{f'({given}) ' if given else ''}{in_words(answer)}"
        if has_a_place(asked, answer):
            file = folder / f"{subject.name}-{task}.jpg"
            with Image.open(io.BytesIO(base64.b64decode(answer["annotated"].partition(",")[2]))) as drawn:
                drawn.convert("RGB").save(file, quality=_QUALITY)
            cells[task] += f"<br>![{subject.name}: {task}]({folder.name}/{file.name})"
    return cells


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where vision.md and vision/ are written")
    arguments = parser.parse_args()
    with httpx.Client(base_url=arguments.url) as client:
        (arguments.folder / "vision.md").write_text(gallery(client, arguments.folder), encoding="utf-8")


if __name__ == "__main__":
    main()
