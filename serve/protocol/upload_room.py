"""Memory for uploads: the bytes of their bodies that a router holds at once are bounded, whoever sends them.

Admission bounds requests, of which one may be a hundred times as large as another. An upload has room for all of its
stated length before a byte of it is read; one that states none takes room as it comes. It gives the room back when its
request is over, since until then its bytes are on their way to a store.
"""

from __future__ import annotations

from typing import Final

from serve.errors import Overloaded

# Seconds after which somebody who was refused may come again: large bodies take some to arrive and to be passed on.
_RETRY_AFTER_S: Final = 5.0


class UploadRoom:
    """See the module's text. One a router; it is used from the event loop only.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    def hold(self) -> HeldRoom:
        """What one request takes of it: nothing yet."""
        return HeldRoom(self)

    def take(self, count: int) -> None:
        """See `HeldRoom.grow_to`."""
        if self._taken + count > self._most:
            raise Overloaded(
                f"Uploads hold {self._taken:,} of the {self._most:,} bytes that this router has for them; this one "
                f"needs {count:,} more.",
                code="uploads_full",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._taken += count

    def give_back(self, count: int) -> None:
        """See `HeldRoom.release`."""
        self._taken -= count


class HeldRoom:
    """The part of one request."""

    def __init__(self, room: UploadRoom) -> None:
        self._room = room
        self._bytes = 0

    def grow_to(self, size: int) -> None:
        """Takes room for `size` bytes in all; it never shrinks.

        Raises:
            Overloaded: `uploads_full`; others hold too much for that now.
        """
        if size > self._bytes:
            self._room.take(size - self._bytes)
            self._bytes = size

    def release(self) -> None:
        """Gives all of it back."""
        self._room.give_back(self._bytes)
        self._bytes = 0
