# SPDX-License-Identifier: Apache-2.0
"""Objects by id, by unique id prefix and by name, each with its ready-made CRI list item.

The kubelet lists every sandbox and container once a second, and asks for a status at every change. So each entry keeps
the wire bytes of its own list item, made when it changes; a list without a filter is the join of those bytes, kept
until the next change: nothing is encoded per poll.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from acri import errors

__all__ = ["Entry", "Store"]


class Named(Protocol):
    """What a store holds: it has an id and a name that only one live object may bear."""

    @property
    def id(self) -> str: ...
    @property
    def name_key(self) -> Hashable: ...


T = TypeVar("T", bound=Named)


class Entry(Generic[T]):
    """One object. `value` is replaced whole at each change; `lock` serialises the operations that change it."""

    __slots__ = ("frame", "lock", "value")

    def __init__(self, value: T, frame: bytes) -> None:
        self.value = value
        self.frame = frame
        self.lock = asyncio.Lock()


class Store(Generic[T]):
    """All objects of one kind.

    Args:
        kind: what error texts call them (`container`, `pod sandbox`).
        encode: makes the framed list item of a value (tag, length, message): what a list answer is joined from.
    """

    def __init__(self, kind: str, encode: Callable[[T], bytes]) -> None:
        self._kind = kind
        self._encode = encode
        self._entries: dict[str, Entry[T]] = {}
        self._sorted_ids: list[str] = []
        self._names: dict[Hashable, str] = {}
        self._all_frames: bytes | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(list(self._entries.values()))

    def put(self, value: T) -> Entry[T]:
        """Add or replace the object with `value`'s id."""
        frame = self._encode(value)
        entry = self._entries.get(value.id)
        if entry is None:
            entry = self._entries[value.id] = Entry(value, frame)
            insort(self._sorted_ids, value.id)
        else:
            entry.value, entry.frame = value, frame
        self._names[value.name_key] = value.id
        self._all_frames = None
        return entry

    def replace(self, value: T) -> bool:
        """Replace the object with `value`'s id; False, and nothing is done, if it was removed meanwhile."""
        if value.id not in self._entries:
            return False
        self.put(value)
        return True

    def remove(self, object_id: str) -> None:
        """Forget an object; unknown ids are ignored."""
        entry = self._entries.pop(object_id, None)
        if entry is None:
            return
        self._sorted_ids.remove(object_id)
        if self._names.get(entry.value.name_key) == object_id:
            del self._names[entry.value.name_key]
        self._all_frames = None

    def get(self, object_id: str) -> Entry[T] | None:
        """The entry with exactly this id."""
        return self._entries.get(object_id)

    def by_name(self, name_key: Hashable) -> Entry[T] | None:
        """The entry that bears this name."""
        return self._entries.get(self._names.get(name_key, ""))

    def find(self, id_or_prefix: str) -> Entry[T] | None:
        """The entry with this id or unique id prefix, None if there is none.

        Raises:
            errors.InvalidArgument: empty, or a prefix of several ids.
        """
        if not id_or_prefix:
            raise errors.InvalidArgument(f"{self._kind} id is empty")
        entry = self._entries.get(id_or_prefix)
        if entry is not None:
            return entry
        at = bisect_left(self._sorted_ids, id_or_prefix)
        matches = [i for i in self._sorted_ids[at : at + 2] if i.startswith(id_or_prefix)]
        if len(matches) > 1:
            raise errors.InvalidArgument(f"{self._kind} id {id_or_prefix!r} is ambiguous: give more of it")
        return self._entries[matches[0]] if matches else None

    def require(self, id_or_prefix: str) -> Entry[T]:
        """Like `find`, for calls that need the object.

        Raises:
            errors.NotFound: there is none.
            errors.InvalidArgument: empty or ambiguous.
        """
        entry = self.find(id_or_prefix)
        if entry is None:
            raise errors.NotFound(f"{self._kind} {id_or_prefix!r} not found")
        return entry

    def frames(self, wanted: Callable[[T], bool] | None = None) -> bytes:
        """The joined list items of all objects, or of those that `wanted` accepts."""
        if wanted is not None:
            return b"".join(entry.frame for entry in self._entries.values() if wanted(entry.value))
        if self._all_frames is None:
            self._all_frames = b"".join(entry.frame for entry in self._entries.values())
        return self._all_frames

    def values(self) -> Iterable[T]:
        """All values, oldest entry first."""
        return [entry.value for entry in self._entries.values()]
