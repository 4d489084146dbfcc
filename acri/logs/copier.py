# SPDX-License-Identifier: Apache-2.0
"""FIFO → log file, one block at a time, such that a kill at any instruction loses, tears and doubles nothing.

A block passes these stations; everything before the arrow's end can be done again from the same bytes:

    peek      tee(2) into a scratch pipe: the bytes are read and stay in the FIFO
    intent    the mark says what will be appended, where, and made from how many bytes
    append    the records, one write on an O_APPEND file
    drop      the same bytes leave the FIFO, the last one into the mark's witness
    done      one byte in the mark

`_resume` is what a restarted acri does with an intent that it finds, and also what a running one does after ENOSPC or
EIO: peek again, format again (same input, same time: same bytes), append what is missing, drop, done.

Synchronous and thread safe: everything runs in the log threads, one call at a time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
import threading
import time
import zlib
from dataclasses import dataclass, field, replace
from enum import Enum

import structlog

from acri.aio import fifo
from acri.logs.file import LogFile
from acri.logs.format import STREAMS, Pieces, Stream, Tail, format_block, format_tail
from acri.logs.mark import Block, Mark, StreamMark
from acri.logs.scratch import Scratch, ScratchPool, Tee

__all__ = ["BLOCK", "Copier", "Status", "Step"]

# Measured (tests/perf/bench_logs.py, 100-byte lines): 64 KiB 489 MiB/s in, 128 544, 256 643, 512 647.
BLOCK = 256 * 1024
# One hop to a thread moves at most this much, so that containers take turns in a small pool.
BUDGET = 8 * BLOCK

log = structlog.get_logger(__name__)


class Status(Enum):
    MORE = "more"  # the budget was used up
    EMPTY = "empty"  # nothing to read now
    EOF = "eof"  # nothing to read ever
    STALLED = "stalled"  # the log does not take it: the bytes wait in the FIFO


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. `chunks` are the raw bytes that went into the log, in order, where they were asked for."""

    status: Status
    line_open: bool = False
    chunks: tuple[tuple[Stream, bytes], ...] = ()
    error: OSError | None = None


@dataclass(slots=True)
class _Source:
    name: Stream
    fd: int
    mark: StreamMark
    tail: Tail
    chunks: list[tuple[Stream, bytes]] = field(default_factory=list)


class Copier:
    """The log of one container."""

    def __init__(self, container_id: str, log_path: str | None, mark_path: str | None, tee: Tee, pool: ScratchPool):
        self._log = log.bind(container_id=container_id)
        self._path = log_path
        self._mark_path = mark_path
        self._tee = tee
        self._pool = pool
        self._mutex = threading.Lock()
        self._mark: Mark | None = None
        self._file: LogFile | None = None
        self._sources: dict[Stream, _Source] = {}
        self._last_time_ns = 0
        self.bytes_in = 0
        self.bytes_out = 0

    # ------------------------------------------------------------------------------------------------ life

    def attach(self, stream: Stream, fifo_path: str) -> int:
        """Open the FIFO of `stream` for reading; its descriptor, which stays ours. Raises OSError."""
        with self._mutex:
            if stream in self._sources:
                raise ValueError(f"{stream} is attached already")
            if self._mark is None:
                self._mark = Mark(self._mark_path if self._path is not None else None)
            fd = fifo.open_reader(fifo_path)
            fifo.enlarge(fd, fifo.WANTED_PIPE_SIZE)
            mark = self._mark[stream]
            self._sources[stream] = _Source(stream, fd, mark, mark.tail)
            return fd

    def open(self) -> None:
        """Open the log file and settle what an earlier acri left undone for streams that nobody attached.

        Raises OSError; a step tries again by itself.
        """
        with self._mutex:
            self._ready_file()

    def reopen(self, *, at_line_end: bool) -> bool:
        """Go over to a new file at the log path; False if `at_line_end` and a line is not finished.

        Raises OSError; then the old file stays in use.
        """
        with self._mutex:
            if self._path is None:
                return True
            if at_line_end and any(source.tail.open for source in self._sources.values()):
                return False
            old = self._file
            if old is None:
                self._ready_file()
                return True
            new = LogFile.open(self._path)
            try:
                self._last_time_ns = max(self._last_time_ns, new.mend())
                if not old.is_at(new.device, new.inode):
                    for source in self._sources.values():
                        self._carry_over(source, old, new)
            except OSError:
                new.close()
                raise
            self._file = new
            old.close()
            return True

    def close(self) -> None:
        """Give back all descriptors. Bytes that are still in a FIFO stay there; the mark's file stays too."""
        with self._mutex:
            for source in self._sources.values():
                os.close(source.fd)
            self._sources.clear()
            if self._file is not None:
                self._file.close()
                self._file = None
            if self._mark is not None:
                self._mark.close()
                self._mark = None

    # ------------------------------------------------------------------------------------------------ copying

    def step(self, stream: Stream, *, ending: bool = False, final: bool = False, want_chunks: bool = False) -> Step:
        """Copy what is there, up to BUDGET bytes.

        ending   the process has exited: an empty FIFO without a writer is the end even if no writer was ever seen
        final    do not wait for the end: what is there now (at most one pipe's content) is all
        """
        with self._mutex:
            source = self._sources[stream]
            source.chunks.clear()
            error: OSError | None = None
            try:
                status = self._copy(source, ending, final)
            except OSError as caught:
                status, error = Status.STALLED, caught
            chunks = tuple(source.chunks) if want_chunks else ()
            source.chunks.clear()
            return Step(status, source.tail.open, chunks, error)

    def _copy(self, source: _Source, ending: bool, final: bool) -> Status:
        if self._path is not None:
            self._ready_file()
            for other in self._sources.values():
                self._resume(other, source.chunks)
        scratch = self._pool.take()
        moved = 0
        try:
            while moved < BUDGET:
                data = self._next(source, scratch)
                if not data:
                    break
                moved += len(data)
                if self._path is not None:
                    self._put(source, data, scratch)
                source.chunks.append((source.name, data))
                self.bytes_in += len(data)
            else:
                data = None
                if not final:
                    return Status.MORE
        finally:
            self._pool.give(scratch)
        if not (final or (data == b"" and (ending or fifo.hung_up(source.fd)))):
            return Status.EMPTY
        if source.tail.rest:
            self._put(source, b"", None)
        return Status.EOF

    def _next(self, source: _Source, scratch: Scratch) -> bytes | None:
        """The next block; None if there is nothing yet, empty if there is no writer either."""
        try:
            return os.read(source.fd, BLOCK) if self._path is None else scratch.peek(source.fd, BLOCK, self._tee)
        except BlockingIOError:
            return None

    def _put(self, source: _Source, data: bytes, scratch: Scratch | None) -> None:
        """One block through all stations. Empty data: the last line, which has no newline."""
        assert self._file is not None
        self._last_time_ns = now = max(time.time_ns(), self._last_time_ns)
        records, tail = _format(source.name, now, data, source.tail)
        length = sum(map(len, records))
        file = self._file
        block = Block(
            file.device, file.inode, file.size(), 0, length, len(data), now, zlib.crc32(data[-512:], len(data))
        )
        source.mark.begin(block, tail, data[-1] if data else 0)
        if records:
            file.append(records)
        self._finish(source, len(data), tail, scratch)
        self.bytes_out += length

    def _finish(self, source: _Source, count: int, tail: Tail, scratch: Scratch | None) -> None:
        if count:
            assert scratch is not None
            dropped = scratch.drop(source.fd, count, source.mark.witness)
            if dropped != count:
                self._log.error("log fifo has another reader", stream=source.name, wanted=count, dropped=dropped)
        source.mark.done()
        source.tail = tail

    # ------------------------------------------------------------------------------------------------ after a break

    def _ready_file(self) -> None:
        if self._file is not None or self._path is None:
            return
        if self._mark is None:
            self._mark = Mark(self._mark_path)
        file = LogFile.open(self._path)
        try:
            marks = {name: self._mark[name] for name in STREAMS}
            intents = [mark.intent for mark in marks.values()]
            # The torn end of a block that will be completed is none.
            if not any(block is not None and file.is_at(block.device, block.inode) for block in intents):
                self._last_time_ns = file.mend()
            self._last_time_ns = max(self._last_time_ns, *(mark.last_time_ns for mark in marks.values()))
        except OSError:
            file.close()
            raise
        self._file = file
        for name, mark in marks.items():
            block = mark.intent
            if block is not None and name not in self._sources:
                self._give_up(name, mark, block)

    def _resume(self, source: _Source, chunks: list[tuple[Stream, bytes]]) -> None:
        """Finish the block that a kill or a full disk interrupted, if there is one. Raises OSError."""
        block = source.mark.intent
        if block is None:
            return
        if source.mark.dropped:  # and so it was appended before
            source.mark.done()
            source.tail = source.mark.tail
            return
        scratch = self._pool.take()
        try:
            data = self._peek_again(source, block, scratch)
            if data is None:
                self._give_up(source.name, source.mark, block)
                source.tail = source.mark.tail
                return
            records, tail = _format(source.name, block.time_ns, data, source.mark.tail)
            self._append_rest(source.mark, block, records)
            self._finish(source, block.count, tail, scratch)
        finally:
            self._pool.give(scratch)
        self.bytes_in += len(data)
        self.bytes_out += block.length
        if data:
            chunks.append((source.name, data))

    def _peek_again(self, source: _Source, block: Block, scratch: Scratch) -> bytes | None:
        """The input of `block`; None if the FIFO does not hold it any more."""
        if not block.count:
            return b""
        try:
            data = scratch.peek(source.fd, block.count, self._tee)
        except BlockingIOError:
            return None
        if len(data) < block.count and _readable(source.fd) >= block.count:
            raise OSError(errno.ENOBUFS, "the scratch pipe is too small for the interrupted block")
        known = len(data) == block.count and zlib.crc32(data[-512:], len(data)) == block.sample
        return data if known else None

    def _append_rest(self, mark: StreamMark, block: Block, records: Pieces) -> None:
        assert self._file is not None
        file = self._file_of(block)
        try:
            present = -1 if file is None else file.size() - block.offset
            if file is None or present < 0:  # removed, or truncated by somebody: what was there is gone with it
                file = self._file
                mark.move(replace(block, device=file.device, inode=file.inode, offset=file.size()))
                present = 0
            file.append(records, block.skip + present)
        finally:
            if file is not None and file is not self._file:
                file.close()

    def _file_of(self, block: Block) -> LogFile | None:
        assert self._file is not None
        assert self._path is not None
        if self._file.is_at(block.device, block.inode):
            return self._file
        return LogFile.find(os.path.dirname(self._path), block.device, block.inode)

    def _give_up(self, name: Stream, mark: StreamMark, block: Block) -> None:
        """The block's input is gone (nobody held the FIFO open): keep what was written of it, as whole records."""
        file = self._file_of(block)
        if file is not None:
            written = block.skip + file.size() - block.offset
            if written < block.length:
                file.cut_torn(block.offset)
                self._log.warning(
                    "log output lost", stream=name, reason="nobody held the fifo open", at_most=block.count
                )
            if file is not self._file:
                file.close()
        mark.done()

    @staticmethod
    def _carry_over(source: _Source, old: LogFile, new: LogFile) -> None:
        """An unfinished block goes on in the new file, after the records that the old one has."""
        block = source.mark.intent
        if block is None or not old.is_at(block.device, block.inode):
            return
        old.cut_torn(block.offset)
        present = max(0, old.size() - block.offset)
        source.mark.move(
            replace(block, device=new.device, inode=new.inode, offset=new.size(), skip=block.skip + present)
        )


def _format(stream: Stream, time_ns: int, data: bytes, tail: Tail) -> tuple[Pieces, Tail]:
    return format_block(stream, time_ns, data, tail) if data else ([format_tail(stream, time_ns, tail)], Tail())


def _readable(fd: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return count
