# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with bytes on the wire, or with a message that shall go there.

    WireError (ValueError)   path: field names from the message down ("config.linux.resources"), offset: byte position
    ├── Truncated            a length or a value reaches beyond the end of its message
    ├── BadWireType          wire types 6 and 7, field number 0, a group's end without its beginning
    ├── BadVarint            a tag of more than 5 bytes or 32 bits, a value of more than 10 bytes
    ├── BadUtf8              a string that is no UTF-8 (surrogates count as none), in either direction
    ├── OutOfRange           a number that its field's type cannot hold (encoding only; decoding cuts as protobuf does)
    ├── TooDeep              messages nested deeper than the limit
    └── TooLarge             more bytes than the limit

A value of the wrong Python type (a str in a bytes field, a misspelt attribute) is a bug of the caller: TypeError.
"""

from __future__ import annotations

from struct import error as StructError

__all__ = ["BadUtf8", "BadVarint", "BadWireType", "OutOfRange", "TooDeep", "TooLarge", "Truncated", "WireError"]


class WireError(ValueError):
    """Bytes that are no message of the expected type, or a message that cannot become bytes.

    `str()` has path and offset, never content: it may be logged and sent to the peer.
    """

    def __init__(self, reason: str, *, path: str = "", offset: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path
        self.offset = offset

    def __str__(self) -> str:
        where = f" in {self.path}" if self.path else ""
        return f"{self.reason}{where}" + (f" at byte {self.offset}" if self.offset is not None else "")


class Truncated(WireError):
    pass


class BadWireType(WireError):
    pass


class BadVarint(WireError):
    pass


class BadUtf8(WireError):
    pass


class OutOfRange(WireError):
    pass


class TooDeep(WireError):
    pass


class TooLarge(WireError):
    pass


#: What generated decoders let escape from the built-ins they use; `located` turns each into a WireError.
DECODING = (WireError, IndexError, StructError, UnicodeDecodeError)


def located(error: Exception, name: str, offset: int) -> WireError:
    """`error` as a WireError whose path begins with `name` (empty: the message itself).

    Called once per level while an error climbs out of nested decoders, innermost first; the first call sets the offset.
    """
    if isinstance(error, UnicodeDecodeError):
        error = BadUtf8("string is not UTF-8")
    elif not isinstance(error, WireError):  # reading past the end of the buffer
        error = Truncated("message ends inside a field")
    if name:
        error.path = f"{name}.{error.path}" if error.path else name
    if error.offset is None:
        error.offset = offset
    return error
