# SPDX-License-Identifier: Apache-2.0
"""The stores: ids, prefixes, names, and list items that are made once per change."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.store import Store


@dataclass(frozen=True)
class Thing:
    id: str
    name: str = ""
    state: str = ""

    @property
    def name_key(self) -> str:
        return self.name or self.id


def make_store() -> tuple[Store[Thing], list[str]]:
    encoded: list[str] = []

    def encode(thing: Thing) -> bytes:
        encoded.append(thing.id)
        return f"<{thing.id}{thing.state}>".encode()

    return Store("thing", encode), encoded


def test_a_list_encodes_nothing_and_follows_changes():
    store, encoded = make_store()
    for name in ("ab", "cd"):
        store.put(Thing(name))
    assert store.frames() == b"<ab><cd>"
    assert store.frames() is store.frames()
    assert encoded == ["ab", "cd"]
    store.put(Thing("ab", state="!"))
    assert store.frames() == b"<ab!><cd>"
    assert store.frames(lambda thing: thing.state == "!") == b"<ab!>"
    store.remove("ab")
    store.remove("ab")
    assert store.frames() == b"<cd>"


@given(
    st.sets(st.text("0123456789abcdef", min_size=4, max_size=8), max_size=30), st.text("0123456789abcdef", max_size=8)
)
def test_a_prefix_finds_what_it_alone_names(ids: set[str], prefix: str):
    store, _ = make_store()
    for item in ids:
        store.put(Thing(item))
    matches = [item for item in ids if item.startswith(prefix)]
    if not prefix:
        with pytest.raises(errors.InvalidArgument, match="thing id is empty"):
            store.find(prefix)
    elif prefix in ids or len(matches) == 1:
        found = store.find(prefix)
        assert found is not None
        assert found.value.id == (prefix if prefix in ids else matches[0])
    elif matches:
        with pytest.raises(errors.InvalidArgument, match="ambiguous"):
            store.find(prefix)
    else:
        assert store.find(prefix) is None
        with pytest.raises(errors.NotFound, match="not found"):
            store.require(prefix)


def test_names_are_found_and_given_free():
    store, _ = make_store()
    store.put(Thing("1", "web"))
    entry = store.by_name("web")
    assert entry is not None
    assert entry.value.id == "1"
    store.put(Thing("2", "web"))
    store.remove("1")
    assert store.by_name("web").value.id == "2"
    store.remove("2")
    assert store.by_name("web") is None


def test_an_entry_keeps_its_lock_over_changes():
    store, _ = make_store()
    entry = store.put(Thing("1"))
    assert store.put(Thing("1", state="!")) is entry
