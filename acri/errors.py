# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, in CRI's words.

Every error that a caller may see is an `AcriError`; its class says which gRPC code it becomes, its text is one clear
sentence that names the thing and, where there is one, the remedy. Any other exception that reaches the RPC layer is a
bug: the caller gets UNKNOWN with one sentence, the log gets the traceback.

    AcriError
    ├── InvalidArgument      the request itself is wrong                            (caller)
    ├── NotFound             the object that the request names does not exist       (caller)
    ├── AlreadyExists        the object is there already and is a different one     (caller)
    ├── FailedPrecondition   the object is in a state that does not allow this      (caller)
    ├── PermissionDenied     the host or a registry refuses                         (host)
    ├── ResourceExhausted    a bound was reached                                    (host)
    ├── Unimplemented        acri, the kernel or the runtime cannot do this         (host)
    ├── Unavailable          a peer (containerd, a registry) does not answer now    (peer; retry)
    │   └── OutcomeUnknown   … and it may have done what was asked: re-read first   (peer)
    ├── DeadlineExceeded     the time allowed is over
    ├── Aborted              the operation was given up (shutdown, rollback)
    ├── Cancelled            the caller went away
    ├── Internal             the wire was broken (undecodable message)
    └── UnknownError         a peer failed in a way of its own; its text is kept
        └── ImagePullError   texts whose prefix a kubelet reads
    ConfigError              a mistake in acri's own configuration or command line (never on the wire)

The kubelet reads codes, rarely texts: NOT_FOUND means gone, UNIMPLEMENTED means fall back, DEADLINE_EXCEEDED from
ExecSync means a failed probe, UNKNOWN from PullImage keeps only the message.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

__all__ = [
    "Aborted",
    "AcriError",
    "AlreadyExists",
    "Cancelled",
    "Code",
    "ConfigError",
    "DeadlineExceeded",
    "FailedPrecondition",
    "ImagePullError",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutcomeUnknown",
    "PermissionDenied",
    "ResourceExhausted",
    "Unavailable",
    "Unimplemented",
    "UnknownError",
    "from_code",
]


class Code(IntEnum):
    """gRPC status codes (https://grpc.io/docs/guides/status-codes), so that no room but `rpc` needs grpclib."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AcriError(Exception):
    """An error with a gRPC code and a sentence for the caller."""

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(AcriError):
    code = Code.INVALID_ARGUMENT


class NotFound(AcriError):
    code = Code.NOT_FOUND


class AlreadyExists(AcriError):
    code = Code.ALREADY_EXISTS


class FailedPrecondition(AcriError):
    code = Code.FAILED_PRECONDITION


class PermissionDenied(AcriError):
    code = Code.PERMISSION_DENIED


class ResourceExhausted(AcriError):
    code = Code.RESOURCE_EXHAUSTED


class Unimplemented(AcriError):
    code = Code.UNIMPLEMENTED


class Unavailable(AcriError):
    """The peer was not reached; nothing was sent, so repeating is safe."""

    code = Code.UNAVAILABLE


class OutcomeUnknown(Unavailable):
    """The connection broke while a call ran: the peer may have done it. Read its state before repeating."""


class DeadlineExceeded(AcriError):
    code = Code.DEADLINE_EXCEEDED


class Aborted(AcriError):
    code = Code.ABORTED


class Cancelled(AcriError):
    code = Code.CANCELLED


class Internal(AcriError):
    code = Code.INTERNAL


class UnknownError(AcriError):
    """A peer's failure that has no better name. The kubelet keeps only the message of this code (PullImage)."""

    code = Code.UNKNOWN


class ImagePullError(UnknownError):
    """A failed pull. Texts may start with `RegistryUnavailable` or `SignatureValidationFailed`, which a kubelet shows
    as the waiting reason (pkg/kubelet/images/image_manager.go reads the prefix, and only with code UNKNOWN)."""


class ConfigError(Exception):
    """A user's mistake in a configuration file or on the command line: one line, printed without a traceback."""


_BY_CODE: dict[Code, type[AcriError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        PermissionDenied,
        ResourceExhausted,
        Unimplemented,
        Unavailable,
        DeadlineExceeded,
        Aborted,
        Cancelled,
        Internal,
        UnknownError,
    )
}


def from_code(code: int, message: str) -> AcriError:
    """The error for a gRPC status that a peer answered (containerd's errdefs travel as codes)."""
    try:
        cls = _BY_CODE[Code(code)]
    except (ValueError, KeyError):
        cls = UnknownError
    return cls(message)
