# SPDX-License-Identifier: Apache-2.0
"""Who asks: CRI's credentials, what a registry demands in answer, and the token that it then wants to see.

    request ──401 WWW-Authenticate──▶ Basic: user and password
                                      Bearer realm, service, scope: a token from the realm, then the request again

Rules (containerd's docker resolver; for realms go-containerregistry#2193): credentials go to the registry that the
reference names (or the `server` that hosts.toml names for it) and to its token realm, never to a mirror or a redirect's
target; where `server_address` is given it must be that registry. A realm in another domain gets none. They are kept for
one pull only and never logged: `repr` hides them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from acri import errors

__all__ = [
    "ANONYMOUS",
    "Challenge",
    "Credentials",
    "RegistryAuth",
    "credentials_of",
    "fingerprint",
    "parse_challenges",
    "same_domain",
]

CLIENT_ID = "acri"
_SALT = secrets.token_bytes(16)


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    """CRI's AuthConfig: whichever fields the caller filled in."""

    username: str = ""
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    """base64 of `user:password`."""
    server_address: str = ""
    identity_token: str = field(default="", repr=False)
    """An OAuth2 refresh token."""
    registry_token: str = field(default="", repr=False)
    """A bearer token to present as it is."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What may be shown to one registry. All empty: anonymous."""

    username: str = ""
    secret: str = field(default="", repr=False)
    """The password, or the refresh token where there is no username."""
    bearer: str = field(default="", repr=False)

    @property
    def anonymous(self) -> bool:
        return not (self.secret or self.bearer)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()


ANONYMOUS = Credentials()


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme of a WWW-Authenticate header; names are lower case."""

    scheme: str
    parameters: dict[str, str]


def credentials_of(auth: RegistryAuth | None, domain: str) -> Credentials:
    """The credentials in `auth` for the registry `domain` of a reference; anonymous where they are for another.

    Raises:
        errors.InvalidArgument: `auth` cannot be decoded.
    """
    if auth is None:
        return ANONYMOUS
    if auth.server_address and _server(auth.server_address) != _server(domain):
        return ANONYMOUS
    if auth.registry_token:
        return Credentials(bearer=auth.registry_token)
    if auth.identity_token:
        return Credentials(secret=auth.identity_token)
    if auth.username:
        return Credentials(auth.username, auth.password)
    if auth.auth:
        try:
            text = base64.b64decode(auth.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise errors.InvalidArgument("the field auth of the credentials is not base64") from None
        username, colon, password = text.partition(":")
        if not colon:
            raise errors.InvalidArgument("the field auth of the credentials is not base64 of user:password")
        return Credentials(username, password.strip("\x00"))
    return ANONYMOUS


def fingerprint(credentials: Credentials) -> str:
    """A string that is equal for equal credentials within this process, and tells nothing of them."""
    if credentials.anonymous:
        return "anonymous"
    text = "\x00".join((credentials.username, credentials.secret, credentials.bearer))
    return hashlib.sha256(_SALT + text.encode()).hexdigest()[:16]


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+|$)")
_PARAMETER = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """The challenges of an answer's WWW-Authenticate headers (RFC 9110 §11.6.1). What cannot be read is left out."""
    found = []
    for header in headers:
        at = 0
        while match := _SCHEME.match(header, at):
            scheme, at = match[1].lower(), match.end()
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, at):
                value = parameter[3] if parameter[2] is None else re.sub(r"\\(.)", r"\1", parameter[2])
                parameters[parameter[1].lower()] = value
                at = parameter.end()
            found.append(Challenge(scheme, parameters))
    return found


def same_domain(first: str, second: str) -> bool:
    """Whether two hosts are one or share their last two labels: a realm that may see a registry's credentials."""
    first, second = first.lower(), second.lower()
    if first == second:
        return True
    labels = first.split(".")[-2:], second.split(".")[-2:]
    return labels[0] == labels[1] and len(labels[0]) == 2 and not labels[0][1].isdigit()


def _server(address: str) -> str:
    """Host and port of a server address, which may be a URL (`https://index.docker.io/v1/` is docker.io)."""
    host = urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2].lower()
    return "docker.io" if host in ("index.docker.io", "registry-1.docker.io") else host
