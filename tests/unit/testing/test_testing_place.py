# SPDX-License-Identifier: Apache-2.0
"""Names and paths of a place; its configuration files."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from acri import config
from acri.testing import containerd, settings
from acri.testing.place import Place

_SEGMENT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="/\x7f"), min_size=1, max_size=120
).filter(lambda text: text not in (".", ".."))
_DIRECTORIES = st.lists(_SEGMENT, min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))


@given(_DIRECTORIES)
def test_names_fit_where_they_go(directory: str) -> None:
    place = Place(directory)
    assert len(place.bridge) <= 15
    for path in (place.acri_socket, place.notify_socket, f"{place.containerd_socket}.ttrpc"):
        assert len(path.encode()) <= 104
        assert path.startswith((f"{directory}/", f"{place.link}/"))


@given(_DIRECTORIES)
def test_both_configurations_can_be_read_back(directory: str) -> None:
    place = Place(directory)
    document = tomllib.loads(containerd.config_toml(place))
    assert document["version"] == 2
    assert document["state"] == f"{directory}/containerd/state"
    assert "io.containerd.grpc.v1.cri" in document["disabled_plugins"]
    _, parsed = settings.acri_toml(place)
    assert parsed.socket == place.acri_socket
    assert parsed.cni.netns_dir == f"{directory}/netns"
    assert parsed.cgroups.parent == place.cgroup
    assert parsed.containerd.address == document["grpc"]["address"]


def test_the_default_configuration_can_be_the_users(tmp_path: Path) -> None:
    file = tmp_path / "acri.toml"
    file.write_text(config.default_toml())
    place = Place(str(tmp_path))
    _, parsed = settings.acri_toml(place, certs_dir="/certs", cni_conf_dir="/net.d", user_file=file)
    assert (parsed.images.certs_dir, parsed.cni.conf_dir) == ("/certs", "/net.d")
    assert (parsed.cgroups.driver, parsed.cgroups.parent) == ("cgroupfs", place.cgroup)
    assert "runc" in parsed.runtime.handlers


def test_a_users_systemd_driver_gets_a_slice(tmp_path: Path) -> None:
    file = tmp_path / "acri.toml"
    file.write_text('[cgroups]\ndriver = "systemd"\n')
    _, parsed = settings.acri_toml(Place(str(tmp_path)), user_file=file)
    assert parsed.cgroups.parent.endswith(".slice")
    assert "-" not in parsed.cgroups.parent


def test_the_network_is_the_places_own() -> None:
    place = Place("/x")
    document = json.loads(settings.conflist(place, "10.176.1.0/24"))
    assert document["name"] == place.network
    assert document["plugins"][0]["bridge"] == place.bridge
    assert document["plugins"][0]["ipam"]["dataDir"] == "/x/cni/ipam"
