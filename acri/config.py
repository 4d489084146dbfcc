# SPDX-License-Identifier: Apache-2.0
"""acri's own settings: the TOML file as frozen dataclasses, every key documented once, here.

Each table of the file is a dataclass below; each key is a field made by `key`, which holds its default and the text
that `acri config default` prints. Every key is optional. A key that nobody knows, or a value of the wrong type, is a
`ConfigError` that names file, line and what was expected: a typing error must not become a default in silence.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from acri.errors import ConfigError

__all__ = [
    "DEFAULT_PATH",
    "CgroupSettings",
    "CniSettings",
    "ContainerdSettings",
    "HandlerSettings",
    "ImageSettings",
    "LogSettings",
    "RuntimeSettings",
    "Settings",
    "default_toml",
    "load",
    "parse",
]

T = TypeVar("T")

DEFAULT_PATH = Path("/etc/acri/config.toml")
MOST_SECONDS = 10**9
"""Some thirty years; what is larger is a slip, and timers do not take it."""


def key(default: Any, doc: str, *, choices: tuple[str, ...] = (), path: bool = False) -> Any:
    """A documented field. Mutable defaults are copied. `path`: it holds absolute paths and nothing else."""
    metadata = {"doc": doc, "choices": choices, "path": path}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class LogSettings:
    level: str = key("info", "debug, info, warning or error.", choices=("debug", "info", "warning", "error"))
    format: str = key(
        "auto", "console, json, or auto: console on a terminal, json otherwise.", choices=("auto", "console", "json")
    )


@dataclass(frozen=True, slots=True)
class ContainerdSettings:
    address: str = key("/run/containerd/containerd.sock", "containerd's gRPC socket.", path=True)
    namespace: str = key("k8s.io", "containerd namespace of everything that acri makes. cAdvisor looks in k8s.io.")
    snapshotter: str = key("overlayfs", "Snapshotter for container root file systems.")


@dataclass(frozen=True, slots=True)
class CniSettings:
    conf_dir: str = key(
        "/etc/cni/net.d", "Where network configurations are; the first valid one by name is used.", path=True
    )
    bin_dirs: tuple[str, ...] = key(
        ("/opt/cni/bin", "/usr/lib/cni"), "Where CNI plugins are, in order of search.", path=True
    )
    cache_dir: str = key(
        "/var/lib/cni", "Where results of ADD are kept for CHECK and DEL, in libcni's format.", path=True
    )
    netns_dir: str = key(
        "/run/netns", "Where network namespaces are pinned; `ip netns` looks in /run/netns.", path=True
    )
    timeout: float = key(60.0, "Seconds that one CNI plugin may take.")


@dataclass(frozen=True, slots=True)
class CgroupSettings:
    driver: str = key(
        "auto",
        "cgroupfs or systemd; auto: systemd where it is PID 1 and cgroups are v2. A kubelet adopts it (RuntimeConfig).",
        choices=("auto", "cgroupfs", "systemd"),
    )
    parent: str = key("", "Parent for pods that name none (crictl's); empty: /acri, or acri.slice with systemd.")


@dataclass(frozen=True, slots=True)
class ImageSettings:
    certs_dir: str = key(
        "/etc/containerd/certs.d", "Directory of HOST/hosts.toml files, the one that containerd reads.", path=True
    )
    max_concurrent_downloads: int = key(3, "Layers of one image that are fetched at once.")
    pinned: tuple[str, ...] = key((), "Images that the kubelet's garbage collection must leave alone.")
    pull_progress_timeout: float = key(300.0, "Seconds without a byte after which a pull is given up; 0: never.")


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    type: str = key("io.containerd.runc.v2", "containerd runtime (shim) of this handler.")
    snapshotter: str = key("", "Snapshotter for this handler; empty: [containerd] snapshotter.")
    binary: str = key("", "OCI runtime that the shim runs; empty: the shim's own default (runc).")
    privileged_without_host_devices: bool = key(False, "Privileged containers get no host devices by themselves.")


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    default_handler: str = key("runc", "Handler of pods that name none.")
    handlers: dict[str, HandlerSettings] = key(
        {"runc": HandlerSettings()}, "A table per runtime handler: [runtime.handlers.NAME]."
    )
    exec_output_limit: int = key(
        (16 << 20) - (64 << 10),
        "Bytes of stdout and stderr together that ExecSync answers at most; a kubelet takes messages of up to 16 MiB.",
    )
    drain_timeout: float = key(
        10.0, "Seconds to wait for output after a process ended while others still hold its stdout or stderr."
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file."""

    socket: str = key("/run/acri/acri.sock", "Where acri serves CRI; mode 0600.", path=True)
    state_dir: str = key("/run/acri", "What may be lost with a reboot: pinned namespaces, FIFOs, shm.", path=True)
    root_dir: str = key("/var/lib/acri", "What belongs to one sandbox or container and goes with it.", path=True)
    runtime_name: str = key(
        "acri", "Scheme of every containerID in the Kubernetes API. Do not change it on a live node."
    )
    log: LogSettings = field(default_factory=LogSettings)
    containerd: ContainerdSettings = field(default_factory=ContainerdSettings)
    cni: CniSettings = field(default_factory=CniSettings)
    cgroups: CgroupSettings = field(default_factory=CgroupSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)


def load(path: Path | None = None) -> Settings:
    """Settings from `path`, or from the default path if that exists, or the defaults.

    Raises:
        ConfigError: unreadable file, TOML error, unknown key, wrong type or value, relative path.
    """
    if path is None:
        if not DEFAULT_PATH.exists():
            return Settings()
        path = DEFAULT_PATH
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str, name: str = "config.toml") -> Settings:
    """Settings from TOML text; `name` is the file named in errors. Raises `ConfigError`."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from None
    settings = _Reader(name, text).table(Settings, document, ())
    if settings.runtime.default_handler not in settings.runtime.handlers:
        raise ConfigError(
            f"{name}: runtime.default_handler is {settings.runtime.default_handler!r}, "
            f"but there is no [runtime.handlers.{settings.runtime.default_handler}]"
        )
    return settings


class _Reader:
    """Turns parsed TOML into dataclasses and knows on which line a key stands."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = text.splitlines()

    def table(self, cls: type[T], table: dict[str, Any], path: tuple[str, ...]) -> T:
        hints = typing.get_type_hints(cls)
        fields = {spec.name: spec for spec in dataclasses.fields(typing.cast(Any, cls))}
        values = {}
        for name, value in table.items():
            here = (*path, name)
            if name not in fields:
                raise self._error(here, f"unknown key {'.'.join(here)!r}; known here: {', '.join(sorted(fields))}")
            values[name] = self._value(hints[name], fields[name], value, here)
        return cls(**values)

    def _value(self, hint: Any, spec: dataclasses.Field[Any], value: Any, path: tuple[str, ...]) -> Any:
        origin = typing.get_origin(hint)
        if dataclasses.is_dataclass(hint):
            return self.table(typing.cast(Any, hint), self._expect(dict, "a table", value, path), path)
        if origin is dict:
            inner = typing.get_args(hint)[1]
            tables = self._expect(dict, "a table of tables", value, path)
            return {
                name: self.table(inner, self._expect(dict, "a table", item, (*path, name)), (*path, name))
                for name, item in tables.items()
            }
        if origin is tuple:
            items = self._expect(list, "an array of strings", value, path)
            return tuple(self._text(spec, item, path) for item in items)
        if hint is float:
            # Not "or value < 0": TOML has nan and inf, too.
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_SECONDS:
                raise self._error(
                    path, f"{'.'.join(path)} must be a number of seconds, 0 to {MOST_SECONDS}, not {_short(value)}"
                )
            return float(value)
        if hint is int:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise self._error(path, f"{'.'.join(path)} must be a whole number of at least 1, not {_short(value)}")
            return value
        if hint is bool:
            return self._expect(bool, "true or false", value, path)
        return self._text(spec, value, path)

    def _text(self, spec: dataclasses.Field[Any], value: Any, path: tuple[str, ...]) -> str:
        text: str = self._expect(str, "a string", value, path)
        choices = spec.metadata["choices"]
        if choices and text not in choices:
            raise self._error(path, f"{'.'.join(path)} must be one of {', '.join(choices)}, not {_short(text)}")
        if spec.metadata["path"] and (not text.startswith("/") or "\0" in text):
            raise self._error(path, f"{'.'.join(path)} must be an absolute path, not {_short(text)}")
        return text

    def _expect(self, cls: type[Any], what: str, value: Any, path: tuple[str, ...]) -> Any:
        if not isinstance(value, cls):
            raise self._error(path, f"{'.'.join(path)} must be {what}, not {_short(value)}")
        return value

    def _error(self, path: tuple[str, ...], text: str) -> ConfigError:
        line = self._line_of(path)
        return ConfigError(f"{self._name}:{line}: {text}" if line else f"{self._name}: {text}")

    def _line_of(self, path: tuple[str, ...]) -> int:
        """The line where the key or table `path` stands, 1-based; tomllib does not tell. 0 if it was not found."""
        table: tuple[str, ...] = ()
        for number, line in enumerate(self._lines, 1):
            if header := re.match(r"\s*\[+([^\]]+)\]", line):
                table = _split_key(header[1])
                if table[: len(path)] == path:
                    return number
            elif (entry := re.match(r"\s*([^=#]+?)\s*=", line)) and (*table, *_split_key(entry[1]))[
                : len(path)
            ] == path:
                return number
        return 0


def _short(value: Any) -> str:
    """A value as an error shows it: on one line, and not whole where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a number with more digits than Python prints
        return "that"
    return text if len(text) <= 100 else f"{text[:100]}…"


def _split_key(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def default_toml() -> str:
    """The default configuration as commented TOML: every key with its text and its default."""
    lines = ["# acri's configuration. Every key is optional; what stands here is the default.", ""]
    _describe(Settings(), (), lines)
    return "\n".join(lines).rstrip() + "\n"


def _describe(settings: Any, path: tuple[str, ...], lines: list[str]) -> None:
    tables: list[tuple[tuple[str, ...], Any]] = []
    for spec in dataclasses.fields(settings):
        value = getattr(settings, spec.name)
        if dataclasses.is_dataclass(value):
            tables.append(((*path, spec.name), value))
            continue
        lines += [f"# {line}" for line in textwrap.wrap(spec.metadata["doc"], 116)]
        if isinstance(value, dict):
            tables += [((*path, spec.name, name), item) for name, item in value.items()]
        else:
            lines.append(f"{spec.name} = {_toml(value)}")
    lines.append("")
    for table_path, table in tables:
        lines.append(f"[{'.'.join(table_path)}]")
        _describe(table, table_path, lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)
