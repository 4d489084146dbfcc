# SPDX-License-Identifier: Apache-2.0
"""The result cache: libcni's format, and files that are not what they should be."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri.cni.cache import Cache, Entry, _from_json, _to_json

ENTRY = Entry(
    network="net",
    sandbox_id="abc",
    ifname="eth0",
    netns="/run/netns/x",
    config=b'{"name": "net"}',
    cni_args=(("IgnoreUnknown", "1"), ("K8S_POD_NAME", "p")),
    capability_args={"portMappings": [{"hostPort": 80}]},
    result={"cniVersion": "1.0.0"},
    owner="acri",
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path))


def test_the_file_is_the_one_that_libcni_reads(cache: Cache, tmp_path: Path) -> None:
    cache.put(ENTRY)
    path = tmp_path / "results" / "net-abc-eth0"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "results").stat().st_mode & 0o777 == 0o700
    assert json.loads(path.read_bytes()) == {
        "kind": "cniCacheV1",
        "containerId": "abc",
        "config": base64.b64encode(ENTRY.config).decode(),
        "ifName": "eth0",
        "networkName": "net",
        "netns": "/run/netns/x",
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "p"]],
        "capabilityArgs": {"portMappings": [{"hostPort": 80}]},
        "result": {"cniVersion": "1.0.0"},
        "owner": "acri",
    }


def test_an_entry_is_found_whatever_its_network_is_called(cache: Cache) -> None:
    cache.put(replace(ENTRY, result=None))
    cache.put(ENTRY)
    cache.put(replace(ENTRY, network="other-net"))
    cache.put(replace(ENTRY, sandbox_id="x-abc"))
    cache.put(replace(ENTRY, ifname="eth1"))
    assert [entry.network for entry in cache.find("abc", "eth0")] == ["net", "other-net"]
    assert len(cache.all()) == 4
    cache.remove("abc", "eth0")
    cache.remove("abc", "eth0")
    assert cache.find("abc", "eth0") == []
    assert {(entry.sandbox_id, entry.ifname) for entry in cache.all()} == {("x-abc", "eth0"), ("abc", "eth1")}


def test_nothing_cached(cache: Cache) -> None:
    assert cache.find("abc", "eth0") == []
    assert cache.all() == []
    cache.remove("abc", "eth0")


def test_an_old_libcni_file_is_the_bare_result(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "net-abc-eth0").write_text('{"cniVersion": "0.3.1", "ips": []}')
    (entry,) = cache.find("abc", "eth0")
    assert entry.network == "net"
    assert entry.result == {"cniVersion": "0.3.1", "ips": []}
    assert entry.config == b""


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"kind": "cniCacheV1"}', '{"kind": "cniCacheV2"}', '{"kind":"cniCacheV1","config":"*"}'],
)
def test_unusable_files_are_left_out_and_removed(cache: Cache, tmp_path: Path, content: str) -> None:
    cache.put(ENTRY)
    (tmp_path / "results" / "net-abc-eth0").write_text(content)
    (tmp_path / "results" / ".net-abc-eth0.tmp").write_text("torn")
    assert cache.find("abc", "eth0") == []
    assert cache.all() == []
    cache.remove("abc", "eth0")
    assert list((tmp_path / "results").iterdir()) == []


@given(st.binary(max_size=100))
def test_any_bytes_are_an_entry_or_nothing(data: bytes) -> None:
    _from_json(data, "net", "abc", "eth0")


@given(
    st.builds(
        Entry,
        network=st.text(),
        sandbox_id=st.text(),
        ifname=st.text(),
        netns=st.text(),
        config=st.binary(),
        cni_args=st.lists(st.tuples(st.text(), st.text())).map(tuple),
        capability_args=st.dictionaries(st.text(), st.integers()),
        result=st.none() | st.dictionaries(st.text(), st.text()),
        owner=st.text(),
    )
)
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    assert _from_json(json.dumps(_to_json(entry)).encode(), "", "", "") == entry
