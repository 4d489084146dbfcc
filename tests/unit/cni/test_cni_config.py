# SPDX-License-Identifier: Apache-2.0
"""Network configurations: what is accepted, and what the refusals say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.cni import config as cni_config
from acri.cni.config import VERSIONS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
BARE = st.text(st.characters(categories=["Ll", "Lu", "Nd"], include_characters="-_"), min_size=1, max_size=12)


def conflist(**changes: Any) -> bytes:
    document = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]} | changes
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def test_a_list_keeps_every_key_of_its_plugins() -> None:
    plugin = {"type": "bridge", "keyA": ["x", {"y": 1}], "ipam": {"type": "host-local"}, "capabilities": {"ips": True}}
    config = cni_config.parse(conflist(plugins=[plugin, {"type": "portmap"}], disableCheck=True), "f")
    assert config.name == "net"
    assert config.versions == ("1.0.0",)
    assert [item.type for item in config.plugins] == ["bridge", "portmap"]
    assert config.plugins[0].conf == plugin
    assert config.plugins[0].capabilities == {"ips"}
    assert config.plugins[0].binaries == ("bridge", "host-local")
    assert config.disable_check
    assert not config.disable_gc


def test_a_single_plugin_becomes_a_list_of_one_that_can_be_parsed_again() -> None:
    single = json.dumps({"cniVersion": "0.3.1", "name": "old", "type": "ptp", "mtu": 1400}).encode()
    config = cni_config.parse(single, "old.conf")
    assert [item.type for item in config.plugins] == ["ptp"]
    again = cni_config.parse(config.raw, "cache")
    assert (again.name, again.versions, again.plugins) == (config.name, config.versions, config.plugins)


@pytest.mark.parametrize(
    ("single", "several", "expected"),
    [
        ("0.4.0", None, ("0.4.0",)),
        (None, None, ("0.1.0",)),
        ("0.4.0", ["1.1.0", "1.0.0"], ("1.1.0", "1.0.0", "0.4.0")),
        (None, ["7.0.0", "1.0.0"], ("1.0.0",)),
    ],
)
def test_versions_are_those_known_highest_first(single: Any, several: Any, expected: tuple[str, ...]) -> None:
    config = cni_config.parse(conflist(cniVersion=single, cniVersions=several), "f")
    assert config.versions == expected


def test_the_version_spoken_is_the_highest_that_all_plugins_know() -> None:
    config = cni_config.parse(conflist(cniVersion="0.4.0", cniVersions=["1.0.0", "1.1.0"]), "f")
    assert cni_config.version_for(config) == "1.1.0"
    assert cni_config.version_for(config, [frozenset(VERSIONS), frozenset({"0.4.0", "1.0.0"})]) == "1.0.0"
    # Nothing in common: the plugin's own answer says it best.
    assert cni_config.version_for(config, [frozenset({"0.1.0"})]) == "1.1.0"


@pytest.mark.parametrize("flag", ["disableCheck", "disableGC", "loadOnlyInlinedPlugins"])
@pytest.mark.parametrize(("written", "meant"), [(True, True), ("true", True), ("False", False), (False, False)])
def test_flags_may_be_written_as_strings(flag: str, written: Any, meant: bool) -> None:
    config = cni_config.parse(conflist(**{flag: written}), "f")
    field = {"disableCheck": "disable_check", "disableGC": "disable_gc", "loadOnlyInlinedPlugins": "load_only_inlined"}
    assert getattr(config, field[flag]) is meant


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff{}", "not UTF-8 at byte 0"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "not usable JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b" " * (1 << 20) + b"{}", "larger than"),
        (conflist(name=None), "name must be"),
        (conflist(name="../etc"), "name must be"),
        (conflist(name=7), "name must be"),
        (conflist(cniVersion="2.0.0"), "cniVersion 2.0.0 is not among"),
        (conflist(cniVersion=1), "cniVersion must be a string"),
        (conflist(cniVersions="1.0.0"), "cniVersions must be a list"),
        (conflist(plugins=[]), "plugins must be a list"),
        (conflist(plugins={}), "plugins must be a list"),
        (conflist(plugins=["bridge"]), "plugins[0]: a plugin must be an object"),
        (conflist(plugins=[{"type": "bridge"}, {}]), "plugins[1]: type must be"),
        (conflist(plugins=[{"type": "../../bin/sh"}]), "type must be the bare name"),
        (conflist(plugins=[{"type": ".."}]), "type must be the bare name"),
        (conflist(plugins=[{"type": "a\0b"}]), "type must be the bare name"),
        (conflist(plugins=[{"type": "bridge", "ipam": {"type": "/bin/sh"}}]), "ipam.type must be the bare name"),
        (conflist(plugins=[{"type": "bridge", "capabilities": ["ips"]}]), "capabilities must map"),
        (conflist(plugins=[{"type": "bridge", "capabilities": {"ips": "yes"}}]), "capabilities must map"),
        (conflist(disableCheck="maybe"), "disableCheck must be true or false"),
        (conflist(plugins=None, loadOnlyInlinedPlugins=True), "there is no plugins key"),
    ],
)
def test_a_refusal_names_the_file_and_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(errors.FailedPrecondition, match=re.escape(reason)) as caught:
        cni_config.parse(data, "/etc/cni/net.d/10-x.conflist")
    assert "/etc/cni/net.d/10-x.conflist" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


def test_plugins_of_the_folder_come_after_the_inlined_ones_and_into_the_cached_form() -> None:
    config = cni_config.parse(conflist(), "f")
    extra = cni_config.parse_plugin(b'{"type": "tuning", "sysctl": {"a": "1"}}', "net/10.conf")
    merged = cni_config.merge_folder(config, (extra,))
    assert [item.type for item in merged.plugins] == ["bridge", "tuning"]
    again = cni_config.parse(merged.raw, "cache")
    assert again.plugins == merged.plugins
    assert again.load_only_inlined
    assert cni_config.merge_folder(config, ()) is config


def test_a_list_without_plugins_needs_a_folder() -> None:
    config = cni_config.parse(conflist(plugins=None), "f")
    with pytest.raises(errors.FailedPrecondition, match="no plugins key"):
        cni_config.merge_folder(config, ())


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_configuration_or_a_refusal(data: bytes) -> None:
    try:
        cni_config.parse(data, "f")
    except errors.FailedPrecondition:
        pass


@given(name=BARE, kinds=st.lists(BARE, min_size=1, max_size=4), extra=st.dictionaries(st.text(), JSON, max_size=3))
def test_what_was_parsed_parses_again_from_its_cached_form(name: str, kinds: list[str], extra: dict[str, Any]) -> None:
    known = {"type", "ipam", "capabilities"}
    plugins = [{key: value for key, value in extra.items() if key not in known} | {"type": kind} for kind in kinds]
    document = {"cniVersion": "1.0.0", "name": "n" + name.encode("ascii", "ignore").decode(), "plugins": plugins}
    config = cni_config.parse(json.dumps(document).encode(), "f")
    assert [dict(item.conf) for item in config.plugins] == plugins
    assert cni_config.parse(config.raw, "f") == config
