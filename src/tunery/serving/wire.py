"""Messages on the socket between web and engine: four bytes of length (big endian), then MessagePack. No torch."""

import asyncio
import struct

import msgspec

from tunery.messages import Answer, Ask

MAX_MESSAGE = 64 * 1024 * 1024
"""Bytes; a longer message is not one of ours."""

_LENGTH = struct.Struct(">I")


def frame(message: Ask | Answer) -> bytes:
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next message's MessagePack.

    Raises asyncio.IncompleteReadError when the other side has closed, ConnectionError when it isn't one of us.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > MAX_MESSAGE:
        raise ConnectionError(f"a message of {length} bytes on an engine's socket")
    return await reader.readexactly(length)
