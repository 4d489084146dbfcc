# SPDX-License-Identifier: Apache-2.0
"""Tokens: how a registry's challenge is answered (CNCF distribution, spec/auth: token.md and oauth.md).

    Bearer, no secret     GET realm?service=…&scope=…
    Bearer, a secret      POST realm, an OAuth2 form; where the realm does not take that, GET with Basic
    Basic                 the credentials themselves

A token is kept until it expires or the registry refuses it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

import structlog

from acri.images.auth import CLIENT_ID, Challenge, Credentials, parse_challenges, same_domain
from acri.images.hosts import Host
from acri.images.http import Http, TransportError

__all__ = ["Refused", "TokenClient"]

_MAX_TOKEN_BYTES = 1 << 18
_DEFAULT_LIFE_S = 60.0
_EARLY_S = 5.0
# What realms answer that do not know the OAuth2 form.
_NOT_BY_POST = frozenset({400, 401, 404, 405})

log = structlog.get_logger(__name__)


class Refused(Exception):
    """The registry does not take these credentials; the text holds none of them."""


class TokenClient:
    """What each host of one pull wants to see in Authorization."""

    def __init__(self, http: Http, repository: str) -> None:
        self._http = http
        self._scope = f"repository:{repository}:pull"
        self._headers: dict[Host, tuple[str, float]] = {}

    def header(self, host: Host, credentials: Credentials) -> str:
        """The header to send to `host` now, "" before it asked."""
        if credentials.bearer:
            return f"Bearer {credentials.bearer}"
        value, expires = self._headers.get(host, ("", 0.0))
        return value if time.monotonic() < expires else ""

    async def answer(self, host: Host, credentials: Credentials, challenges: Sequence[str]) -> None:
        """Make `header` satisfy what `host` asks for.

        Raises:
            Refused: it cannot be satisfied.
            TransportError: the realm does not answer.
        """
        self._headers.pop(host, None)
        if credentials.bearer:
            raise Refused("401 Unauthorized: the registry does not take the given token")
        offers = {challenge.scheme: challenge for challenge in parse_challenges(challenges)}
        if "bearer" in offers:
            self._headers[host] = await self._token(host, credentials, offers["bearer"])
        elif "basic" in offers:
            if not (credentials.username and credentials.secret):
                raise Refused("401 Unauthorized: it asks for a user name and a password, and none were given")
            self._headers[host] = (credentials.basic, float("inf"))
        else:
            raise Refused("401 Unauthorized, and it does not say how to log in")

    async def _token(self, host: Host, credentials: Credentials, challenge: Challenge) -> tuple[str, float]:
        realm = challenge.parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(f"401 Unauthorized: its token realm is no web address: {realm!r}")
        fields = {"scope": challenge.parameters.get("scope") or self._scope}
        if challenge.parameters.get("service"):
            fields["service"] = challenge.parameters["service"]
        may_know = self._may_know(host, realm)
        if not credentials.anonymous and not may_know:
            log.warning("credentials withheld from a foreign token realm", host=host.name, realm=parts.netloc)
        status, answer = 0, b""
        if not credentials.anonymous and may_know:
            status, answer = await self._post(host, credentials, realm, fields)
        if status == 0 or status in _NOT_BY_POST:
            basic = {"Authorization": credentials.basic} if may_know and credentials.username else {}
            url = f"{realm}{'&' if parts.query else '?'}{urlencode(fields)}"
            status, answer = await self._ask(host, "GET", url, basic)
        if status != 200:
            why = "" if may_know or credentials.anonymous else ", which is in another domain and got no credentials"
            if status < 500 and status != 429:
                raise Refused(f"401 Unauthorized: its token realm {parts.netloc} answers {status}{why}")
            raise TransportError("broken", f"token realm {parts.netloc} answers {status}")
        return _read_token(answer, parts.netloc)

    def _may_know(self, host: Host, realm: str) -> bool:
        """Whether `realm` may see the credentials: not by plain http where the registry itself speaks TLS."""
        own, other = urlsplit(host.base), urlsplit(realm)
        downgraded = own.scheme == "https" and other.scheme == "http" and not host.http_fallback
        return not downgraded and same_domain(own.hostname or "", other.hostname or "")

    async def _post(
        self, host: Host, credentials: Credentials, realm: str, fields: dict[str, str]
    ) -> tuple[int, bytes]:
        form = {**fields, "client_id": CLIENT_ID}
        if credentials.username:
            form |= {"grant_type": "password", "username": credentials.username, "password": credentials.secret}
        else:
            form |= {"grant_type": "refresh_token", "refresh_token": credentials.secret}
        return await self._ask(host, "POST", realm, {}, form)

    async def _ask(
        self, host: Host, method: str, url: str, private: dict[str, str], form: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        async with self._http.request(
            method,
            url,
            tls=host.tls,
            headers={"Accept-Encoding": "identity"},
            private=private,
            connect_timeout=host.connect_timeout,
            data=form,
        ) as response:
            return response.status, await self._http.body(response, _MAX_TOKEN_BYTES)


def _read_token(answer: bytes, realm: str) -> tuple[str, float]:
    """The Authorization header in a realm's answer, and when it ends on the monotonic clock."""
    try:
        document: Any = json.loads(answer)
        token = document.get("token") or document.get("access_token")
        life = float(document.get("expires_in") or _DEFAULT_LIFE_S)
    except (ValueError, AttributeError, TypeError):
        raise Refused(f"401 Unauthorized: its token realm {realm} did not answer with a token") from None
    if not isinstance(token, str) or not token or any(c in token for c in "\r\n"):
        raise Refused(f"401 Unauthorized: its token realm {realm} did not answer with a token")
    return f"Bearer {token}", time.monotonic() + max(life - _EARLY_S, _EARLY_S)
