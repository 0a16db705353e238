"""As much of HTTP/2 (RFC 9113) and gRPC as it takes to send them wrongly: frames, and a header block without tables."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0x0, 0x1, 0x4
END_STREAM, END_HEADERS = 0x1, 0x4
_MOST_SHORT: Final = 126
_MOST_FRAME: Final = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes, *, length: int | None = None) -> bytes:
    """One frame (section 4.1).

    Args:
        length: stated in place of the payload's own.
    """
    stated = len(payload) if length is None else length
    return struct.pack(">I", stated)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def header_block(fields: Mapping[str, str]) -> bytes:
    """HPACK (RFC 7541, section 6.2.2): every field a literal that is in no table."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())


def message(payload: bytes, *, length: int | None = None) -> bytes:
    """A gRPC message: a byte for no compression, four for the length, the payload.

    Args:
        length: stated in place of the payload's own.
    """
    return b"\x00" + struct.pack(">I", len(payload) if length is None else length) + payload


def call(path: str, body: bytes, headers: Mapping[str, str], *, end: bool = True) -> list[bytes]:
    """The frames of one call on a new connection, the first with the preface.

    Args:
        body: gRPC's bytes.
        end: whether the client says that it has no more to send.
    """
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "argus",
        "content-type": "application/grpc",
        "te": "trailers",
        **headers,
    }
    pieces = [body[start : start + _MOST_FRAME] for start in range(0, len(body), _MOST_FRAME)] or [b""]
    last = len(pieces) - 1
    return [
        PREFACE + frame(SETTINGS, 0, 0, b""),
        frame(HEADERS, END_HEADERS, 1, header_block(fields)),
        *(frame(DATA, END_STREAM if end and i == last else 0, 1, piece) for i, piece in enumerate(pieces)),
    ]


def mutated(frames: Sequence[bytes], draw: random.Random) -> bytes:
    """The same with something wrong: bits turned, frames cut, doubled, left out or out of order, lengths that lie."""
    pieces = [bytearray(piece) for piece in frames]
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(pieces))
        piece = pieces[place]
        match draw.randrange(6):
            case 0:
                for _ in range(draw.randint(1, 8)):
                    piece[draw.randrange(len(piece))] ^= 1 << draw.randrange(8)
            case 1 if len(piece) > 1:
                del piece[draw.randrange(1, len(piece)) :]
            case 2:
                pieces.insert(place, bytearray(piece))
            case 3 if len(pieces) > 2:
                del pieces[place]
            case 4:
                draw.shuffle(pieces)
            case _:
                piece[:3] = draw.randbytes(3)
    return b"".join(map(bytes, pieces))


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) > _MOST_SHORT:
        raise ValueError(f"{len(data)} bytes; at most {_MOST_SHORT} are written here")
    return bytes((len(data),)) + data
