# SPDX-License-Identifier: Apache-2.0
"""Whom a container runs as: the request and the image's USER, resolved against the image's own passwd and group.

    run_as_username | run_as_user [+ run_as_group], else the image's USER ("", user, uid, user:group, uid:gid, …)
        uid   a name from passwd; a number as it is
        gid   run_as_group or the image's group, else passwd's for that user, else 0
        supplemental groups
              Merge   those of /etc/group that list the user, those given, the primary one
              Strict  those given, the primary one

The image is hostile ground: files are bounded, malformed lines do not count, and a number that is none (negative, out
of range, with spaces) is never looked up as a name and never wraps to 0 (the class of CVE-2024-40635).

References:
    CRI, LinuxContainerSecurityContext; OCI image-spec, config.md, "User"; passwd(5), group(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from acri import errors
from acri.model.config import ContainerConfig, LinuxContainerSecurityContext, SupplementalGroupsPolicy
from acri.model.container import User
from acri.model.image import ImageConfig
from acri.oci.security import security_context

__all__ = ["Limits", "UserFiles", "needs_files", "parse_group", "parse_passwd", "resolve"]

MAX_ID = (1 << 31) - 1
"""Larger ids are legal for the kernel, but a signed 32-bit reader on the way would turn them into other ones."""
MAX_GROUPS = 65536
"""The kernel's NGROUPS_MAX."""

# What a name may be: nothing that separates fields or could be taken for a number.
_NAME = re.compile(r"(?![+-]?[0-9]+\Z)[^\s:\x00-\x1f\x7f+-][^\s:\x00-\x1f\x7f]*", re.ASCII)
_NUMBER = re.compile(r"[0-9]+", re.ASCII)
_NUMBER_BYTES = re.compile(rb"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for a file of the image, in bytes. A longer line does not count, a larger file is an error."""

    file: int = 4 << 20
    line: int = 1 << 20


@dataclass(frozen=True, slots=True)
class UserFiles:
    """The image's files; None where the image has none. Read at most `limits.file` + 1 bytes of each."""

    passwd: bytes | None = None
    group: bytes | None = None
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class PasswdEntry:
    name: bytes
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class GroupEntry:
    name: bytes
    gid: int
    members: tuple[bytes, ...]


def parse_passwd(data: bytes | None, limits: Limits = Limits()) -> Iterator[PasswdEntry]:
    """Well-formed lines of a passwd file, in order.

    Raises:
        ResourceExhausted: the file is larger than `limits.file`.
    """
    for fields in _lines(data, limits, "/etc/passwd"):
        if len(fields) >= 4:
            uid, gid = _id(fields[2]), _id(fields[3])
            if uid is not None and gid is not None:
                yield PasswdEntry(fields[0], uid, gid)


def parse_group(data: bytes | None, limits: Limits = Limits()) -> Iterator[GroupEntry]:
    """Well-formed lines of a group file, in order. Raises as `parse_passwd`."""
    for fields in _lines(data, limits, "/etc/group"):
        if len(fields) >= 3:
            gid = _id(fields[2])
            if gid is not None:
                members = fields[3].split(b",") if len(fields) > 3 else []
                yield GroupEntry(fields[0], gid, tuple(member.strip() for member in members if member.strip()))


def _lines(data: bytes | None, limits: Limits, name: str) -> Iterator[list[bytes]]:
    if data is None:
        return
    if len(data) > limits.file:
        raise errors.ResourceExhausted(f"the image's {name} has more than {limits.file} bytes")
    for line in data.split(b"\n"):
        # "+" and "-" begin NIS compatibility entries, which are not users.
        if line and len(line) <= limits.line and line[:1] not in b"#+-:":
            yield line.split(b":")


def _id(field: bytes) -> int | None:
    if not _NUMBER_BYTES.fullmatch(field):
        return None
    number = int(field)
    return number if number <= MAX_ID else None


def needs_files(config: ContainerConfig, image: ImageConfig) -> bool:
    """Whether `resolve` looks into the image at all: not for uid and gid in numbers with policy Strict."""
    context = security_context(config)
    user, group = _wanted(context, image)
    merge = context.supplemental_groups_policy == SupplementalGroupsPolicy.MERGE
    return merge or group is None or not (_NUMBER.fullmatch(user) and _NUMBER.fullmatch(group))


def resolve(config: ContainerConfig, image: ImageConfig, files: UserFiles) -> User:
    """The user, its primary group and all its supplemental groups, sorted, the primary one among them.

    Raises:
        InvalidArgument: a group without a user, both user forms, an id out of range, a malformed USER, or a name
            that the image does not know.
        ResourceExhausted: a file of the image is too large; more groups than the kernel takes.
    """
    context = security_context(config)
    user, group = _wanted(context, image)
    entry = _find_user(user, files)
    uid = entry.uid if entry is not None else _number(user, "user")
    gid = entry.gid if entry is not None else 0
    if group is not None:
        gid = _find_group(group, files)
    groups = {gid}
    for given in context.supplemental_groups:
        groups.add(_in_range(given, "supplemental group"))
    if context.supplemental_groups_policy == SupplementalGroupsPolicy.MERGE and entry is not None:
        for candidate in parse_group(files.group, files.limits):
            # A group of the user's own name is its private group: what counts of it is passwd's gid.
            if candidate.name != entry.name and entry.name in candidate.members:
                groups.add(candidate.gid)
    if len(groups) > MAX_GROUPS:
        raise errors.ResourceExhausted(f"{len(groups)} supplemental groups; the kernel takes {MAX_GROUPS}")
    return User(uid, gid, tuple(sorted(groups)))


def _wanted(context: LinuxContainerSecurityContext, image: ImageConfig) -> tuple[str, str | None]:
    """User and group as text, each a name or a number; group None if nobody names one."""
    group = None if context.run_as_group is None else str(_in_range(context.run_as_group, "run_as_group"))
    if context.run_as_user is not None and context.run_as_username:
        raise errors.InvalidArgument("run_as_user and run_as_username are both set; only one of them may be")
    if context.run_as_username:
        return _checked(context.run_as_username, "run_as_username"), group
    if context.run_as_user is not None:
        return str(_in_range(context.run_as_user, "run_as_user")), group
    if group is not None:
        raise errors.InvalidArgument(f"run_as_group {group} is set without run_as_user or run_as_username")
    if not image.user:
        return "0", None
    user, colon, image_group = image.user.partition(":")
    return _checked(user, "image USER"), _checked(image_group, "image USER's group") if colon else None


def _checked(text: str, what: str) -> str:
    """`text` if it is a number in range or can be a name."""
    if _NUMBER.fullmatch(text):
        _number(text, what)
    elif not _NAME.fullmatch(text):
        raise errors.InvalidArgument(f"{what} {text!r} is neither a name nor an id")
    return text


def _number(text: str, what: str) -> int:
    # int() of an absurdly long number raises ValueError; ten digits hold every id there is.
    return _in_range(int(text) if len(text) <= 10 else MAX_ID + 1, f"{what} {text[:32]!r}")


def _in_range(number: int, what: str) -> int:
    if not 0 <= number <= MAX_ID:
        raise errors.InvalidArgument(f"{what}: id is out of range, 0 to {MAX_ID}")
    return number


def _find_user(user: str, files: UserFiles) -> PasswdEntry | None:
    """passwd's first entry for a name or number; None for a number that it does not have."""
    if _NUMBER.fullmatch(user):
        uid = _number(user, "user")
        return next((entry for entry in parse_passwd(files.passwd, files.limits) if entry.uid == uid), None)
    name = user.encode()
    for entry in parse_passwd(files.passwd, files.limits):
        if entry.name == name:
            return entry
    raise errors.InvalidArgument(f"user {user!r} is not in the image's /etc/passwd")


def _find_group(group: str, files: UserFiles) -> int:
    if _NUMBER.fullmatch(group):
        return _number(group, "group")
    name = group.encode()
    for entry in parse_group(files.group, files.limits):
        if entry.name == name:
            return entry.gid
    raise errors.InvalidArgument(f"group {group!r} is not in the image's /etc/group")
