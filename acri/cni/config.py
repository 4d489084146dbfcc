# SPDX-License-Identifier: Apache-2.0
"""Network configurations: bytes of a file in, a checked `NetworkConfigList` out (CNI spec 1.1.0, section 1).

Two forms are read and told apart by their keys, not by the file's name: a list (`plugins`), and the older single
plugin (`type`), which becomes a list of one. What a plugin's own keys mean is the plugin's business: they are kept as
they were written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from acri import errors

__all__ = [
    "VERSIONS",
    "NetworkConfigList",
    "PluginConfig",
    "at_least",
    "merge_folder",
    "parse",
    "parse_plugin",
    "version_for",
]

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Every released version of the spec, oldest first. No version in a file means the first (spec 0.1.0)."""

MAX_BYTES = 1 << 20
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """One plugin of a network: `type` is its executable's name, `conf` its whole object as written."""

    type: str
    capabilities: frozenset[str]
    conf: Mapping[str, Any]

    @property
    def binaries(self) -> tuple[str, ...]:
        """Executables that this plugin needs: its own, and the address management one that it will call."""
        ipam = _ipam_type(self.conf)
        return (self.type, ipam) if ipam else (self.type,)


@dataclass(frozen=True, slots=True)
class NetworkConfigList:
    """A network: its plugins in the order of ADD.

    `versions` are the spec versions that the file declares and acri knows, highest first. `raw` is a JSON document
    that `parse` turns into an equal value; it goes to the result cache, so that DEL can do without the file.
    """

    name: str
    versions: tuple[str, ...]
    plugins: tuple[PluginConfig, ...]
    source: str
    raw: bytes
    disable_check: bool = False
    disable_gc: bool = False
    load_only_inlined: bool = False


def at_least(version: str, floor: str) -> bool:
    """Whether a known spec version is `floor` or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(floor)


def version_for(config: NetworkConfigList, supported: Iterable[frozenset[str]] = ()) -> str:
    """The spec version to speak: the highest one declared that every one of the plugins' sets in `supported` has.

    Where no declared version suits all, the highest declared one is taken: the plugin's own answer says best which
    of them is too old (spec, "Version considerations").
    """
    sets = tuple(supported)
    for version in config.versions:
        if all(version in known for known in sets):
            return version
    return config.versions[0]


def parse(data: bytes, filename: str, *, limit: int = MAX_BYTES) -> NetworkConfigList:
    """Parse and check a network configuration of at most `limit` bytes; `filename` is for messages.

    A list may come back without plugins when its folder is to supply them (`merge_folder`).

    Raises:
        errors.FailedPrecondition: it cannot be used; the text names the file, the key and the reason.
    """
    document = _document(data, filename, limit)
    if "plugins" not in document and "type" in document:
        plugin = _plugin(document, filename)
        wrapped = {"name": document.get("name"), "plugins": [document]}
        wrapped.update({key: document[key] for key in ("cniVersion", "cniVersions") if key in document})
        # A single plugin's file never had a folder beside it.
        return _list(wrapped, filename, (plugin,), json.dumps(wrapped).encode(), load_only_inlined=True)
    if "plugins" not in document:
        plugins: tuple[PluginConfig, ...] = ()
        if _flag(document, "loadOnlyInlinedPlugins", filename):
            raise _invalid(filename, "loadOnlyInlinedPlugins is true and there is no plugins key")
    else:
        listed = document["plugins"]
        if not isinstance(listed, list) or not listed:
            raise _invalid(filename, f"plugins must be a list with at least one plugin, not {_shown(listed)}")
        plugins = tuple(_plugin(item, f"{filename}: plugins[{index}]") for index, item in enumerate(listed))
    return _list(document, filename, plugins, data, _flag(document, "loadOnlyInlinedPlugins", filename))


def parse_plugin(data: bytes, filename: str, *, limit: int = MAX_BYTES) -> PluginConfig:
    """Parse one plugin object from a network's folder (CNI 1.1). Raises as `parse`."""
    return _plugin(_document(data, filename, limit), filename)


def merge_folder(config: NetworkConfigList, extra: tuple[PluginConfig, ...]) -> NetworkConfigList:
    """`config` with the plugins of its folder after its own (CNI 1.1); `raw` then inlines them all.

    Raises:
        errors.FailedPrecondition: neither the list nor the folder has a plugin.
    """
    plugins = config.plugins + extra
    if not plugins:
        raise _invalid(config.source, f"it has no plugins key, and no *.conf in the folder {config.name!r} beside it")
    if not extra:
        return config
    document = json.loads(config.raw)
    document["plugins"] = [dict(plugin.conf) for plugin in plugins]
    document["loadOnlyInlinedPlugins"] = True
    return NetworkConfigList(
        name=config.name,
        versions=config.versions,
        plugins=plugins,
        source=config.source,
        raw=json.dumps(document).encode(),
        disable_check=config.disable_check,
        disable_gc=config.disable_gc,
        load_only_inlined=True,
    )


def _list(
    document: Mapping[str, Any],
    filename: str,
    plugins: tuple[PluginConfig, ...],
    raw: bytes,
    load_only_inlined: bool,
) -> NetworkConfigList:
    name = document.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(filename, f"name must be letters, digits, '_', '.' and '-', not {_shown(name)}")
    return NetworkConfigList(
        name=name,
        versions=_versions(document, filename),
        plugins=plugins,
        source=filename,
        raw=raw,
        disable_check=_flag(document, "disableCheck", filename),
        disable_gc=_flag(document, "disableGC", filename),
        load_only_inlined=load_only_inlined,
    )


def _versions(document: Mapping[str, Any], filename: str) -> tuple[str, ...]:
    """Declared versions that acri knows, highest first; newer ones are passed over as long as one is left."""
    declared = document.get("cniVersions", [])
    if not isinstance(declared, list) or not all(isinstance(item, str) for item in declared):
        raise _invalid(filename, f"cniVersions must be a list of strings, not {_shown(declared)}")
    single = document.get("cniVersion", "")
    if not isinstance(single, str):
        raise _invalid(filename, f"cniVersion must be a string, not {_shown(single)}")
    wanted = {*declared, single} - {""} or {VERSIONS[0]}
    known = sorted(wanted & set(VERSIONS), key=VERSIONS.index, reverse=True)
    if not known:
        raise _invalid(filename, f"cniVersion {', '.join(sorted(wanted))} is not among {', '.join(VERSIONS)}")
    return tuple(known)


def _plugin(item: object, where: str) -> PluginConfig:
    if not isinstance(item, dict):
        raise _invalid(where, f"a plugin must be an object, not {_shown(item)}")
    kind = item.get("type")
    # CVE-2021-20206: a path here would run any program of the host as root.
    if not _is_bare(kind):
        raise _invalid(where, f"type must be the bare name of an executable, not {_shown(kind)}")
    ipam = item.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type", "") != "" and not _is_bare(ipam["type"]):
        raise _invalid(where, f"ipam.type must be the bare name of an executable, not {_shown(ipam['type'])}")
    capabilities = item.get("capabilities") or {}
    if not isinstance(capabilities, dict) or not all(isinstance(on, bool) for on in capabilities.values()):
        raise _invalid(where, f"capabilities must map names to true or false, not {_shown(capabilities)}")
    return PluginConfig(str(kind), frozenset(key for key, on in capabilities.items() if on), item)


def _ipam_type(conf: Mapping[str, Any]) -> str:
    ipam = conf.get("ipam")
    return str(ipam.get("type", "")) if isinstance(ipam, dict) else ""


def _is_bare(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and name.isprintable()


def _flag(document: Mapping[str, Any], key: str, where: str) -> bool:
    """A boolean, which may be written as a string: older files do so and libcni takes it."""
    value = document.get(key, False)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise _invalid(where, f"{key} must be true or false, not {_shown(value)}")
    return value


def _document(data: bytes, filename: str, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise _invalid(filename, f"it is larger than {limit} bytes")
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _invalid(filename, f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _invalid(filename, f"it is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise _invalid(filename, f"it is not usable JSON: {error}") from None
    if not isinstance(document, dict):
        raise _invalid(filename, f"it must be a JSON object, not {_shown(document)}")
    return document


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _shown(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _invalid(where: str, reason: str) -> errors.FailedPrecondition:
    return errors.FailedPrecondition(f"CNI configuration {where}: {reason}")
