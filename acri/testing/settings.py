# SPDX-License-Identifier: Apache-2.0
"""acri.toml and the network configuration of a `Place`: the user's file, with what makes the place private over it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from acri import config
from acri.config import Settings
from acri.errors import ConfigError
from acri.testing.place import Place

__all__ = ["acri_toml", "conflist"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def acri_toml(
    place: Place, *, certs_dir: str | None = None, cni_conf_dir: str | None = None, user_file: Path | None = None
) -> tuple[str, Settings]:
    """The configuration for `acri serve`, as text and as what it means.

    Keys of the user's file hold, but for those that say where things are: these are the place's. Without such a file
    the system's own configuration is not looked at.

    Raises:
        ConfigError: the user's file is wrong.
    """
    document: dict[str, Any] = {}
    if user_file is not None:
        config.load(user_file)  # mistakes are told with the user's own file and line
        document = tomllib.loads(user_file.read_text("utf-8"))
    document["socket"] = place.acri_socket
    document["state_dir"] = place.acri_state
    document["root_dir"] = place.acri_root
    document.setdefault("containerd", {})["address"] = place.containerd_socket
    cni = document.setdefault("cni", {})
    cni["conf_dir"] = cni_conf_dir or place.below("cni", "net.d")
    cni["cache_dir"] = place.below("cni", "cache")
    cni["netns_dir"] = place.netns
    cgroups = document.setdefault("cgroups", {})
    # A parent of our own is what makes it possible to find every process of ours, whoever else is on this host.
    if cgroups.get("driver", "auto") == "auto":
        cgroups["driver"] = "cgroupfs"
    cgroups["parent"] = place.slice if cgroups["driver"] == "systemd" else place.cgroup
    if certs_dir:
        document.setdefault("images", {})["certs_dir"] = certs_dir
    text = "# Written by acri up at every start.\n" + "\n".join(_toml(document))
    return text, config.parse(text, place.acri_config)


def _toml(table: dict[str, Any], path: tuple[str, ...] = ()) -> list[str]:
    """Lines of TOML for a table of what acri's configuration has: strings, numbers, booleans, arrays, tables."""
    lines = [f"[{'.'.join(map(_key, path))}]"] if path else []
    lines += [f"{_key(name)} = {_value(value)}" for name, value in table.items() if not isinstance(value, dict)]
    for name, value in table.items():
        if isinstance(value, dict):
            lines += ["", *_toml(value, (*path, name))]
    return lines if path else [*lines, ""]


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str | bool | int | float):
        return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML basic string, but for surrogates
    raise ConfigError(f"a value of type {type(value).__name__} has no place in acri's configuration")


def conflist(place: Place, subnet: str) -> str:
    """A bridge network of its own for the place, with addresses kept below it."""
    plugins = [
        {
            "type": "bridge",
            "bridge": place.bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": place.below("cni", "ipam"),
                "ranges": [[{"subnet": subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": place.network, "plugins": plugins}, indent=2) + "\n"
