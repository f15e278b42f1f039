"""One message through a pipe that anything else in the sending process may write to.

A frame is a token that only the two ends know, the length, a digest and the body. What does not
begin with the token, or does not match the digest, is junk and never taken for a message.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct

_HEADER = struct.Struct("!16sQ32s")
_CHUNK_BYTES = 1 << 20
MOST_BYTES = 1 << 28
"""Of a message; a record has a few thousand."""


class JunkError(ValueError):
    """Something else than a message came through the pipe."""


def token() -> bytes:
    """What a frame begins with; another one for every pipe."""
    return secrets.token_bytes(16)


def send(descriptor: int, key: bytes, body: bytes) -> None:
    """Write one message, and wait until it is gone."""
    data = memoryview(_HEADER.pack(key, len(body), hashlib.sha256(body).digest()) + body)
    while data:
        data = data[os.write(descriptor, data) :]


class Inbox:
    """What has come through a pipe so far.

    Attributes:
        body: the message, once all of it is there.
    """

    def __init__(self, descriptor: int, key: bytes) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor, self.key = descriptor, key
        self.body: bytes | None = None
        self._data = bytearray()

    def read(self) -> bool:
        """Take what is there, a bounded piece of it; whether more may come.

        Raises:
            JunkError: it is no part of a message.
        """
        try:
            piece = os.read(self.descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        self._data += piece
        self._look()
        return bool(piece) and self.body is None

    def read_all(self) -> None:
        """Take all that is there: the sender is gone.

        Raises:
            JunkError: it is no part of a message.
        """
        before = -1
        while self.body is None and len(self._data) != before:
            before = len(self._data)
            self.read()

    def _look(self) -> None:
        head = bytes(self._data[: len(self.key)])
        if not self.key.startswith(head):
            raise JunkError("the process wrote something else than its answer into its pipe")
        if len(self._data) < _HEADER.size:
            return
        _, length, digest = _HEADER.unpack_from(self._data)
        if length > MOST_BYTES:
            raise JunkError(f"the process announced an answer of {length} bytes")
        if len(self._data) < _HEADER.size + length:
            return
        body = bytes(self._data[_HEADER.size : _HEADER.size + length])
        if hashlib.sha256(body).digest() != digest:
            raise JunkError("the process's answer is damaged")
        self.body = body
