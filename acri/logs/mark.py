# SPDX-License-Identifier: Apache-2.0
"""The mark: how far the copy from a FIFO to the log file was, readable after a kill -9 at any instruction.

One small file per container, mapped into memory, so that a store in Python is at once in the page cache and outlives
the process. Per stream it holds three slots; a slot describes one block:

    EMPTY ──fill, then one byte──▶ INTENT ──append to the log──▶ ──drop from the FIFO──▶ DONE
                                     │                                                    │
                                     └── moved to another file: a new INTENT in the       └── the newest DONE is the
                                         third slot, same base                                base of the next INTENT

The newest slot (highest `sequence`) that is not EMPTY counts. Each change is one byte stored last, so what a kill
leaves is always a slot that is wholly the old or wholly the new one. A slot carries the stream's tail *after* its
block; the tail before it is in its base, which stays until the next block is done.

Whether the bytes left the FIFO is seen from the **witness**: the drop is one `readv` whose last byte lands in the
slot, over a byte that was set to something else. The kernel copies and consumes in one system call that a signal
cannot split, so the witness has changed exactly if the bytes are gone. (A counter written after the read could not
tell a kill before the read from one after it.)

Only the first page is mapped, and it is allocated when the file is made: a store to a page that a full tmpfs cannot
give would be a SIGBUS. Tails over 512 bytes are rare (a block that ends amid a long line) and written by `pwrite`.

The mark is worth as much as the FIFO's own content: a reboot loses both. It belongs on a tmpfs (/run/acri).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Final

from acri.logs.format import MAX_PIECE, STREAMS, Stream, Tail

__all__ = ["Block", "Mark", "StreamMark"]

_MAGIC: Final = b"acri-log-mark 1\n"
_PAGE: Final = mmap.PAGESIZE
_SLOTS: Final = 3
_SLOT_SIZE: Final = 640
_SLOTS_AT: Final = 64
_SHORT: Final = 512  # a tail up to this stands in its slot; a longer one behind the mapped page
_TAIL_AT: Final = _SLOT_SIZE - _SHORT

_EMPTY, _INTENT, _DONE = 0, 1, 2
# After the bytes state, witness, witness before: sequence, base slot, tail open, tail length, and the block.
_BODY: Final = struct.Struct("<QBBxxIQQQQQQqI")
_STATE_AT, _WITNESS_AT, _UNTOUCHED_AT, _BODY_AT = 0, 1, 2, 8


@dataclass(frozen=True, slots=True)
class Block:
    """One block: where its records belong, and which input they were made of.

    device, inode, offset   the log file, and its size in bytes before the append
    skip                    bytes of the records that stand in an earlier file already (the log was rotated meanwhile)
    length                  bytes of all records, `skip` included
    count                   bytes to be dropped from the FIFO
    time_ns                 the time that the records bear
    sample                  checksum of parts of the input, to know it again
    """

    device: int
    inode: int
    offset: int
    skip: int
    length: int
    count: int
    time_ns: int
    sample: int


class StreamMark:
    """The three slots of one stream. Not thread safe: the caller serialises."""

    def __init__(self, view: memoryview, index: int, path: str | None) -> None:
        start = _SLOTS_AT + index * _SLOTS * _SLOT_SIZE
        self._slots = [view[start + i * _SLOT_SIZE : start + (i + 1) * _SLOT_SIZE] for i in range(_SLOTS)]
        self._path = path
        self._long_at = _PAGE + index * _SLOTS * MAX_PIECE
        self._long: dict[int, bytes] = {}  # long tails of a mark without a file
        self._current: int | None = None
        self._sequence = 0
        for number, slot in enumerate(self._slots):
            sequence = _BODY.unpack_from(slot, _BODY_AT)[0]
            if slot[_STATE_AT] != _EMPTY and sequence > self._sequence:
                self._current, self._sequence = number, sequence

    @property
    def tail(self) -> Tail:
        """What the stream carries after its last finished block."""
        slot = self._current
        if slot is not None and self._slots[slot][_STATE_AT] == _INTENT:
            slot = self._base(slot)
        return self._tail_of(slot)

    @property
    def last_time_ns(self) -> int:
        """The time of the newest block; 0 if there is none."""
        return 0 if self._current is None else self._block_of(self._current).time_ns

    @property
    def intent(self) -> Block | None:
        """The block that was begun and not finished."""
        slot = self._current
        return self._block_of(slot) if slot is not None and self._slots[slot][_STATE_AT] == _INTENT else None

    def begin(self, block: Block, tail: Tail, last_byte: int) -> None:
        """Note that `block` is about to be appended; `tail` holds after it; its input ends with `last_byte`."""
        base = self._current
        slot = 0 if base is None else (base + 1) % _SLOTS
        self._fill(slot, _SLOTS if base is None else base, block, tail, last_byte ^ 0xFF)

    def move(self, block: Block) -> None:
        """The same intent, to be appended elsewhere (only device, inode, offset and skip may differ)."""
        slot = self._current
        assert slot is not None
        assert self._slots[slot][_STATE_AT] == _INTENT
        base = self._base(slot)
        free = next(i for i in range(_SLOTS) if i not in (slot, base))
        self._fill(free, _SLOTS if base is None else base, block, self._tail_of(slot), self._slots[slot][_UNTOUCHED_AT])

    @property
    def witness(self) -> memoryview:
        """The byte that the drop's last byte has to land in."""
        assert self._current is not None
        return self._slots[self._current][_WITNESS_AT : _WITNESS_AT + 1]

    @property
    def dropped(self) -> bool:
        """Whether the intent's bytes have left the FIFO."""
        assert self._current is not None
        header = self._slots[self._current]
        return header[_WITNESS_AT] != header[_UNTOUCHED_AT]

    def done(self) -> None:
        """The block is in the log and out of the FIFO."""
        assert self._current is not None
        self._slots[self._current][_STATE_AT] = _DONE

    def release(self) -> None:
        """Give the views back, so that the map can be closed."""
        for slot in self._slots:
            slot.release()

    def _fill(self, slot: int, base: int, block: Block, tail: Tail, untouched: int) -> None:
        header = self._slots[slot]
        header[_STATE_AT] = _EMPTY
        self._sequence += 1
        _BODY.pack_into(
            header,
            _BODY_AT,
            self._sequence,
            base,
            tail.open,
            len(tail.rest),
            block.device,
            block.inode,
            block.offset,
            block.skip,
            block.length,
            block.count,
            block.time_ns,
            block.sample,
        )
        self._put_rest(slot, tail.rest)
        header[_WITNESS_AT] = header[_UNTOUCHED_AT] = untouched
        header[_STATE_AT] = _INTENT
        self._current = slot

    def _base(self, slot: int) -> int | None:
        base: int = _BODY.unpack_from(self._slots[slot], _BODY_AT)[1]
        return base if base < _SLOTS else None

    def _tail_of(self, slot: int | None) -> Tail:
        if slot is None:
            return Tail()
        _, _, opened, length, *_ = _BODY.unpack_from(self._slots[slot], _BODY_AT)
        return Tail(self._get_rest(slot, length), bool(opened))

    def _put_rest(self, slot: int, rest: bytes) -> None:
        if len(rest) <= _SHORT:
            self._slots[slot][_TAIL_AT : _TAIL_AT + len(rest)] = rest
        elif self._path is None:
            self._long[slot] = rest
        else:
            with open(self._path, "r+b", buffering=0) as file:
                done = os.pwrite(file.fileno(), rest, self._long_at + slot * MAX_PIECE)
            if done != len(rest):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def _get_rest(self, slot: int, length: int) -> bytes:
        if length <= _SHORT:
            return bytes(self._slots[slot][_TAIL_AT : _TAIL_AT + length])
        if self._path is None:
            return self._long[slot]
        with open(self._path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, self._long_at + slot * MAX_PIECE)

    def _block_of(self, slot: int) -> Block:
        return Block(*_BODY.unpack_from(self._slots[slot], _BODY_AT)[4:])


class Mark:
    """The mapped file (or, without a path, anonymous memory: then a restart forgets)."""

    def __init__(self, path: str | None) -> None:
        """Map `path`, made if it is missing (0600). Raises OSError. A file that is no mark is begun anew."""
        if path is None:
            self._map = mmap.mmap(-1, _PAGE)
        else:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size < _PAGE or os.pread(fd, len(_MAGIC), 0) != _MAGIC:
                    os.ftruncate(fd, 0)
                    os.posix_fallocate(fd, 0, _PAGE)
                    os.pwrite(fd, _MAGIC, 0)
                self._map = mmap.mmap(fd, _PAGE)
            finally:
                os.close(fd)
        self._view = memoryview(self._map)
        self._streams: dict[Stream, StreamMark] = {
            name: StreamMark(self._view, i, path) for i, name in enumerate(STREAMS)
        }

    def __getitem__(self, stream: Stream) -> StreamMark:
        return self._streams[stream]

    def close(self) -> None:
        """Unmap; the file stays."""
        for stream in self._streams.values():
            stream.release()
        self._view.release()
        self._map.close()
