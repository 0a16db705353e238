"""`argus call`: classify, ask, embed, search and render from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.table import Table

from serve.cli.console import JsonOption, output
from serve.cli.status import address, asked
from serve.errors import InvalidRequest
from serve.scenes.cameras import AZIMUTH_DEG, ELEVATION_DEG

app = typer.Typer(help="Send one request to a running cluster.", no_args_is_help=True)
_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".exr": "exr"}

UrlOption = Annotated[str | None, typer.Option("--url", help="Address of a cluster elsewhere.")]
NameOption = Annotated[str, typer.Option("--name", help="Name of a cluster on this machine.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model; the cluster's first one by default.")]


@app.command()
def classify(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    labels: Annotated[list[str], typer.Argument(help="Candidate labels.")],
    templates: Annotated[str, typer.Option(help="Template set, or a prompt with one {}.")] = "default",
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Independent probabilities.")] = False,
    model: ModelOption = None,
    name: NameOption = "demo",
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Zero-shot classification of an image."""
    fields: dict[str, Any] = {"labels": json.dumps(labels), "templates": templates, "multi_label": str(multi_label)}
    answer = _post(url or address(name), "/v1/classify", fields, model, image)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    table = Table("label", "probability")
    for score in answer["results"][0]["scores"]:
        table.add_row(score["label"], f"{score['probability']:.4f}")
    output.print(table)


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    question: Annotated[str | None, typer.Argument(help="A question about it; a caption when left out.")] = None,
    model: ModelOption = None,
    name: NameOption = "demo",
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """An answer to a question about an image, or its caption."""
    where = url or address(name)
    if question is None:
        answer = _post(where, "/v1/caption", {}, model, image)
    else:
        answer = _post(where, "/v1/vqa", {"question": question}, model, image)
    result = answer["results"][0]
    typer.echo(json.dumps(answer, indent=2) if as_json else result.get("answer", result.get("caption")))


@app.command()
def embed(
    content: Annotated[str, typer.Argument(help="An image file, or a text.")],
    model: ModelOption = None,
    name: NameOption = "demo",
    url: UrlOption = None,
) -> None:
    """Embedding of an image file or a text, as one line of JSON numbers."""
    where = url or address(name)
    if _is_file(content):
        answer = _post(where, "/v1/embeddings", {}, model, Path(content))
    else:
        answer = _send(where, "/v1/embeddings", json={"input": content} | ({"model": model} if model else {}))
    typer.echo(json.dumps(answer["data"][0]["embedding"]))


@app.command()
def search(
    index: Annotated[str, typer.Argument(help="Name of the index.")],
    content: Annotated[str, typer.Argument(help="An image file, or a text.")],
    k: Annotated[int, typer.Option(help="Most hits.")] = 10,
    filter: Annotated[str | None, typer.Option(help="Conditions on metadata, as JSON.")] = None,
    name: NameOption = "demo",
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search an index by an image file or a text."""
    where, path = url or address(name), f"/v1/indexes/{quote(index, safe='')}/search"
    fields: dict[str, Any] = {"k": k} | ({"filter": filter} if filter else {})
    if _is_file(content):
        answer = _post(where, path, fields, None, Path(content))
    else:
        answer = _send(where, path, json={**fields, "text": content})
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    table = Table("id", "score", "metadata")
    for hit in answer["hits"]:
        table.add_row(hit["id"], f"{hit['score']:.4f}", json.dumps(hit["metadata"]))
    output.print(table)


@app.command()
def render(
    scene: Annotated[str, typer.Argument(help="Name of a scene.")],
    out: Annotated[Path, typer.Argument(help="The picture's file: .png, .jpg, .webp or .exr.")],
    azimuth: Annotated[float, typer.Option(help="Around the scene, in degrees.")] = AZIMUTH_DEG,
    elevation: Annotated[float, typer.Option(help="Above it, in degrees.")] = ELEVATION_DEG,
    width: Annotated[int, typer.Option(help="Of the picture, in pixels.")] = 640,
    height: Annotated[int, typer.Option(help="Of the picture, in pixels.")] = 480,
    background: Annotated[str, typer.Option(help="Behind the scene, as #rrggbb.")] = "#000000",
    time_s: Annotated[float, typer.Option("--time", help="A moving scene's moment, in seconds.")] = 0.0,
    model: ModelOption = None,
    name: NameOption = "demo",
    url: UrlOption = None,
) -> None:
    """A picture of a 3D scene, seen from an orbit around it."""
    format = _FORMATS.get(out.suffix.lower())
    if format is None:
        raise InvalidRequest(f"{out} must end in one of {', '.join(_FORMATS)}.", param="out")
    camera = {"orbit": {"azimuth_deg": azimuth, "elevation_deg": elevation}}
    fields: dict[str, Any] = {"camera": camera, "width": width, "height": height, "format": format}
    fields |= {"background": background, "time_s": time_s} | ({"model": model} if model else {})
    answer = _answer(url or address(name), f"/v1/scenes/{quote(scene, safe='')}/render", json=fields)
    out.write_bytes(answer.content)
    typer.echo(f"{out}: version {answer.headers['x-argus-scene-version']} of {scene}, {len(answer.content):,} bytes")


def _is_file(content: str) -> bool:
    """Whether it names a file; a text may be longer than any path, or hold what none may."""
    try:
        return Path(content).is_file()
    except (OSError, ValueError):
        return False


def _post(where: str, path: str, fields: dict[str, Any], model: str | None, image: Path) -> dict[str, Any]:
    if not image.is_file():
        raise InvalidRequest(f"{image} is no file.", param="image")
    data = fields | ({"model": model} if model else {})
    # The server tells the format by its bytes; a suffix that lies must not make it refuse the file.
    return _send(where, path, data=data, files={"image": (image.name, image.read_bytes(), "application/octet-stream")})


def _send(where: str, path: str, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = _answer(where, path, **options).json()
    return body


def _answer(where: str, path: str, **options: Any) -> httpx.Response:
    """Raises `ArgusError`: what the cluster answers in the place of what was asked for."""
    return asked(where, path, "POST", **options)
