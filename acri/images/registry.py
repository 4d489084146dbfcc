# SPDX-License-Identifier: Apache-2.0
"""One repository over its hosts (OCI distribution-spec 1.1): resolve a reference, read manifests, stream blobs.

Hosts are asked in the order of hosts.toml until one answers; the error names each with its own cause. On one host:

    request ─┬─401─▶ token or Basic ─▶ request, once more
             ├─408 429 5xx, broken connection─▶ wait (Retry-After) ─▶ request, `TRIES` in all on the last host
             └─200 206─▶ answer

A Registry lives for one pull: its tokens and what it learned of the hosts go with it.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import structlog

from acri import errors
from acri.images import manifest
from acri.images.auth import ANONYMOUS, Credentials
from acri.images.hosts import PULL, RESOLVE, Host
from acri.images.http import Http, TransportError
from acri.images.manifest import Descriptor
from acri.images.reference import Reference, is_digest
from acri.images.tokens import Refused, TokenClient

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Body", "Registry", "verify"]

T = TypeVar("T")

TRIES = 4
_FIRST_DELAY_S = 0.25
_MAX_DELAY_S = 60.0
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_BYTES = 8192

log = structlog.get_logger(__name__)


class HostFailure(Exception):
    """Why one host did not give what was asked. `kind` is a key of `_KINDS`."""

    def __init__(self, url: str, kind: str, message: str) -> None:
        super().__init__(f"{url}: {message}")
        self.kind = kind


# What counts most when several hosts failed in different ways, last; and how the error begins.
_KINDS = {
    "unavailable": "RegistryUnavailable: image {image}",
    "tls": "image {image}: the registry is not trusted",
    "not-found": "image {image} not found",
    "other": "image {image} cannot be pulled",
    "denied": "image {image}: pull access denied, it does not exist or needs other credentials",
}


@dataclass(frozen=True, slots=True)
class Body:
    """A blob on its way. `offset` is where `chunks` start: less than asked for where the host takes no ranges."""

    host: Host
    offset: int
    chunks: AsyncGenerator[bytes, None]


class Registry:
    """The repository of `reference` on `hosts`."""

    def __init__(self, http: Http, hosts: tuple[Host, ...], reference: Reference, credentials: Credentials) -> None:
        self._http = http
        self._hosts = hosts
        self._reference = reference
        self._credentials = credentials
        self._tokens = TokenClient(http, reference.path)
        self._plain: set[Host] = set()

    async def resolve(self) -> tuple[Descriptor, bytes | None]:
        """What the reference names now, and its bytes where they came along.

        Asks by HEAD, which costs nothing of a registry's pull quota, and by GET where HEAD does not tell enough.

        Raises:
            errors.ImagePullError: no host has it; the text lists each host's answer.
        """
        return await self._first(RESOLVE if not self._reference.digest else PULL, self._resolve_at)

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """The bytes of a manifest or index, verified. Raises `errors.ImagePullError`."""

        async def attempt(host: Host, last: bool) -> bytes:
            return (await self._get_manifest(host, descriptor.digest, last))[1]

        return await self._first(PULL, attempt)

    async def config(self, descriptor: Descriptor) -> bytes:
        """The bytes of an image configuration, verified. Raises `errors.ImagePullError`."""

        async def attempt(host: Host, last: bool) -> bytes:
            path = f"blobs/{descriptor.digest}"
            async with self._open(host, "GET", path, {}, last) as response:
                data = await self._read(host, path, response, descriptor.size)
            return verify(data, descriptor.digest, self._url(host, path))

        return await self._first(PULL, attempt)

    @asynccontextmanager
    async def blob(self, descriptor: Descriptor, offset: int, avoid: Collection[Host] = ()) -> AsyncIterator[Body]:
        """Stream a blob from byte `offset` on; what comes is not verified here.

        Args:
            avoid: hosts that gave wrong bytes.

        Raises:
            errors.ImagePullError: no host has it.
            TransportError: from `Body.chunks`, when it breaks off: ask again with another offset.
        """
        hosts = [host for host in self._for(PULL, descriptor.urls) if host not in avoid]
        failures: list[HostFailure] = []
        for host in hosts:
            path = "" if host.source == _FOREIGN else f"blobs/{descriptor.digest}"
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            async with AsyncExitStack() as stack:
                try:
                    opened = self._open(host, "GET", path, headers, last=host is hosts[-1])
                    response = await stack.enter_async_context(opened)
                except HostFailure as failure:
                    failures.append(failure)
                    continue
                yield Body(host, _start(response, offset), self._http.chunks(response))
                return
        raise self._combined(failures)

    def has_other(self, blob: Descriptor, avoid: Collection[Host]) -> bool:
        """Whether somebody but `avoid` may have `blob`."""
        return any(host not in avoid for host in self._for(PULL, blob.urls))

    async def _resolve_at(self, host: Host, last: bool) -> tuple[Descriptor, bytes | None]:
        path = f"manifests/{self._reference.selector}"
        try:
            async with self._open(host, "HEAD", path, {"Accept": manifest.ACCEPT}, last) as response:
                manifest.refuse_schema_1(response.content_type)
                digest = response.headers.get("Docker-Content-Digest", "")
                length = response.headers.get("Content-Length", "")
                if is_digest(digest) and length.isdigit() and response.content_type.startswith("application/vnd."):
                    self._check_digest(host, path, digest)
                    return Descriptor(response.content_type, digest, int(length)), None
        except HostFailure as failure:
            if failure.kind != "other":  # 405 and the like: this host may only know GET
                raise
        return await self._get_manifest(host, self._reference.selector, last)

    async def _get_manifest(self, host: Host, selector: str, last: bool) -> tuple[Descriptor, bytes]:
        path = f"manifests/{selector}"
        async with self._open(host, "GET", path, {"Accept": manifest.ACCEPT}, last) as response:
            manifest.refuse_schema_1(response.content_type)
            data = await self._read(host, path, response, manifest.MAX_BYTES)
            stated = response.headers.get("Docker-Content-Digest", "")
            kind = response.content_type
        digest = selector if is_digest(selector) else stated if is_digest(stated) else _sha256(data)
        self._check_digest(host, path, digest)
        verify(data, digest, self._url(host, path))
        return Descriptor(kind, digest, len(data)), data

    def _check_digest(self, host: Host, path: str, digest: str) -> None:
        wanted = self._reference.digest
        if wanted and digest != wanted and path.endswith(wanted):
            raise HostFailure(self._url(host, path), "other", f"the registry answered with {digest}")

    async def _read(self, host: Host, path: str, response: aiohttp.ClientResponse, limit: int) -> bytes:
        try:
            data = await self._http.body(response, limit)
        except TransportError as error:
            raise HostFailure(self._url(host, path), "unavailable", str(error)) from None
        if len(data) > limit:
            raise HostFailure(self._url(host, path), "other", f"the answer has more than {limit} bytes")
        return data

    def _for(self, capability: str, urls: tuple[str, ...] = ()) -> list[Host]:
        foreign = [Host(url, own=False, source=_FOREIGN) for url in urls]
        return foreign + [host for host in self._hosts if capability in host.capabilities]

    async def _first(self, capability: str, attempt: Callable[[Host, bool], Awaitable[T]]) -> T:
        """The answer of the first host that gives one."""
        failures = []
        hosts = self._for(capability)
        for host in hosts:
            try:
                return await attempt(host, host is hosts[-1])
            except HostFailure as failure:
                failures.append(failure)
        raise self._combined(failures)

    def _combined(self, failures: list[HostFailure]) -> errors.ImagePullError:
        if not failures:
            return errors.ImagePullError(f"image {self._reference}: no host in hosts.toml may be pulled from")
        worst = max(failures, key=lambda failure: list(_KINDS).index(failure.kind))
        beginning = _KINDS[worst.kind].format(image=self._reference)
        # A mirror may be named as the server, too: the same answer is told once.
        answers = dict.fromkeys(str(failure) for failure in (worst, *failures))
        return errors.ImagePullError(f"{beginning}: {'; '.join(answers)}")

    @asynccontextmanager
    async def _open(
        self, host: Host, method: str, path: str, headers: dict[str, str], last: bool
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, authorised and 2xx. Raises `HostFailure`."""
        tries = TRIES if last else 1
        authorised = delivered = False
        while True:
            tries -= 1
            url = self._url(host, path)
            try:
                async with self._http.request(
                    method,
                    self._query(url, host),
                    tls=host.tls,
                    headers={"Accept-Encoding": "identity", **headers},
                    private={**dict(host.headers), **self._authorization(host)},
                    connect_timeout=host.connect_timeout,
                ) as response:
                    if response.status in (200, 206):
                        delivered = True
                        yield response
                        return
                    if response.status == 401 and not authorised:
                        authorised = await self._authorise(host, url, response)
                        tries += 1
                        continue
                    failure = await self._failure(url, response)
                    if response.status not in _RETRYABLE or tries <= 0:
                        raise failure
                    delay = _delay(TRIES - tries, response.headers.get("Retry-After", ""))
            except TransportError as error:
                if delivered:  # it comes from the reader of the body, who knows what to do
                    raise
                if error.kind == "not-tls" and host.http_fallback and host not in self._plain:
                    self._plain.add(host)
                    tries += 1
                    continue
                failure = HostFailure(url, "tls" if "tls" in error.kind else "unavailable", str(error))
                if error.kind not in ("broken", "stalled") or tries <= 0:
                    raise failure from None
                delay = _delay(TRIES - tries)
            log.info("registry request is repeated", error=str(failure), delay=round(delay, 2))
            await asyncio.sleep(delay)

    def _url(self, host: Host, path: str) -> str:
        base = host.base
        if host in self._plain:
            base = base.replace("https://", "http://", 1)
        return f"{base}/{self._reference.path}/{path}" if path else base

    def _query(self, url: str, host: Host) -> str:
        return f"{url}?ns={quote(host.proxied, safe='')}" if host.proxied else url

    def _credentials_for(self, host: Host) -> Credentials:
        return self._credentials if host.own else ANONYMOUS

    def _authorization(self, host: Host) -> dict[str, str]:
        value = self._tokens.header(host, self._credentials_for(host))
        return {"Authorization": value} if value else {}

    async def _authorise(self, host: Host, url: str, response: aiohttp.ClientResponse) -> bool:
        challenges = response.headers.getall("WWW-Authenticate", [])
        try:
            await self._tokens.answer(host, self._credentials_for(host), challenges)
        except Refused as refused:
            raise HostFailure(url, "denied", str(refused)) from None
        except TransportError as error:
            raise HostFailure(url, "unavailable", f"no token: {error}") from None
        return True

    async def _failure(self, url: str, response: aiohttp.ClientResponse) -> HostFailure:
        text = f"{response.status} {response.reason or ''}".rstrip()
        try:
            text += _detail(await self._http.body(response, _ERROR_BYTES))
        except TransportError:
            pass
        if response.status == 404:
            kind = "not-found"
        elif response.status in (401, 403):
            kind = "denied"
        else:
            kind = "unavailable" if response.status in _RETRYABLE else "other"
        return HostFailure(url, kind, text)


_FOREIGN = "a layer's own URL"


def verify(data: bytes, digest: str, what: str) -> bytes:
    """`data`, if its digest is `digest`. Raises `HostFailure` that names `what`."""
    algorithm, _, wanted = digest.partition(":")
    if hashlib.new(algorithm, data).hexdigest() != wanted:
        raise HostFailure(what, "other", f"the content is not what its digest {digest} says")
    return data


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _start(response: aiohttp.ClientResponse, offset: int) -> int:
    """Where the body starts: the host may ignore a range, and must not be believed to have started elsewhere."""
    if response.status != 206:
        return 0
    unit, _, span = response.headers.get("Content-Range", "").partition(" ")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit() or int(first) > offset:
        raise TransportError("protocol", f"the answer to a range from {offset} starts at {first or 'nowhere'}")
    return int(first)


def _delay(attempt: int, retry_after: str = "") -> float:
    """Seconds to wait before attempt number `attempt` (from 1) is repeated."""
    backoff: float = (
        _FIRST_DELAY_S * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
    )  # many nodes fail at the same moment
    if retry_after.isdigit():
        return min(float(retry_after), _MAX_DELAY_S)
    if retry_after:
        try:
            wait = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
            return min(max(wait, 0.0), _MAX_DELAY_S)
        except ValueError:
            pass
    return backoff


def _detail(data: bytes) -> str:
    """The registry's own words (distribution-spec, error codes), in parentheses."""
    try:
        first = json.loads(data)["errors"][0]
        words = [str(first[key]) for key in ("code", "message") if first.get(key)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
    text = " ".join(words).replace("\n", " ")[:200]
    return f" ({text})" if text else ""
