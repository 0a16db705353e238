"""A real browser without a screen: the system's Chromium, driven by Playwright, with WebGL drawn by its CPU code."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.async_api import Page, async_playwright, expect

from serve.protocol.viewer import FOLDER

WEBGL: Final = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
NO_WEBGL: Final = ("--disable-gpu", "--disable-3d-apis")
UInt8 = npt.NDArray[np.uint8]

# Its own default is five seconds, whatever a page's is.
expect.set_options(timeout=120_000)

_CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium here: as root, apt-get install chromium")
needs_vendored = pytest.mark.skipif(
    not (FOLDER / "vendor" / ".ready").is_file(), reason="the viewer has no libraries: run environment/viewer.sh"
)


@dataclass
class Tab:
    """A page of the viewer, and what it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def open(self, address: str) -> None:
        """Loads a scene's page and waits for its first picture."""
        await self.page.goto(address)
        await self.page.evaluate("window.argus.ready")

    async def look(self, view: dict[str, Any]) -> UInt8:
        """The picture from a camera, (height, width, 3)."""
        await self.page.evaluate("view => window.argus.setCamera(view)", view)
        return await self.picture()

    async def picture(self) -> UInt8:
        """The present picture."""
        address: str = await self.page.evaluate("window.argus.frame()")
        return pixels(base64.b64decode(address.partition(",")[2]))

    async def mode(self) -> str:
        """`browser` or `server`."""
        found: str = await self.page.evaluate("window.argus.mode")
        return found


@asynccontextmanager
async def tab(width: int, height: int, flags: tuple[str, ...] = WEBGL, **options: Any) -> AsyncIterator[Tab]:
    """One page in a browser of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox", *flags])
        try:
            page = await browser.new_page(viewport={"width": width, "height": height}, **options)
            page.set_default_timeout(120_000)
            opened = Tab(page)
            page.on("request", lambda request: opened.requests.append(request.url))
            page.on("websocket", lambda socket: opened.requests.append(socket.url))
            page.on("pageerror", lambda error: opened.errors.append(str(error)))
            yield opened
        finally:
            await browser.close()


def pixels(file: bytes) -> UInt8:
    """A picture file as (height, width, 3)."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))
