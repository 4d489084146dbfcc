# SPDX-License-Identifier: Apache-2.0
"""Choosing a subnet that nobody uses."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri.errors import ConfigError
from acri.testing.rendezvous import POOL, choose_subnet, routed

_TAGS = st.text("0123456789abcdef", min_size=8, max_size=8)
_TAKEN = st.lists(
    st.builds(
        lambda address, length: IPv4Network((address, length), strict=False),
        st.integers(int(POOL.network_address), int(POOL.broadcast_address)),
        st.integers(15, 32),
    ),
    max_size=30,
)

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.177.0.0/16 2 0 2
        |-- 10.177.4.0
           /24 link UNICAST
           /22 link UNICAST
        |-- 10.177.4.1
           /32 host LOCAL
Id 200:
  |-- 10.178.0.0
     /16 universe UNICAST
"""


@given(_TAGS, _TAKEN)
def test_the_chosen_one_is_free(tag: str, taken: list[IPv4Network]) -> None:
    chosen = IPv4Network(choose_subnet(tag, taken))
    assert chosen.prefixlen == 24
    assert chosen.subnet_of(POOL)
    assert not any(chosen.overlaps(other) for other in taken)


@given(_TAGS, _TAKEN)
def test_the_last_one_is_taken_again_if_it_is_free(tag: str, taken: list[IPv4Network]) -> None:
    last = choose_subnet(tag, taken)
    assert choose_subnet("00000000", taken, last) == last
    assert choose_subnet("00000000", [*taken, IPv4Network(last)], last) != last


def test_none_is_free() -> None:
    with pytest.raises(ConfigError, match="--cni-conf-dir"):
        choose_subnet("01234567", [IPv4Network("10.0.0.0/8")])


def test_routes_of_every_table_count(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/fib_trie").write_text(FIB_TRIE)
    assert [str(found) for found in routed(str(tmp_path))] == [
        "10.177.4.0/22",
        "10.177.4.0/24",
        "10.177.4.1/32",
        "10.178.0.0/16",
    ]
    assert routed(str(tmp_path / "none")) == []
