# SPDX-License-Identifier: Apache-2.0
"""CRI log lines, sans-I/O: a block of a container's output in, whole records out; and the strict reader of the same.

A record is `<RFC 3339 time> <stdout|stderr> <F|P> <content>\\n`. `F` ends a line; `P` says that the line goes on in the
next record of the same stream. The space after the tag is there even when the content is empty (the kubelet drops a
record without it). Rules: kubernetes pkg/kubelet/kuberuntime/logs and cri-api runtime/v1/constants.go.

Output is formatted by the block, never by the line: one `bytes.replace` puts the prefix after every newline, and a
`rfind` every 16 KiB proves that no line is too long for that. All lines of a block bear one time.

    Tail(rest, open)   what a stream carries from block to block
      rest   the bytes after the last newline, at most `limit` of them, in no record yet
      open   the last record of this stream was a P: the line in the file waits for its end

A line of exactly `limit` bytes is one F: a piece is cut only when a byte that is no newline follows it, hence `rest`
may hold `limit` bytes, and is never empty while `open` is true.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = [
    "EMPTY_TAIL",
    "MAX_PIECE",
    "STREAMS",
    "LogFormatError",
    "Pieces",
    "Record",
    "Stream",
    "Tail",
    "format_block",
    "format_tail",
    "format_time",
    "parse_line",
    "parse_records",
    "rejoin",
]

Stream = Literal["stdout", "stderr"]
Pieces = list[bytes | memoryview]
STREAMS: tuple[Stream, ...] = get_args(Stream)

# The customary piece (containerd max_container_log_line_size); critest and node e2e compare with it.
MAX_PIECE = 16 * 1024

_NEWLINE = b"\n"


class LogFormatError(ValueError):
    """A line that is no CRI log record. The text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What one stream carries from one block to the next (see the module's head)."""

    rest: bytes = b""
    open: bool = False


EMPTY_TAIL = Tail()


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a log file; `time_ns` is nanoseconds since 1970 (UTC)."""

    time_ns: int
    stream: Stream
    partial: bool
    content: bytes


# ---------------------------------------------------------------------------------------------------------- writing


def format_time(time_ns: int) -> bytes:
    """RFC 3339 in UTC, always with nine digits after the point (so that the lines of a file also sort as text)."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return b"%04d-%02d-%02dT%02d:%02d:%02d.%09dZ" % (year, month, day, hour, minute, second, fraction)


def format_block(
    stream: Stream, time_ns: int, data: bytes, tail: Tail = EMPTY_TAIL, limit: int = MAX_PIECE
) -> tuple[Pieces, Tail]:
    """The records for `data`, which follows what `tail` holds; and the tail for the next block.

    The records come in pieces for `writev` (joining them would cost as much as making them); together they are empty
    or end with a newline. They depend on the arguments alone: a block that was only half written can be made again,
    byte for byte, from the same input.
    """
    if tail.rest:
        data = tail.rest + data
    start = b"%s %s " % (format_time(time_ns), stream.encode())
    full, partial = start + b"F ", start + b"P "
    pieces: Pieces = []
    opened = tail.open
    run = position = 0  # data[run:position] are whole lines, none of them longer than `limit`
    size = len(data)
    while True:
        newline = data.rfind(_NEWLINE, position, position + limit + 1)
        if newline >= 0:
            position = newline + 1
            continue
        if size - position <= limit:
            break
        if position > run:
            pieces += (full, _prefixed(data[run : position - 1], full), _NEWLINE)
        pieces += (partial, data[position : position + limit], _NEWLINE)
        opened = True
        position += limit
        run = position
    rest = data[position:]
    if position > run:
        # What follows the last newline has nothing to replace: take it along and look past it (and past the prefix
        # that the last newline got), which spares the usual block a copy.
        lines = _prefixed(data[run:], full)
        pieces += (full, memoryview(lines)[: len(lines) - len(full) - len(rest)])
        opened = False
    return pieces, Tail(rest, opened)


def _prefixed(data: bytes, prefix: bytes) -> bytes:
    return data.replace(_NEWLINE, _NEWLINE + prefix)


def format_tail(stream: Stream, time_ns: int, tail: Tail) -> bytes:
    """The record for a last line without a newline: a P, as critest wants it; empty if there is none."""
    if not tail.rest:
        return b""
    return b"%s %s P %s\n" % (format_time(time_ns), stream.encode(), tail.rest)


# ---------------------------------------------------------------------------------------------------------- reading

_RECORD = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) (stdout|stderr) ([^ \n]+) (.*)\n",
    re.DOTALL,
)


def parse_line(line: bytes, limit: int | None = None) -> Record:
    """One record, with its newline.

    `limit` bounds the content in bytes; None is unbounded (other runtimes may be configured so). Tags after a colon
    are allowed and ignored, as the CRI says. Raises LogFormatError.
    """
    if line.find(_NEWLINE) != len(line) - 1:
        raise LogFormatError("a record is one line that ends with a newline")
    match = _RECORD.fullmatch(line)
    if match is None:
        raise LogFormatError(f"not `<time> <stdout|stderr> <P|F> <content>`: {line[:80]!r}")
    *date, fraction, zone, stream, tags, content = match.groups()
    tag = tags.partition(b":")[0]
    if tag not in (b"P", b"F"):
        raise LogFormatError(f"unknown tag {tag[:20]!r}")
    if limit is not None and len(content) > limit:
        raise LogFormatError(f"{len(content)} bytes of content, more than {limit}")
    return Record(_to_ns(date, fraction, zone), "stdout" if stream == b"stdout" else "stderr", tag == b"P", content)


def _to_ns(date: list[bytes], fraction: bytes | None, zone: bytes) -> int:
    year, month, day, hour, minute, second = (int(part) for part in date)
    if not (1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        raise LogFormatError("impossible time")
    # calendar knows months from year 1 on; the Go layout that the kubelet uses refuses a 31 February as well.
    if not (year >= 1 and 1 <= day <= calendar.monthrange(year, month)[1]):
        raise LogFormatError("impossible date")
    seconds = calendar.timegm((year, month, day, hour, minute, second))
    if zone != b"Z":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        if hours > 24 or minutes > 59:
            raise LogFormatError("impossible time zone")
        offset = hours * 3600 + minutes * 60
        seconds -= offset if zone[:1] == b"+" else -offset
    return seconds * 1_000_000_000 + int((fraction or b"0").ljust(9, b"0"))


def parse_records(data: bytes, limit: int | None = None) -> Iterator[Record]:
    """The records of a whole file. A torn last line is an error like any other. Raises LogFormatError."""
    start = 0
    while start < len(data):
        end = data.find(_NEWLINE, start)
        line = data[start:] if end < 0 else data[start : end + 1]
        yield parse_line(line, limit)
        start += len(line)


def rejoin(records: Iterable[Record]) -> dict[Stream, bytes]:
    """What each stream wrote: F adds its newline, P does not."""
    parts: dict[Stream, list[bytes]] = {name: [] for name in STREAMS}
    for record in records:
        parts[record.stream].append(record.content if record.partial else record.content + _NEWLINE)
    return {name: b"".join(pieces) for name, pieces in parts.items()}
