# SPDX-License-Identifier: Apache-2.0
"""The one place where errors become gRPC statuses and back.

    handler raises                    on the wire                     │  peer answers / breaks        acri raises
    AcriError                         its code, its sentence          │  status, message              errors.from_code
    TimeoutError of acri's own code   DEADLINE_EXCEEDED               │  nothing was sent             Unavailable
    CancelledError nobody asked for   ABORTED                         │  broke while a call ran       OutcomeUnknown
    anything else (a bug)             UNKNOWN, traceback in the log   │  deadline                     DeadlineExceeded

The text of a status travels percent-encoded in a header, so any character survives; what could break it is repaired
here (lone surrogates from file names) or cut (peers refuse large headers: C-core starts to at 8 KiB).
"""

from __future__ import annotations

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from acri import errors

__all__ = ["MAX_TEXT", "bug", "from_grpc", "to_grpc", "wire_text"]

#: Bytes that a status text may take on the wire, percent-encoded.
MAX_TEXT = 6144

_CUT = " … (cut)"


def wire_text(text: str) -> str:
    """`text` as it may travel: encodable as UTF-8 and no longer than MAX_TEXT once percent-encoded."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= MAX_TEXT and _cost(text) <= MAX_TEXT:
        return text
    room, kept = MAX_TEXT - _cost(_CUT), 0
    while (room := room - _cost(text[kept])) >= 0:
        kept += 1
    return text[:kept] + _CUT


def _cost(text: str) -> int:
    """Bytes of `text` in grpc-message (gRPC over HTTP/2, "Status-Message": 0x20–0x7E but % travel as they are)."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode("utf-8"))


def to_grpc(exc: BaseException) -> GRPCError | None:
    """The status for an error that was meant for the caller, or None: then it is a bug."""
    if isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        return to_grpc(exc.exceptions[0])  # a TaskGroup wraps even a lone failure
    if isinstance(exc, errors.AcriError):
        return GRPCError(Status(int(exc.code)), wire_text(exc.message))
    if isinstance(exc, GRPCError):
        return GRPCError(exc.status, None if exc.message is None else wire_text(exc.message), exc.details)
    if isinstance(exc, TimeoutError):
        return GRPCError(Status.DEADLINE_EXCEEDED, wire_text(str(exc) or "an operation timed out"))
    return None


def bug(method: str, request_id: str) -> GRPCError:
    """What the caller is told about a bug: where to look, and nothing of its inside."""
    return GRPCError(Status.UNKNOWN, f"internal error in {method}; see the log (request {request_id})")


def from_grpc(error: GRPCError, peer: str, path: str) -> errors.AcriError:
    """acri's error for a status that a peer answered; its text is kept.

    UNAVAILABLE from a peer that did answer is OutcomeUnknown: it says nothing about what was done before.
    """
    message = error.message or f"{peer} answered {path} with {error.status.name}"
    if error.status is Status.UNAVAILABLE:
        return errors.OutcomeUnknown(message)
    return errors.from_code(error.status.value, message)
