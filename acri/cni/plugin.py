# SPDX-License-Identifier: Apache-2.0
"""Plugins: finding the executable, and one call of it (CNI spec 1.1.0, section 2).

A call is a process: parameters in CNI_* variables, the request on stdin, and then

    exit 0,  a result on stdout        ADD, VERSION (nothing is expected from DEL, STATUS, GC)
    exit ≠0, {code, msg, details}      on stdout; logs may be on stderr
    anything else                      text that is no JSON, death by a signal, silence: the error quotes what there is
    no end within the time allowed     the process group is killed

Every failure becomes one sentence that names the executable, the network and the command. Plugins run as root with an
environment of their own: what acri itself was started with (listen sockets, credentials) is none of their business.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from acri import errors
from acri.aio.process import Completed
from acri.cni import result as cni_result
from acri.cni.config import PluginConfig
from acri.cni.result import Malformed, Result

__all__ = ["Binary", "Parameters", "PluginError", "Plugins", "Request", "Run"]

_SAFE_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PASSED_ON = (
    *("HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
_QUOTED = 1000
_BUSY_RETRY_S = 0.2

# Error codes of the spec that mean something to a runtime.
UNKNOWN_CONTAINER = 3


class Run(Protocol):
    """`acri.aio.process.Processes.run`, or what a test has in its place."""

    async def __call__(
        self, argv: Sequence[str], *, stdin: bytes, env: Mapping[str, str], timeout: float
    ) -> Completed: ...


class PluginError(errors.UnknownError):
    """A plugin said no. `cni_code` is the spec's error code (11: try again later; 50, 51: not available), or 0."""

    def __init__(self, message: str, cni_code: int = 0) -> None:
        super().__init__(message)
        self.cni_code = cni_code


@dataclass(frozen=True, slots=True)
class Binary:
    """An executable as found; `identity` changes when the file does."""

    path: str
    identity: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Parameters:
    """The CNI_* variables of an attachment; all empty for STATUS, VERSION and GC."""

    sandbox_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One plugin of a network, ready to be called: its executable, its configuration, and the network's name and
    negotiated spec version. `capability_args` are all that the runtime has; each plugin gets what it asks for."""

    binary: Binary
    plugin: PluginConfig
    network: str
    version: str
    parameters: Parameters = field(default_factory=Parameters)
    capability_args: Mapping[str, Any] | None = None

    def stdin(self, *, prev_result: Result | None = None, extra: Mapping[str, Any] | None = None) -> bytes:
        """The plugin's own object plus what the protocol adds (spec section 3, "Deriving request configuration")."""
        document = {
            key: value
            for key, value in self.plugin.conf.items()
            if key not in ("capabilities", "prevResult") and not key.startswith("cni.dev/")
        }
        document["name"] = self.network
        document["cniVersion"] = self.version
        wanted = {key: value for key, value in (self.capability_args or {}).items() if key in self.plugin.capabilities}
        if wanted:
            document["runtimeConfig"] = wanted
        if prev_result is not None:
            document["prevResult"] = cni_result.in_version(prev_result, self.version)
        document.update(extra or {})
        return json.dumps(document).encode()


class Plugins:
    """Calls the executables of `bin_dirs`, which are searched in order. `run` runs a program off the loop."""

    def __init__(self, bin_dirs: Sequence[str], *, run: Run) -> None:
        self.bin_dirs = tuple(bin_dirs)
        self._run = run
        self._versions: dict[Binary, frozenset[str]] = {}

    def find(self, kind: str) -> Binary:
        """The executable of a plugin type. Blocking (stat).

        Raises:
            errors.FailedPrecondition: it is in none of the directories, or anybody on the host could have put it there.
        """
        for directory in self.bin_dirs:
            path = os.path.join(directory, kind)
            try:
                info = os.stat(path)
            except OSError:
                continue
            if not stat.S_ISREG(info.st_mode) or not info.st_mode & 0o111:
                continue
            if info.st_mode & stat.S_IWOTH or (info.st_mode & stat.S_IWGRP and info.st_gid != 0):
                raise errors.FailedPrecondition(
                    f"CNI plugin {path} may be written by others than root: acri does not run it (chmod go-w {path})"
                )
            return Binary(path, (info.st_ino, info.st_size, info.st_mtime_ns))
        raise errors.FailedPrecondition(
            f"CNI plugin {kind!r} is not installed: no executable of that name in {', '.join(self.bin_dirs)}"
        )

    async def add(self, request: Request, prev_result: Result | None, timeout: float) -> Result:
        """ADD. Raises PluginError, errors.DeadlineExceeded, errors.FailedPrecondition (cannot be started)."""
        stdout = await self._call("ADD", request, request.stdin(prev_result=prev_result), timeout)
        try:
            return cni_result.parse(cni_result.read(stdout), request.version)
        except Malformed as error:
            raise PluginError(f"{_what(request, 'ADD')}: {error}: {_quote(stdout)}") from None

    async def delete(self, request: Request, prev_result: Result | None, timeout: float) -> None:
        """DEL; a plugin that does not know the container has nothing to undo. Raises as `add`."""
        try:
            await self._call("DEL", request, request.stdin(prev_result=prev_result), timeout)
        except PluginError as error:
            if error.cni_code != UNKNOWN_CONTAINER:
                raise

    async def status(self, request: Request, timeout: float) -> None:
        """STATUS (spec 1.1.0): returns if the plugin can serve an ADD. Raises as `add`."""
        await self._call("STATUS", request, request.stdin(), timeout)

    async def collect(self, request: Request, valid: Sequence[tuple[str, str]], timeout: float) -> None:
        """GC (spec 1.1.0) with the (sandbox id, ifname) of every attachment that lives. Raises as `add`."""
        attachments = [{"containerID": sandbox_id, "ifname": ifname} for sandbox_id, ifname in valid]
        # The second name is what the text of spec 1.1.0 had by mistake, and some plugins read.
        extra = {"cni.dev/valid-attachments": attachments, "cni.dev/attachments": attachments}
        await self._call("GC", request, request.stdin(extra=extra), timeout)

    async def versions(self, request: Request, timeout: float) -> frozenset[str]:
        """Spec versions that the executable speaks (VERSION); asked once per file. Raises as `add`."""
        known = self._versions.get(request.binary)
        if known is None:
            stdin = json.dumps({"cniVersion": request.version}).encode()
            stdout = await self._call("VERSION", request, stdin, timeout)
            try:
                listed = cni_result.read(stdout).get("supportedVersions")
            except Malformed as error:
                raise PluginError(f"{_what(request, 'VERSION')}: {error}: {_quote(stdout)}") from None
            if not isinstance(listed, list):
                raise PluginError(f"{_what(request, 'VERSION')}: no supportedVersions in {_quote(stdout)}")
            known = self._versions[request.binary] = frozenset(item for item in listed if isinstance(item, str))
        return known

    async def _call(self, command: str, request: Request, stdin: bytes, timeout: float) -> bytes:
        what = _what(request, command)
        try:
            done = await self._start(request.binary.path, stdin, self._environment(command, request), timeout)
        except errors.DeadlineExceeded:
            raise errors.DeadlineExceeded(f"{what} did not end within {timeout:.3g} s and was killed") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise errors.FailedPrecondition(f"{what} cannot be started: {reason}") from error
        if done.returncode != 0:
            raise _failure(what, done)
        return done.stdout

    async def _start(self, path: str, stdin: bytes, env: Mapping[str, str], timeout: float) -> Completed:
        """Run it; while it is being replaced (ETXTBSY) wait for its writer, within the same time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            try:
                return await self._run((path,), stdin=stdin, env=env, timeout=max(0.001, deadline - loop.time()))
            except OSError as error:
                if error.errno != errno.ETXTBSY or loop.time() + _BUSY_RETRY_S >= deadline:
                    raise
            await asyncio.sleep(_BUSY_RETRY_S)

    def _environment(self, command: str, request: Request) -> dict[str, str]:
        parameters = request.parameters
        own = os.environ.get("PATH", "").split(os.pathsep)
        env = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        # Plugins look for iptables and nft by PATH, and a service's may lack the sbin directories.
        env["PATH"] = os.pathsep.join(dict.fromkeys(part for part in (*own, *_SAFE_PATH) if part))
        env |= {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": parameters.sandbox_id,
            "CNI_NETNS": parameters.netns,
            "CNI_IFNAME": parameters.ifname,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in parameters.args),
            "CNI_PATH": os.pathsep.join(self.bin_dirs),
        }
        if command == "VERSION":
            # Executables built with old libraries insist on these even here.
            env |= {"CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_CONTAINERID": "dummy"}
        return env


def _what(request: Request, command: str) -> str:
    return f'CNI plugin {request.binary.path} (network "{request.network}", {command})'


def _failure(what: str, done: Completed) -> PluginError:
    how = f"exit code {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
    try:
        document = cni_result.read(done.stdout)
    except Malformed:
        document = {}
    message, details, code = document.get("msg"), document.get("details"), document.get("code")
    if isinstance(message, str) and message:
        text = f"{message}; {details}" if isinstance(details, str) and details else message
        return PluginError(f"{what}: {text[: 4 * _QUOTED]}", code if type(code) is int else 0)
    printed = [_quote(stream) for stream in (done.stdout, done.stderr) if stream.strip()]
    return PluginError(f"{what}: {how}, {' and '.join(printed) or 'without a word'}")


def _quote(stream: bytes) -> str:
    """What a program printed, on one line and not too long: its end, where the reason usually is."""
    text = " ".join(stream[-4 * _QUOTED :].decode("utf-8", "replace").split())
    text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return repr(text if len(text) <= _QUOTED else "..." + text[-_QUOTED:])
