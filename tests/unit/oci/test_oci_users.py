# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci_samples import container

from acri import errors
from acri.model.config import LinuxContainerSecurityContext, SupplementalGroupsPolicy
from acri.model.container import User
from acri.model.image import ImageConfig
from acri.oci.users import MAX_ID, Limits, UserFiles, needs_files, parse_group, parse_passwd, resolve

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# comment:x:5:5
app:x:1000:1001:App:/home/app:/bin/sh
nobody:x:65534:65534::/:/bin/false
broken:x:notanumber:5::/:
short:x:7
4294967297:x:0:0::/:
huge:x:4294967296:0::/:
+::0:0:::
app:x:0:0:second entry must not win:/:
"""
GROUP = b"""root:x:0:root
wheel:x:10:root,app
app:x:1001:app
docker:x:999: app ,nobody
audio:x:29
bad:x:-1:app
toobig:x:4294967296:app
"""
FILES = UserFiles(PASSWD, GROUP)


def resolved(image_user: str = "", files: UserFiles = FILES, **context: object) -> User:
    config = container(LinuxContainerSecurityContext(**context))  # type: ignore[arg-type]
    return resolve(config, ImageConfig(user=image_user), files)


@pytest.mark.parametrize(
    ("image_user", "context", "expected"),
    [
        ("", {}, User(0, 0, (0, 10))),
        ("app", {}, User(1000, 1001, (10, 999, 1001))),
        ("1000", {}, User(1000, 1001, (10, 999, 1001))),
        ("app:wheel", {}, User(1000, 10, (10, 999))),
        ("app:audio", {}, User(1000, 29, (10, 29, 999))),
        ("app:77", {}, User(1000, 77, (10, 77, 999))),
        ("4242", {}, User(4242, 0, (0,))),
        ("4242:4343", {}, User(4242, 4343, (4343,))),
        ("app", {"run_as_user": 0}, User(0, 0, (0, 10))),
        ("", {"run_as_user": 1000, "run_as_group": 5}, User(1000, 5, (5, 10, 999))),
        ("", {"run_as_username": "nobody"}, User(65534, 65534, (999, 65534))),
        ("", {"run_as_user": 1000, "supplemental_groups": (7, 1001, 7)}, User(1000, 1001, (7, 10, 999, 1001))),
        (
            "",
            {
                "run_as_user": 1000,
                "supplemental_groups": (7,),
                "supplemental_groups_policy": SupplementalGroupsPolicy.STRICT,
            },
            User(1000, 1001, (7, 1001)),
        ),
        (str(MAX_ID), {}, User(MAX_ID, 0, (0,))),
    ],
)
def test_resolves_as_kubernetes_does(image_user: str, context: dict[str, object], expected: User) -> None:
    assert resolved(image_user, **context) == expected


@pytest.mark.parametrize(
    "user",
    [
        *("2147483648", "4294967296", "4294967297", "9" * 5000, "-1", "+0", " 0", "0 ", "0x0\n", "root\n", ":0", "0:"),
        *("nosuchuser", "app:nosuchgroup", "huge", "broken", "short", "+", "a:b:c", "app:4294967296", "٠", "\0"),
    ],
)
def test_a_user_that_is_none_is_refused_and_never_root(user: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        resolved(user)


@pytest.mark.parametrize(
    "context",
    [
        {"run_as_group": 1},
        {"run_as_user": -1},
        {"run_as_user": MAX_ID + 1},
        {"run_as_user": 1, "run_as_group": -1},
        {"run_as_user": 1, "run_as_username": "app"},
        {"supplemental_groups": (1 << 32,)},
        {"run_as_username": "4294967296"},
    ],
)
def test_bad_requests(context: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidArgument):
        resolved(**context)


def test_an_image_without_files() -> None:
    empty = UserFiles()
    assert resolved("", empty) == User(0, 0, (0,))
    assert resolved("12:34", empty) == User(12, 34, (34,))
    with pytest.raises(errors.InvalidArgument, match="/etc/passwd"):
        resolved("app", empty)


def test_files_are_bounded() -> None:
    small = Limits(file=64, line=16)
    with pytest.raises(errors.ResourceExhausted):
        list(parse_passwd(b"x" * 65, small))
    assert [entry.name for entry in parse_passwd(b"a:x:1:1\nlonglonglong:x:2:2\nb:x:3:3", small)] == [b"a", b"b"]


def test_when_the_image_need_not_be_read() -> None:
    strict = {"supplemental_groups_policy": SupplementalGroupsPolicy.STRICT}
    numbers = container(LinuxContainerSecurityContext(run_as_user=1, run_as_group=2, **strict))
    assert not needs_files(numbers, ImageConfig())
    assert needs_files(container(LinuxContainerSecurityContext(run_as_user=1, **strict)), ImageConfig())
    assert needs_files(container(LinuxContainerSecurityContext(run_as_user=1, run_as_group=2)), ImageConfig())


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_hostile_files_never_crash_nor_give_ids_out_of_range(passwd: bytes, group: bytes) -> None:
    for user in parse_passwd(passwd):
        assert 0 <= user.uid <= MAX_ID
        assert 0 <= user.gid <= MAX_ID
    for entry in parse_group(group):
        assert 0 <= entry.gid <= MAX_ID


@given(st.text(max_size=20), st.sampled_from([b"0", b"1", b"4294967296", b"x", b""]))
def test_a_resolved_user_is_the_number_asked_for_or_an_entry_of_the_image(user: str, uid: bytes) -> None:
    files = UserFiles(b"evil:x:" + uid + b":0::/:\n", None)
    try:
        found = resolved(user, files)
    except errors.InvalidArgument:
        return
    name = user.partition(":")[0]
    assert found.uid == (int(name) if name.isdigit() else int(uid) if name == "evil" else 0)
    assert found.uid != 0 or name in ("", "evil") or int(name) == 0


@given(st.lists(st.integers(0, MAX_ID), max_size=20), st.integers(0, MAX_ID), st.sampled_from(SupplementalGroupsPolicy))
def test_groups_are_sorted_unique_and_hold_the_primary_one(
    given_groups: list[int], gid: int, policy: SupplementalGroupsPolicy
) -> None:
    found = resolved(
        run_as_user=1000, run_as_group=gid, supplemental_groups=tuple(given_groups), supplemental_groups_policy=policy
    )
    assert list(found.supplemental_groups) == sorted({*found.supplemental_groups, *given_groups, gid})
    if policy is SupplementalGroupsPolicy.STRICT:
        assert set(found.supplemental_groups) == {*given_groups, gid}
