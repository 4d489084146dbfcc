# SPDX-License-Identifier: Apache-2.0
"""Credentials, challenges and proxies."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.images.auth import (
    ANONYMOUS,
    Credentials,
    RegistryAuth,
    credentials_of,
    fingerprint,
    parse_challenges,
    same_domain,
)
from acri.images.proxies import proxy_for


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (None, ANONYMOUS),
        (RegistryAuth(), ANONYMOUS),
        (RegistryAuth("u", "p"), Credentials("u", "p")),
        (RegistryAuth(auth=_b64("u:p:q")), Credentials("u", "p:q")),
        (RegistryAuth(auth=_b64("u:p\0\0")), Credentials("u", "p")),
        (RegistryAuth(identity_token="refresh"), Credentials("", "refresh")),
        (RegistryAuth(registry_token="bearer"), Credentials(bearer="bearer")),
        (RegistryAuth("u", "p", server_address="r.io:5000"), Credentials("u", "p")),
        (RegistryAuth("u", "p", server_address="https://r.io:5000/v1/"), Credentials("u", "p")),
        (RegistryAuth("u", "p", server_address="R.IO:5000"), Credentials("u", "p")),
        (RegistryAuth("u", "p", server_address="r.io"), ANONYMOUS),
        (RegistryAuth("u", "p", server_address="https://evil.io"), ANONYMOUS),
    ],
)
def test_credentials_for_a_registry(auth: RegistryAuth | None, expected: Credentials) -> None:
    assert credentials_of(auth, "r.io:5000") == expected


def test_docker_hub_by_its_many_names() -> None:
    for address in ("docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"):
        assert credentials_of(RegistryAuth("u", "p", server_address=address), "docker.io") == Credentials("u", "p")


@pytest.mark.parametrize("auth", ["?", _b64("no colon"), base64.b64encode(b"\xff:\xff").decode()])
def test_an_auth_field_that_cannot_be_decoded(auth: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        credentials_of(RegistryAuth(auth=auth), "r.io")
    assert auth not in str(caught.value) or auth == "?"


def test_no_secret_is_ever_shown() -> None:
    auth = RegistryAuth("user", "pass-1", "auth-2", "r.io", "identity-3", "token-4")
    for shown in (repr(auth), str(auth), repr(Credentials("user", "pass-1", "token-4"))):
        assert not any(secret in shown for secret in ("pass-1", "auth-2", "identity-3", "token-4"))
    one, two = fingerprint(Credentials("u", "p")), fingerprint(Credentials("u", "q"))
    assert one != two
    assert one == fingerprint(Credentials("u", "p"))
    assert fingerprint(ANONYMOUS) == "anonymous"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
         [("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:x:pull,push"})]),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        ('bearer realm = "a b" , error=invalid_token', [("bearer", {"realm": "a b", "error": "invalid_token"})]),
        ('Basic realm="a\\"b", Bearer realm="c"', [("basic", {"realm": 'a"b'}), ("bearer", {"realm": "c"})]),
        ("Negotiate", [("negotiate", {})]),
        ("", []),
        ('="', []),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(c.scheme, c.parameters) for c in parse_challenges([header])] == expected


@given(st.text(max_size=80))
def test_any_challenge_is_read(header: str) -> None:
    parse_challenges([header])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("ghcr.io", "ghcr.io", True),
        ("registry.example.com", "gitlab.example.com", True),
        ("registry.example.com", "example.com.evil.org", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.1.0.1", "10.2.0.1", False),
        ("localhost", "localhost", True),
        ("localhost", "otherhost", False),
    ],
)
def test_who_may_see_a_registrys_credentials(first: str, second: str, same: bool) -> None:
    assert same_domain(first, second) is same


ENVIRON = {
    "https_proxy": "http://proxy:3128",
    "HTTP_PROXY": "plain:8080",
    "NO_PROXY": "10.0.0.0/8, fd00::/8,.svc,example.com,host.io:5000,192.168.1.5,*.wild.io",
}


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://quay.io/v2/", "http://proxy:3128"),
        ("http://quay.io/v2/", "http://plain:8080"),
        ("https://10.1.2.3:5000/v2/", None),
        ("https://11.1.2.3/", "http://proxy:3128"),
        ("https://[fd00::1]/", None),
        ("https://registry.svc/", None),
        ("https://example.com/", None),
        ("https://a.example.com/", None),
        ("https://notexample.com/", "http://proxy:3128"),
        ("https://host.io:5000/", None),
        ("https://host.io/", "http://proxy:3128"),
        ("https://192.168.1.5/", None),
        ("https://a.wild.io/", None),
        ("https://localhost:5000/", None),
        ("http://127.0.0.1:5000/", None),
        ("http://[::1]:5000/", None),
    ],
)
def test_proxies(url: str, proxy: str | None) -> None:
    assert proxy_for(url, ENVIRON) == proxy


def test_no_proxy_for_anybody() -> None:
    assert proxy_for("https://quay.io/", {}) is None
    assert proxy_for("https://quay.io/", {"HTTPS_PROXY": "http://p", "no_proxy": "*"}) is None
