# SPDX-License-Identifier: Apache-2.0
"""Seccomp: which profile a container gets, and the profile itself as the runtime spec has it (`linux.seccomp`).

    security_context.seccomp, else the deprecated seccomp_profile_path, else none
        Unconfined, or the container is privileged   → None
        RuntimeDefault                               → `runtime_default`, from data/seccomp_default.toml
        Localhost                                    → `parse_localhost` of the file at `localhost_path`, which the
                                                       caller reads

The default profile depends on the container's final bounding set, so it is made after the capabilities.

References:
    OCI runtime-spec, config-linux.md, "Seccomp"; CRI, SecurityProfile.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from typing import Any

from acri import errors
from acri.host.facts import HostFacts
from acri.model.config import LinuxContainerSecurityContext, SecurityProfile, SecurityProfileType

__all__ = ["LOCALHOST_LIMIT", "build", "localhost_path", "parse_localhost", "runtime_default", "wanted"]

Json = dict[str, Any]

LOCALHOST_LIMIT = 1 << 20
"""Bytes that a Localhost profile may have; the largest in use have some 50 KiB."""

_UNCONFINED = SecurityProfile(SecurityProfileType.UNCONFINED)
_RUNTIME_DEFAULT = SecurityProfile(SecurityProfileType.RUNTIME_DEFAULT)
# The old one-string form; Docker's words live on in it.
_DEPRECATED = {
    "": _UNCONFINED,
    "unconfined": _UNCONFINED,
    "runtime/default": _RUNTIME_DEFAULT,
    "docker/default": _RUNTIME_DEFAULT,
}
_LOCALHOST_PREFIX = "localhost/"
_ACTIONS = frozenset(
    f"SCMP_ACT_{name}"
    for name in ("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY")
)
_OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))


@dataclass(frozen=True, slots=True)
class _Rule:
    """One [[rule]] of the table; what its fields mean is written there."""

    calls: tuple[str, ...]
    caps: frozenset[str]
    without: frozenset[str]
    arches: frozenset[str]
    not_arches: frozenset[str]
    kernel: tuple[int, int]
    args: tuple[tuple[int, str, int, int], ...]
    errno: int | None

    def holds(self, bounding: Collection[str], architecture: str, kernel: tuple[int, ...]) -> bool:
        return (
            self.caps.issubset(bounding)
            and self.without.isdisjoint(bounding)
            and (not self.arches or architecture in self.arches)
            and architecture not in self.not_arches
            and kernel[:2] >= self.kernel
        )

    def spec(self) -> Json:
        syscall: Json = {"names": list(self.calls), "action": "SCMP_ACT_ALLOW"}
        if self.errno is not None:
            syscall.update(action="SCMP_ACT_ERRNO", errnoRet=self.errno)
        if self.args:
            syscall["args"] = [
                {"index": index, "op": op, "value": mask, "valueTwo": value}
                if op == "SCMP_CMP_MASKED_EQ"
                else {"index": index, "op": op, "value": value}
                for index, op, value, mask in self.args
            ]
        return syscall


def _rule(table: Json) -> _Rule:
    major, minor = table.get("kernel", (0, 0))
    return _Rule(
        calls=tuple(table["calls"].split()),
        caps=frozenset(table.get("caps", ())),
        without=frozenset(table.get("without", ())),
        arches=frozenset(table.get("arches", ())),
        not_arches=frozenset(table.get("not_arches", ())),
        kernel=(major, minor),
        args=tuple((arg["index"], arg["op"], arg["value"], arg.get("mask", 0)) for arg in table.get("args", ())),
        errno=table.get("errno"),
    )


# Read once, with the module: part of the program, not of a request.
_TABLE = tomllib.loads(resources.files("acri.oci").joinpath("data/seccomp_default.toml").read_text("utf-8"))
_RULES = tuple(_rule(table) for table in _TABLE["rule"])
_ARCHITECTURES: dict[str, list[str]] = _TABLE["architectures"]


def wanted(context: LinuxContainerSecurityContext) -> SecurityProfile:
    """The profile that a container asks for; privileged containers get Unconfined whatever they ask for.

    Raises:
        InvalidArgument: a reference without Localhost, Localhost without an absolute path, an unknown deprecated form.
    """
    profile = context.seccomp
    if profile is None:
        profile = _deprecated(context.seccomp_profile_path)
    if profile.profile_type != SecurityProfileType.LOCALHOST:
        if profile.localhost_ref:
            raise errors.InvalidArgument(
                f"seccomp localhost_ref {profile.localhost_ref!r} is set, but the profile type is not Localhost"
            )
        return _UNCONFINED if context.privileged else profile
    path = profile.localhost_ref.removeprefix(_LOCALHOST_PREFIX)
    if not path.startswith("/") or "\0" in path:
        raise errors.InvalidArgument(
            f"seccomp localhost_ref {profile.localhost_ref!r} is not the absolute path of a profile"
        )
    return _UNCONFINED if context.privileged else SecurityProfile(SecurityProfileType.LOCALHOST, path)


def _deprecated(text: str) -> SecurityProfile:
    if text.startswith(_LOCALHOST_PREFIX):
        return SecurityProfile(SecurityProfileType.LOCALHOST, text)
    try:
        return _DEPRECATED[text]
    except KeyError:
        raise errors.InvalidArgument(f"seccomp_profile_path {text!r} is not a known form") from None


def localhost_path(context: LinuxContainerSecurityContext) -> str:
    """The node's file that has to be read for `build`; "" if none."""
    return wanted(context).localhost_ref


def build(
    context: LinuxContainerSecurityContext, *, bounding: Collection[str], host: HostFacts, localhost: bytes | None
) -> Json | None:
    """`linux.seccomp`, or None for no filter.

    `bounding` is the container's final set; `localhost` what `localhost_path` names, if anything.

    Raises:
        InvalidArgument: see `wanted` and `parse_localhost`.
        Unimplemented: a filter is asked for and the kernel has none.
    """
    profile = wanted(context)
    if profile.profile_type == SecurityProfileType.UNCONFINED:
        return None
    if not host.seccomp:
        raise errors.Unimplemented("a seccomp profile is asked for, but this kernel has no seccomp filters")
    if profile.profile_type == SecurityProfileType.RUNTIME_DEFAULT:
        return runtime_default(bounding, host.architecture, host.kernel)
    if localhost is None:
        raise errors.InvalidArgument(f"seccomp profile {profile.localhost_ref!r} was not found on this node")
    return parse_localhost(localhost, profile.localhost_ref)


def runtime_default(bounding: Collection[str], architecture: str, kernel: tuple[int, ...]) -> Json:
    """The default profile for a bounding set, an architecture (OCI word) and a kernel. A new dict at each call."""
    allowed: dict[str, None] = {}
    conditional: list[Json] = []
    for rule in _RULES:
        if not rule.holds(bounding, architecture, kernel):
            continue
        if rule.args or rule.errno is not None:
            conditional.append(rule.spec())
        else:
            allowed.update(dict.fromkeys(rule.calls))
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": list(_ARCHITECTURES.get(architecture, ())),
        "syscalls": [{"names": list(allowed), "action": "SCMP_ACT_ALLOW"}, *conditional],
    }


def parse_localhost(data: bytes, path: str) -> Json:
    """A Localhost profile: JSON in the runtime spec's form. Properties that the spec does not have are dropped.

    Checked here because runc's own message for a bad one comes at start and names no file.

    Raises:
        InvalidArgument: too large, not JSON, or not of the form.
    """

    def fail(why: str) -> errors.InvalidArgument:
        return errors.InvalidArgument(f"seccomp profile {path!r}: {why}")

    if len(data) > LOCALHOST_LIMIT:
        raise fail(f"larger than {LOCALHOST_LIMIT} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise fail(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise fail("not a JSON object")
    if not _one_of(document.get("defaultAction"), _ACTIONS):
        raise fail(f"defaultAction {document.get('defaultAction')!r} is not an action")
    profile: Json = {"defaultAction": document["defaultAction"]}
    for key in ("architectures", "flags"):
        if document.get(key):
            profile[key] = _strings(document[key], key, fail)
    for key in ("defaultErrnoRet", "listenerPath", "listenerMetadata"):
        value = document.get(key)
        if value is not None:
            if not (_unsigned(value) if key == "defaultErrnoRet" else isinstance(value, str)):
                raise fail(f"{key} {value!r} is not of its type")
            profile[key] = value
    syscalls = document.get("syscalls", [])
    if syscalls is None:  # what Go writes for an empty list
        syscalls = []
    if not isinstance(syscalls, list):
        raise fail("syscalls is not a list")
    profile["syscalls"] = [_syscall(entry, fail) for entry in syscalls]
    return profile


def _strings(value: Any, key: str, fail: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise fail(f"{key} is not a list of strings")
    return list(value)


def _syscall(entry: Any, fail: Any) -> Json:
    if not isinstance(entry, dict):
        raise fail("an entry of syscalls is not an object")
    names = _strings(entry.get("names"), "names", fail)
    if not names:
        raise fail("an entry of syscalls has no names")
    if not _one_of(entry.get("action"), _ACTIONS):
        raise fail(f"action {entry.get('action')!r} of {names[0]} is not an action")
    syscall: Json = {"names": names, "action": entry["action"]}
    if entry.get("errnoRet") is not None:
        if not _unsigned(entry["errnoRet"]):
            raise fail(f"errnoRet of {names[0]} is not a number")
        syscall["errnoRet"] = entry["errnoRet"]
    arguments = entry.get("args") or []
    if not isinstance(arguments, list):
        raise fail(f"args of {names[0]} is not a list")
    for argument in arguments:
        if (
            not isinstance(argument, dict)
            or not _one_of(argument.get("op"), _OPERATORS)
            or not all(_unsigned(argument.get(key, 0)) for key in ("index", "value", "valueTwo"))
        ):
            raise fail(f"an argument of {names[0]} is not a condition")
        syscall.setdefault("args", []).append(
            {key: argument[key] for key in ("index", "op", "value", "valueTwo") if key in argument}
        )
    return syscall


def _one_of(value: Any, words: frozenset[str]) -> bool:
    return isinstance(value, str) and value in words


def _unsigned(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64
