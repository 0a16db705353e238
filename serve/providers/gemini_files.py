"""Gemini's File API (https://ai.google.dev/gemini-api/docs/files): large media are uploaded, used once and deleted."""

from __future__ import annotations

import asyncio
import io
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.genai import types

from serve.errors import InvalidMedia

_LOG = logging.getLogger("argus.providers")
# A deletion that fails is tried again once; after that the API deletes a file by itself, 48 hours after its upload.
_DELETE_S = 10.0
_DELETE_TRIES = 2


class GeminiFiles:
    """Files of one client.

    Args:
        files: the SDK's `client.aio.files`.
        poll_s: seconds between two looks at a file that is being processed.
    """

    def __init__(self, provider: str, files: Any, poll_s: float) -> None:
        self._provider = provider
        self._files = files
        self._poll_s = poll_s
        self._deletions: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[Uploads]:
        """Uploads for one request. All are deleted when it ends, however it ends, without its waiting for that."""
        uploads = Uploads(self._provider, self._files, self._poll_s)
        try:
            yield uploads
        finally:
            for name in uploads.names:
                task = asyncio.get_running_loop().create_task(self._delete(name))
                self._deletions.add(task)
                task.add_done_callback(self._deletions.discard)

    async def close(self) -> None:
        """Waits for the deletions in progress."""
        await asyncio.gather(*self._deletions)

    async def _delete(self, name: str) -> None:
        for attempt in range(_DELETE_TRIES):
            try:
                async with asyncio.timeout(_DELETE_S):
                    await self._files.delete(name=name)
                return
            except Exception as error:
                if getattr(error, "code", None) == 404:  # the upload was cut before it began
                    return
                if attempt == _DELETE_TRIES - 1:
                    _LOG.warning("%s: a file could not be deleted: %s", self._provider, type(error).__qualname__)


class Uploads:
    """The uploads of one request.

    Attributes:
        names: of the files, chosen by us, so that one whose upload was cut short can be deleted as well.
    """

    def __init__(self, provider: str, files: Any, poll_s: float) -> None:
        self.names: list[str] = []
        self._provider = provider
        self._files = files
        self._poll_s = poll_s

    async def upload(self, data: bytes, media_type: str) -> str:
        """The URI of a file, once it can be used.

        Raises:
            InvalidMedia: the API could not process it.
        """
        name = f"files/argus-{secrets.token_hex(12)}"
        self.names.append(name)
        config = types.UploadFileConfig(mime_type=media_type, name=name)
        file = await self._files.upload(file=io.BytesIO(data), config=config)
        while file.state == types.FileState.PROCESSING:
            await asyncio.sleep(self._poll_s)
            file = await self._files.get(name=name)
        if file.state == types.FileState.FAILED:
            raise InvalidMedia(f"{self._provider} could not process the {media_type.split('/')[0]}.")
        return str(file.uri)
