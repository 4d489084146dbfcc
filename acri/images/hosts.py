# SPDX-License-Identifier: Apache-2.0
"""certs.d: which hosts serve the images of a registry, in which order, and how to talk to each.

The directory is containerd's (docs/hosts.md there), so that one which works for containerd works here unchanged:

    ROOT/HOST_PORT_/  or  ROOT/HOST:PORT/  or  ROOT/_default/        the first that exists counts, of each ROOT in turn
        hosts.toml            mirrors as [host."URL"] tables in the order of the file, then the root's own `server`
        *.crt *.cert *.key    without hosts.toml: CA and client certificates for the registry itself (Docker's layout)

Without a directory the registry itself is asked: by https, docker.io at registry-1.docker.io; localhost and loopback
addresses without verification and, unless the port is 443, by http if they do not speak TLS.

One thing differs from containerd: a hosts.toml that does not parse is an error that names file and line. containerd
logs it and goes to the public registry instead, past the mirror that the administrator asked for. A key that nobody
knows is a warning: the file may be for a newer containerd.

The functions here read files: call them in a thread (`Kind.FILE`). They are read anew for every pull.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from acri import errors

__all__ = ["PULL", "RESOLVE", "Host", "Tls", "default_host", "find", "parse_hosts_toml"]

PULL, RESOLVE = "pull", "resolve"
_KNOWN_CAPABILITIES = frozenset({PULL, RESOLVE, "push", "referrers"})
_ROOT_KEYS = frozenset({"server", "host"})
_HOST_KEYS = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout", "concurrency_limit"}
)
_DOCKER_HUB = "registry-1.docker.io"
_MAX_FILE = 1 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to verify a host, and how to be known to it. Paths of PEM files."""

    skip_verify: bool = False
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    """Certificate and key; the key is "" where one file holds both."""


@dataclass(frozen=True, slots=True)
class Host:
    """One host that may be asked for images of a registry.

    `base` is the URL that `/NAME/manifests/…` follows. `proxied` is the registry's domain where this host is a mirror
    of it: sent as `ns=`, as mirrors of several registries need. `own` hosts are the registry itself (or its `server`):
    they alone get the caller's credentials. `http_fallback`: try https, and http if the host does not speak TLS.
    """

    base: str
    capabilities: frozenset[str] = frozenset({PULL, RESOLVE})
    tls: Tls = field(default_factory=Tls)
    headers: tuple[tuple[str, str], ...] = ()
    proxied: str = ""
    own: bool = True
    http_fallback: bool = False
    connect_timeout: float = 10.0
    source: str = "default"
    """Where this came from (`FILE:LINE`), for people."""

    @property
    def name(self) -> str:
        """Host and port."""
        return urlsplit(self.base).netloc


def find(domain: str, certs_dir: str) -> tuple[Host, ...]:
    """The hosts to ask for images of `domain`, in order.

    Args:
        certs_dir: one directory, or several with colons between.

    Raises:
        errors.FailedPrecondition: the directory's files cannot be read or understood; the text names file and line.
    """
    for root in filter(None, certs_dir.split(":")):
        for name in _directory_names(domain):
            directory = Path(root, name)
            if directory.is_dir():
                return _read_directory(domain, directory)
    return (default_host(domain),)


def default_host(domain: str, tls: Tls | None = None, source: str = "default") -> Host:
    """The registry itself."""
    if domain == "docker.io":
        return Host(f"https://{_DOCKER_HUB}/v2", tls=tls or Tls(), source=source)
    host, port = _split_port(domain)
    if not _is_loopback(host):
        return Host(f"https://{domain}/v2", tls=tls or Tls(), source=source)
    if port == "80":
        return Host(f"http://{domain}/v2", source=source)
    tls = tls or Tls(skip_verify=True)
    return Host(f"https://{domain}/v2", tls=tls, http_fallback=port not in ("", "443"), source=source)


def parse_hosts_toml(text: str, domain: str, path: str) -> tuple[Host, ...]:
    """The hosts that a hosts.toml names for `domain`. `path` is the file: certificates are looked up beside it.

    Raises:
        errors.FailedPrecondition: not TOML, or a value of the wrong kind.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise errors.FailedPrecondition(f"{path}: not valid TOML: {error}") from None
    reader = _HostsFile(document, text, domain, Path(path))
    tables = document.get("host", {})
    if not isinstance(tables, dict):
        raise reader.error("host", 'must be tables [host."URL"]')
    hosts = [reader.host(url, table) for url, table in tables.items()]
    return (*hosts, reader.server())


def _directory_names(domain: str) -> list[str]:
    host, port = _split_port(domain)
    names = [f"{host}_{port}_"] if port else []
    # A domain is checked by the reference grammar: it has no slash and is not "..".
    return [*names, domain, "_default"]


def _read_directory(domain: str, directory: Path) -> tuple[Host, ...]:
    path = directory / "hosts.toml"
    try:
        if path.is_file() and path.stat().st_size:
            if path.stat().st_size > _MAX_FILE:
                raise errors.FailedPrecondition(f"{path}: larger than {_MAX_FILE} bytes")
            return parse_hosts_toml(path.read_text("utf-8"), domain, str(path))
        return (default_host(domain, _docker_certificates(directory), str(directory)),)
    except (OSError, UnicodeDecodeError) as error:
        raise errors.FailedPrecondition(f"{path}: cannot be read: {error}") from None


def _docker_certificates(directory: Path) -> Tls | None:
    """TLS from Docker's layout: any `.crt` is a CA; `NAME.cert` goes with `NAME.key`."""
    ca = sorted(str(p) for p in directory.glob("*.crt"))
    client = []
    for certificate in sorted(directory.glob("*.cert")):
        key = certificate.with_suffix(".key")
        if not key.exists():
            raise errors.FailedPrecondition(f"{certificate}: there is no {key.name} beside it")
        client.append((str(certificate), str(key)))
    return Tls(False, tuple(ca), tuple(client)) if ca or client else None


class _HostsFile:
    """Reads the tables of one hosts.toml; knows the line of what it complains about."""

    def __init__(self, document: dict[str, Any], text: str, domain: str, path: Path) -> None:
        self._document = document
        self._lines = text.splitlines()
        self._domain = domain
        self._path = path

    def server(self) -> Host:
        """The last host: the file's `server`, else the registry itself; the root's own keys apply to it."""
        root = {k: v for k, v in self._document.items() if k not in _ROOT_KEYS}
        url = self._document.get("server", "")
        if not isinstance(url, str):
            raise self.error("server", "must be a URL")
        if url:
            return self._make(url, root, own=True)
        host = default_host(self._domain, source=f"{self._path}")
        if not root:
            return host
        return self._make(host.base, {"override_path": True, **root}, own=True, fallback=host)

    def host(self, url: str, table: Any) -> Host:
        if not isinstance(table, dict):
            raise self.error(url, "must be a table")
        return self._make(url, table, own=False)

    def _make(self, url: str, table: dict[str, Any], *, own: bool, fallback: Host | None = None) -> Host:
        for unknown in sorted(set(table) - _HOST_KEYS):
            log.warning("unknown key in hosts.toml", file=str(self._path), line=self._line(unknown), key=unknown)
        base = self._base(url, self._boolean(table, "override_path"))
        name = urlsplit(base).netloc
        # The Hub's API lives under another name; it is no mirror.
        proxied = "" if name in (self._domain, _DOCKER_HUB) else self._domain
        tls = Tls(
            self._boolean(table, "skip_verify") or (fallback is not None and fallback.tls.skip_verify),
            tuple(self._absolute(p) for p in self._strings(table, "ca")),
            self._client(table),
        )
        configured = bool(tls.ca or tls.client or "skip_verify" in table)
        ambiguous = base.startswith("http://") and configured and _split_port(name)[1] not in ("", "80")
        return Host(
            # http with TLS settings: containerd tries https first, so that one file serves both.
            base="https" + base.removeprefix("http") if ambiguous else base,
            capabilities=self._capabilities(table),
            tls=tls,
            headers=self._headers(table),
            proxied=proxied,
            own=own or name == self._domain,
            http_fallback=ambiguous or (fallback is not None and fallback.http_fallback),
            connect_timeout=self._timeout(table),
            source=f"{self._path}:{self._line(url if not own else 'server') or 1}",
        )

    def _base(self, url: str, override_path: bool) -> str:
        if not url.startswith("http"):
            url = f"https://{url}"
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  it raises for a port that is none
        except ValueError:
            raise self.error(url, "is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise self.error(url, "must be http(s)://HOST[:PORT][/PATH]")
        path = posixpath.normpath(parts.path).rstrip("/") if parts.path.strip("/") else ""
        if not override_path and not path.endswith("/v2"):
            path += "/v2"
        return f"{parts.scheme}://{parts.netloc}{path}"

    def _capabilities(self, table: dict[str, Any]) -> frozenset[str]:
        values = frozenset(value.lower() for value in self._strings(table, "capabilities"))
        unknown = sorted(values - _KNOWN_CAPABILITIES)
        if unknown:
            raise self.error("capabilities", f"unknown capability {unknown[0]!r}")
        return values or frozenset({PULL, RESOLVE})

    def _headers(self, table: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        header = table.get("header", {})
        if not isinstance(header, dict):
            raise self.error("header", "must be a table of strings")
        return tuple((name, value) for name in header for value in self._strings(header, name))

    def _client(self, table: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        value = table.get("client", [])
        pairs = []
        for item in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
            pair = [item, ""] if isinstance(item, str) else item
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) for p in pair) or not pair[0]:
                raise self.error("client", "must be files, or pairs of a certificate and a key file")
            pairs.append((self._absolute(pair[0]), self._absolute(pair[1]) if pair[1] else ""))
        return tuple(pairs)

    def _timeout(self, table: dict[str, Any]) -> float:
        value = table.get("dial_timeout", "10s")
        if not isinstance(value, str) or not re.fullmatch(r"([0-9]+(\.[0-9]+)?(ms|s|m))+", value):
            raise self.error("dial_timeout", 'must be a time such as "500ms", "10s" or "1m"')
        parts = re.findall(r"([0-9.]+)(ms|s|m)", value)
        return sum(float(number) * {"ms": 0.001, "s": 1.0, "m": 60.0}[unit] for number, unit in parts)

    def _boolean(self, table: dict[str, Any], key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def _strings(self, table: dict[str, Any], key: str) -> list[str]:
        value = table.get(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise self.error(key, "must be a string or an array of strings")
        return values

    def _absolute(self, path: str) -> str:
        return str(self._path.parent / path)

    def _line(self, word: str) -> int:
        return next((n for n, line in enumerate(self._lines, 1) if word in line.partition("#")[0]), 0)

    def error(self, word: str, text: str) -> errors.FailedPrecondition:
        line = self._line(word)
        return errors.FailedPrecondition(f"{self._path}{f':{line}' if line else ''}: {word}: {text}")


def _split_port(domain: str) -> tuple[str, str]:
    """Host and port; an IPv6 address keeps its brackets."""
    host, colon, port = domain.rpartition(":")
    return (host, port) if colon and not port.endswith("]") else (domain, "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
