# SPDX-License-Identifier: Apache-2.0
"""The first process: arguments, environment, working directory, OOM score, resource limits.

References:
    CRI, ContainerConfig; Kubernetes, "Define a Command and Arguments for a Container"; runtime-spec, config.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from acri import errors
from acri.model.config import ContainerConfig
from acri.model.container import User
from acri.model.image import ImageConfig
from acri.oci import paths
from acri.oci.security import Capabilities

__all__ = [
    "DEFAULT_PATH",
    "OOMScore",
    "ProcessInputs",
    "Rlimit",
    "arguments",
    "build",
    "environment",
    "exec_process",
    "oom_score_adj",
    "working_dir",
]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Where runc would resolve the directory against its own open files (CVE-2024-21626) or another process's root.
_PROC_SELF = re.compile(r"/proc/(?:self|thread-self|[0-9]+)(?:/|\Z)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rlimit:
    """`type` is "RLIMIT_NOFILE" and the like; -1 is unlimited."""

    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class OOMScore:
    """`raised`: the host did not allow as low a value as was asked for."""

    value: int
    raised: bool


@dataclass(frozen=True, slots=True)
class ProcessInputs:
    """What `build` puts together; everything in it is decided already."""

    config: ContainerConfig
    image: ImageConfig
    user: User
    capabilities: Capabilities
    hostname: str
    no_new_privs: bool
    oom_score_adj: int
    apparmor_profile: str = ""
    selinux_label: str = ""
    rlimits: tuple[Rlimit, ...] = ()


def build(inputs: ProcessInputs) -> dict[str, Any]:
    """The spec's `process`. Raises InvalidArgument as the functions below."""
    config, image, user = inputs.config, inputs.image, inputs.user
    process: dict[str, Any] = {
        "terminal": config.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.supplemental_groups)},
        "args": arguments(config, image),
        "env": environment(config, image, inputs.hostname),
        "cwd": working_dir(config, image),
        "capabilities": inputs.capabilities.spec(),
        "noNewPrivileges": inputs.no_new_privs,
        "oomScoreAdj": inputs.oom_score_adj,
    }
    if inputs.rlimits:
        process["rlimits"] = [
            {"type": limit.type, "soft": _unsigned(limit.soft), "hard": _unsigned(limit.hard)}
            for limit in inputs.rlimits
        ]
    if inputs.apparmor_profile:
        process["apparmorProfile"] = inputs.apparmor_profile
    if inputs.selinux_label:
        process["selinuxLabel"] = inputs.selinux_label
    return process


def _unsigned(limit: int) -> int:
    return limit if limit >= 0 else (1 << 64) - 1


def arguments(config: ContainerConfig, image: ImageConfig) -> list[str]:
    """command and args of the request over ENTRYPOINT and CMD of the image.

    command   args    runs
    set       any     command args          (CMD is dropped, for it was written for the image's ENTRYPOINT)
    empty     set     ENTRYPOINT args
    empty     empty   ENTRYPOINT CMD

    Raises:
        InvalidArgument: nothing is left to run, or a NUL byte in it.
    """
    args = list(config.args)
    command = list(config.command)
    if not command:
        args = args or list(image.cmd)
        # An ENTRYPOINT of one empty string is how a Dockerfile takes back that of its base image.
        command = [] if image.entrypoint == ("",) else list(image.entrypoint)
    command += args
    if not command:
        raise errors.InvalidArgument("no command specified: neither the request nor the image has one")
    _no_nul(command, "command")
    return command


def environment(config: ContainerConfig, image: ImageConfig, hostname: str) -> list[str]:
    """PATH, TERM with a terminal, HOSTNAME; then the image's; then the request's.

    A name that comes again keeps its first place and takes its last value. An entry of the image without "=" takes the
    variable out again, as containerd has it; one without a name is passed over, for runc would not start it.

    Raises:
        InvalidArgument: a variable of the request without a name, with "=" in it, or a NUL byte in either.
    """
    merged = {"PATH": DEFAULT_PATH}
    if config.tty:
        merged["TERM"] = "xterm"
    if hostname:
        merged["HOSTNAME"] = hostname
    for entry in image.env:
        name, equals, value = entry.partition("=")
        if not equals:
            merged.pop(name, None)
        elif name:
            merged[name] = value
    for pair in config.envs:
        if not pair.key or "=" in pair.key:
            raise errors.InvalidArgument(f"environment variable name {pair.key!r} is empty or contains '='")
        merged[pair.key] = pair.value
    entries = [f"{name}={value}" for name, value in merged.items()]
    _no_nul(entries, "environment")
    return entries


def working_dir(config: ContainerConfig, image: ImageConfig) -> str:
    """The request's working directory, else the image's, else "/".

    Raises:
        InvalidArgument: relative (the image's is taken from "/", as `docker run` does), a NUL byte, or below a
            process's directory in /proc.
    """
    if config.working_dir and not config.working_dir.startswith("/"):
        raise errors.InvalidArgument(f"working directory {config.working_dir!r} is not absolute")
    cwd = paths.clean("/" + (config.working_dir or image.working_dir))
    _no_nul([cwd], "working directory")
    if _PROC_SELF.match(cwd):
        raise errors.InvalidArgument(f"working directory {cwd!r} reaches into a process")
    return cwd


def exec_process(process: dict[str, Any], command: Sequence[str], *, terminal: bool) -> dict[str, Any]:
    """The process of an exec: the container's own `process` with another command.

    So it has the container's user, groups, capabilities and labels, never more. `process` is not changed.

    Raises:
        InvalidArgument: no command, or a NUL byte in it.
    """
    if not command:
        raise errors.InvalidArgument("no command specified")
    _no_nul(command, "command")
    env = list(process.get("env", ()))
    if terminal and not any(entry.startswith("TERM=") for entry in env):
        env.append("TERM=xterm")
    return {**process, "args": list(command), "env": env, "terminal": terminal}


def oom_score_adj(wanted: int, minimum: int) -> OOMScore:
    """`wanted`, raised to the lowest value that the host lets a container have.

    Always set, also to 0: a container would otherwise inherit the shim's, which the kernel all but never kills.

    Raises:
        InvalidArgument: outside -1000 to 1000.
    """
    if not -1000 <= wanted <= 1000:
        raise errors.InvalidArgument(f"oom_score_adj {wanted} is not in -1000 to 1000")
    value = max(wanted, minimum)
    return OOMScore(value, value != wanted)


def _no_nul(texts: Iterable[str], what: str) -> None:
    for text in texts:
        if "\0" in text:
            raise errors.InvalidArgument(f"{what} contains a NUL byte: {text[:64]!r}")
