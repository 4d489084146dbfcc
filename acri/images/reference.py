# SPDX-License-Identifier: Apache-2.0
"""Image references as Kubernetes users write them, and image ids.

    reference = [domain "/"] path [":" tag] ["@" digest]        busybox, quay.io/a/b:1, localhost:5000/x@sha256:…

The grammar is that of the distribution project; what a user may leave out is filled in as Docker does and as containerd
names its image records: domain `docker.io`, `library/` before a single path element there, tag `latest` when neither
tag nor digest is given. A digest beats a tag: `name:tag@digest` names the digest (the tag is kept, but never trusted).

The first path element is a domain only if it has a dot, a colon or an upper-case letter, or is `localhost`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from acri import errors

__all__ = ["DEFAULT_DOMAIN", "Reference", "is_digest", "is_image_id", "parse", "parse_record_name", "short_id"]

DEFAULT_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_DEFAULT_TAG = "latest"
_MAX_NAME = 255
_MAX_TEXT = 1024

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_SHORT_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete reference: a domain, a path, and a tag or a digest or both."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The repository: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def canonical(self) -> str:
        """The name of its image record: `name@digest` where a digest is given, else `name:tag`."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    @property
    def familiar(self) -> str:
        """As short as a user may write it: `busybox:latest`."""
        name = self.name
        if self.domain == DEFAULT_DOMAIN:
            short = self.path.removeprefix(_OFFICIAL) if self.path.count("/") == 1 else self.path
            if _split_domain(short)[1] == short:  # a path that begins like a host keeps its domain before it
                name = short
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def selector(self) -> str:
        """What to ask a registry for: the digest, else the tag."""
        return self.digest or self.tag

    def with_digest(self, digest: str) -> Reference:
        """The same repository, by digest only."""
        return Reference(self.domain, self.path, digest=digest)

    def __str__(self) -> str:
        return self.canonical


def parse(text: str) -> Reference:
    """The complete reference that a user means by `text`.

    Raises:
        errors.InvalidArgument: not a reference; the text says which part, and why.
    """
    if not text:
        raise errors.InvalidArgument("image reference is empty")
    if len(text) > _MAX_TEXT:
        raise errors.InvalidArgument(f"image reference is longer than {_MAX_TEXT} characters")
    if _HEX64.fullmatch(text):
        raise _invalid(text, "64 hexadecimal digits are an image id, not a name")
    rest, _, digest = text.partition("@")
    if "@" in text and not is_digest(digest):
        raise _invalid(text, f"{digest!r} is not a digest (sha256:<64 hexadecimal digits>)")
    domain, rest = _split_domain(rest)
    path, colon, tag = rest.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag")
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    _check_name(text, domain, path)
    return Reference(domain, path, tag or ("" if digest else _DEFAULT_TAG), digest)


def parse_record_name(name: str) -> Reference | None:
    """The reference that names a containerd image record; None for names of another kind (image ids, `import-…`)."""
    if is_digest(name) or "/" not in name:
        return None
    try:
        reference = parse(name)
    except errors.InvalidArgument:
        return None
    # A record must be found under the very name that it has.
    return reference if reference.canonical == name else None


def is_digest(text: str) -> bool:
    """Whether `text` is a digest of an algorithm that content may be verified with."""
    return _DIGEST.fullmatch(text) is not None


def is_image_id(text: str) -> bool:
    """Whether `text` is a whole image id (`sha256:` and 64 hexadecimal digits)."""
    return text.startswith("sha256:") and is_digest(text)


def short_id(text: str) -> str | None:
    """The hexadecimal prefix of an id that `text` may be (`cafe`, `sha256:cafe`), None if it cannot be one."""
    match = _SHORT_ID.fullmatch(text)
    return match[1] if match else None


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash or (not any(c in first for c in ".:") and first != "localhost" and first == first.lower()):
        return DEFAULT_DOMAIN, text
    return (DEFAULT_DOMAIN if first == _LEGACY_DOMAIN else first), rest


def _check_name(text: str, domain: str, path: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(text, f"{domain!r} is not a host name")
    if not _PATH.fullmatch(path):
        if _PATH.fullmatch(path.lower()):
            raise _invalid(text, "repository name must be lowercase")
        raise _invalid(text, f"{path!r} is not a repository name")
    if len(domain) + 1 + len(path) > _MAX_NAME:
        raise _invalid(text, f"the name is longer than {_MAX_NAME} characters")


def _invalid(text: str, why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"invalid image reference {text!r}: {why}")
