"""Scenes of Gaussians drawn by a running server, by a reference in float64, and by a browser; makes docs/splats.md.

    argus up --profile demo --detach
    python -m benchmarks.splat_gallery --url http://127.0.0.1:8000

The reference (`tests/support/splat_reference.py`) shares no code with the server's rasteriser. The browser is the
system's Chromium, which draws the viewer's page with Spark on WebGL; without a GPU that takes seconds a picture.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from deployments.rendering.camera import look_at
from deployments.rendering.messages import RasterOptions
from deployments.scenes.types import Bounds
from deployments.splat import formats
from deployments.splat.gaussians import Gaussians
from serve.scenes.cameras import Orbit, placed
from tests.support import splat_reference
from tests.support.browser import pixels, tab

_FOLDER = Path(__file__).parent.parent / "docs"
_SPLATS = Path(__file__).parents[2] / "shared" / "data" / "splats"
_WIDTH, _HEIGHT, _FOV_DEG = 480, 360, 45.0
_MOST_BYTES = 150_000
_MOST_GAUSSIANS = 10_000_000
Pixels = NDArray[np.uint8]
View = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A scene of the page.

    Attributes:
        file: uploaded when the server does not have the scene; None for one that it must have.
        attribution: as the licence wants it.
        angles: azimuth and elevation of each view, in degrees.
    """

    name: str
    file: Path | None
    attribution: str
    angles: tuple[tuple[float, float], ...]


SUBJECTS = (
    Subject(
        "plant",
        _SPLATS / "plant.splat",
        "“Houseplant” by Marcel Padilla, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/).",
        ((35.0, 20.0), (215.0, 45.0)),
    ),
    Subject("table", None, "Argus' own demo scene, made by `demo/scenes3d`.", ((35.0, 20.0), (160.0, 35.0))),
)


def found(client: httpx.Client, subject: Subject) -> dict[str, Any] | None:
    """What the server says of a scene, which it is given first if need be; None when nobody has it."""
    response = client.get(f"/v1/scenes/{subject.name}")
    if response.status_code == 404 and subject.file is not None and subject.file.is_file():
        fields = {"name": subject.name, "attribution": subject.attribution}
        files = {"file": (subject.file.name, subject.file.read_bytes())}
        response = client.post("/v1/scenes", data=fields, files=files)
    if response.status_code == 404:
        return None
    scene: dict[str, Any] = response.raise_for_status().json()
    return scene


def views(subject: Subject, scene: dict[str, Any]) -> list[View]:
    """Cameras on a sphere from which the whole scene is seen."""
    box, up = scene["bounds"], tuple(scene["up"])
    bounds = Bounds(tuple(box["min"]), tuple(box["max"]), tuple(box["centre"]), box["radius"])
    orbits = [Orbit(azimuth, elevation, fov_deg=_FOV_DEG) for azimuth, elevation in subject.angles]
    cameras = [placed(orbit, bounds, up, _WIDTH, _HEIGHT, "camera") for orbit in orbits]
    return [
        {"eye": camera.position.tolist(), "target": bounds.centre, "up": up, "fov_deg": _FOV_DEG} for camera in cameras
    ]


def from_server(client: httpx.Client, name: str, view: View) -> Pixels:
    """The picture that the API gives."""
    body = {"camera": {"look_at": view}, "width": _WIDTH, "height": _HEIGHT, "format": "png"}
    return pixels(client.post(f"/v1/scenes/{name}/render", json=body, timeout=120.0).raise_for_status().content)


def from_reference(gaussians: Gaussians, view: View) -> Pixels:
    """The picture by definition."""
    camera = look_at(view["eye"], view["target"], view["up"], view["fov_deg"], _WIDTH, _HEIGHT)
    rgb = splat_reference.render(gaussians, camera, RasterOptions())["rgb"]
    return np.asarray(np.rint(np.clip(rgb, 0, 1) * 255), np.uint8)


async def from_browser(url: str, key: str | None, name: str, wanted: list[View]) -> list[Pixels]:
    """The pictures that the viewer's page draws by itself."""
    async with tab(_WIDTH, _HEIGHT) as opened:
        if key is not None:
            await opened.page.add_init_script(f"sessionStorage.setItem('argus-api-key', {json.dumps(key)})")
        await opened.open(f"{url}/viewer/{name}?render=browser")
        if await opened.mode() != "browser":
            raise SystemExit("the browser does not draw: is there WebGL, and did environment/viewer.sh run?")
        return [await opened.look(view) for view in wanted]


def compared(one: Pixels, other: Pixels) -> str:
    """Peak signal-to-noise ratio and structural similarity, in words."""
    psnr = splat_reference.psnr(one / 255, other / 255)
    ssim = structural_similarity(one, other, channel_axis=2)
    return f"{psnr:.1f} dB, {ssim:.4f}"


def saved(picture: Pixels, file: Path) -> str:
    """Writes a JPEG of at most 150 kB; the Markdown that shows it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for quality in (90, 80, 70, 60):
        Image.fromarray(picture).save(file, quality=quality)
        if file.stat().st_size <= _MOST_BYTES:
            break
    return f"![{file.stem.replace('-', ' ')}]({file.parent.name}/{file.name})"


def section(client: httpx.Client, key: str | None, subject: Subject, folder: Path) -> list[str]:
    """One scene's part of the page."""
    scene = found(client, subject)
    if scene is None:
        return []
    file = client.get(f"/v1/scenes/{subject.name}/export", params={"format": "ply"}, timeout=300.0).raise_for_status()
    gaussians = formats.read(file.content, "ply", max_gaussians=_MOST_GAUSSIANS)
    lines = [f"## {subject.name}", "", f"{len(gaussians):,} Gaussians. {subject.attribution}", ""]
    lines += ["| server | reference | browser |", "|---|---|---|"]
    wanted = views(subject, scene)
    browser = asyncio.run(from_browser(str(client.base_url).rstrip("/"), key, subject.name, wanted))
    for index, view in enumerate(wanted):
        drawn = {"server": from_server(client, subject.name, view), "reference": from_reference(gaussians, view)}
        drawn["browser"] = browser[index]
        shown = [saved(drawn[way], folder / "splats" / f"{subject.name}-{index}-{way}.jpg") for way in drawn]
        scores = [compared(drawn[way], drawn["reference"]) for way in ("server", "browser")]
        lines += [f"| {' | '.join(shown)} |", f"| {scores[0]} | | {scores[1]} |"]
    return [*lines, ""]


def gallery(client: httpx.Client, key: str | None, folder: Path) -> str:
    """The page, its pictures written beside it."""
    parts = [section(client, key, subject, folder) for subject in SUBJECTS]
    return "\n".join(
        [
            "# Scenes of Gaussians: server, reference, browser",
            "",
            "The same cameras drawn by the server (`/v1/scenes/NAME/render`), by a reference in float64 that follows",
            "the definitions one Gaussian at a time, and by Chromium on the viewer's page (Spark on WebGL, from the",
            "scene as SPZ, which rounds it). Under a picture: peak signal-to-noise ratio and structural similarity to",
            "the reference. Made by `python -m benchmarks.splat_gallery`.",
            "",
            *(line for part in parts for line in part),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where splats.md and splats/ are written")
    arguments = parser.parse_args()
    key = os.environ.get("ARGUS_API_KEY")
    headers = {} if key is None else {"x-api-key": key}
    with httpx.Client(base_url=arguments.url, headers=headers, timeout=60.0) as client:
        page = gallery(client, key, arguments.folder).rstrip() + "\n"
    (arguments.folder / "splats.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
