"""The example that `argus up` shows: one real request and its real answer."""

from __future__ import annotations

from pathlib import Path

import httpx

from serve.cli.console import output
from serve.config.cluster import ClusterFile
from serve.config.models import ClipModel

_LABELS = ("a red star", "a blue circle", "a green square", "a yellow heart")
_TIMEOUT_S = 30.0


def example_image() -> Path:
    """A generated scene, a red star, as PNG."""
    return Path(__file__).parents[2] / "demo" / "samples" / "red_star.png"


def show_example(cluster: ClusterFile, address: str) -> None:
    """Prints a curl command and what it answers, where there is a CLIP and the sample is at hand."""
    image = example_image()
    if not any(isinstance(model, ClipModel) for model in cluster.models.values()) or not image.is_file():
        return
    command = f"curl -s {address}/v1/classify -F image=@{_shown(image)} -F 'labels={','.join(_LABELS)}'"
    if cluster.auth.keys:
        output.print(f"\nTry, with a key:\n  {command} -H 'X-API-Key: ...'", soft_wrap=True, highlight=False)
        return
    try:
        said = httpx.post(
            f"{address}/v1/classify",
            files={"image": (image.name, image.read_bytes(), "image/png")},
            data={"labels": ",".join(_LABELS)},
            timeout=_TIMEOUT_S,
            trust_env=False,
        ).text
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # no reason to stop what runs
        said = f"no answer: {type(error).__name__}"
    output.print(f"\n  $ {command}", soft_wrap=True, highlight=False, markup=False)
    output.print(f"  {said}\n", soft_wrap=True, highlight=False, markup=False)


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
