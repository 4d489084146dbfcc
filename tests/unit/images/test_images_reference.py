# SPDX-License-Identifier: Apache-2.0
"""Names as Kubernetes users write them (kubelet-cri.md 5, issue 4 item 1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.images import reference
from acri.images.reference import Reference

D = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x/y/z:v1", "localhost:5000/x/y/z:v1", "localhost:5000/x/y/z:v1"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "127.0.0.1:5000/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("HOST/x", "HOST/x:latest", "HOST/x:latest"),
        ("a_b/c__d/e-f---g.h", "docker.io/a_b/c__d/e-f---g.h:latest", "a_b/c__d/e-f---g.h:latest"),
        (f"busybox@{D}", f"docker.io/library/busybox@{D}", f"busybox@{D}"),
        (f"quay.io/a/b:v1@{D}", f"quay.io/a/b@{D}", f"quay.io/a/b:v1@{D}"),
        (f"localhost:5000/x@{D}", f"localhost:5000/x@{D}", f"localhost:5000/x@{D}"),
        ("x:UPPER_Tag.1-2", "docker.io/library/x:UPPER_Tag.1-2", "x:UPPER_Tag.1-2"),
        ("sha256:abc", "docker.io/library/sha256:abc", "sha256:abc"),
    ],
)
def test_what_users_write(text: str, canonical: str, familiar: str) -> None:
    parsed = reference.parse(text)
    assert (parsed.canonical, parsed.familiar) == (canonical, familiar)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("Busybox", "must be lowercase"),
        ("a/Busybox", "must be lowercase"),
        ("docker.io/Library/x", "must be lowercase"),
        ("busybox:", "not a tag"),
        ("busybox:-x", "not a tag"),
        ("busybox:" + "t" * 129, "not a tag"),
        ("busybox:1:2", "not a tag"),
        ("x@sha256:abc", "not a digest"),
        ("x@", "not a digest"),
        (f"x@{D}@{D}", "not a digest"),
        (f"x@{D.upper()}", "not a digest"),
        ("/x", "not a"),
        ("x/", "not a"),
        ("a//b", "not a"),
        ("a/../b", "not a repository name"),
        ("-a.b/x", "not a host name"),
        ("a.b:port/x", "not a host name"),
        ("a..b/x", "not a host name"),
        ("https://docker.io/x", "not a"),
        ("x y", "not a repository name"),
        ("x\n", "not a repository name"),
        ("ünïcode", "not a repository name"),
        ("0" * 64, "image id"),
        ("a/" + "b" * 255, "longer"),
        ("a" * 2000, "longer"),
    ],
)
def test_what_is_refused_and_why(text: str, part: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=part):
        reference.parse(text)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("cafe", "cafe"), ("sha256:cafe", "cafe"), (D, D[7:]), (D[7:], D[7:]), ("xyz", None), ("", None), ("CAFE", None)],
)
def test_short_ids(text: str, prefix: str | None) -> None:
    assert reference.short_id(text) == prefix


def test_names_of_records() -> None:
    assert reference.parse_record_name("docker.io/library/x:1") == Reference("docker.io", "library/x", "1")
    assert reference.parse_record_name(f"quay.io/x@{D}") == Reference("quay.io", "x", "", D)
    for other in (D, "busybox", "busybox:latest", "import-2024-01-01", "docker.io/x:1", "quay.io/x"):
        assert reference.parse_record_name(other) is None


_word = st.from_regex(r"[a-z0-9]+(?:(?:[._]|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True).filter(lambda s: len(s) < 30)
_domain = st.one_of(
    st.just("docker.io"),
    st.just("localhost"),
    st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,4})?\.[a-z]{2,6}(:[0-9]{1,5})?", fullmatch=True),
).filter(lambda d: d != "index.docker.io")
_tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_digest = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(_domain, st.lists(_word, min_size=2, max_size=4), st.one_of(st.just(""), _tag), st.one_of(st.just(""), _digest))
def test_canonical_and_familiar_forms_mean_the_same(domain: str, words: list[str], tag: str, digest: str) -> None:
    path = "/".join(words)
    text = f"{domain}/{path}" + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    parsed = reference.parse(text)
    assert (parsed.domain, parsed.path, parsed.digest) == (domain, path, digest)
    assert parsed.tag == (tag or ("" if digest else "latest"))
    assert reference.parse(parsed.familiar) == parsed
    assert reference.parse(parsed.canonical).canonical == parsed.canonical
    assert reference.parse_record_name(parsed.canonical) is not None


@given(st.text(max_size=60))
def test_anything_parses_or_is_refused(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except errors.InvalidArgument:
        return
    assert reference.parse(parsed.canonical).canonical == parsed.canonical
