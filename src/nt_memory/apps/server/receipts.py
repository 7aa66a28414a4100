"""Receipts of advice, as clients carry them from the advice to the action that followed it.

The bank learns from receipts, so one that a client made up would teach it what never was. They are
signed, for one agent, with a key that this process drew: after a restart advice has to be asked for
again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.advice import MemoryRef, Receipt
from nt_memory.reasoningbank.wire import ReceiptDoc

if TYPE_CHECKING:
    from nt_memory.apps.server.callers import Caller

_MAC_BYTES = 16
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ReceiptDoc).decode


class Receipts:
    """Signs receipts, and knows its own again."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def sign(self, doc: ReceiptDoc, caller: Caller) -> str:
        """A receipt as text."""
        data = _encode(doc)
        return base64.urlsafe_b64encode(self._mac(data, caller) + data).decode().rstrip("=")

    def open(self, text: str, caller: Caller) -> Receipt:
        """The receipt in a text.

        Raises:
            InvalidInputError: it is none that this process gave to this caller.
        """
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        data = raw[_MAC_BYTES:]
        if not hmac.compare_digest(raw[:_MAC_BYTES], self._mac(data, caller)):
            raise InvalidInputError(
                "receipt: not one that this server gave you since it started; ask for advice again"
            )
        return Receipt.from_doc(_decode(data), _unnamed)

    def _mac(self, data: bytes, caller: Caller) -> bytes:
        whole = caller.agent.encode() + b"\0" + data
        return hmac.digest(self._key, whole, hashlib.sha256)[:_MAC_BYTES]


def _unnamed(*_: Any) -> list[MemoryRef]:
    """The names of a receipt's memories: whoever gets one here only stores it."""
    return []
