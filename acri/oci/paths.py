# SPDX-License-Identifier: Apache-2.0
"""Paths inside a container, as text: nothing here looks at a file system."""

from __future__ import annotations

import posixpath

from acri import errors

__all__ = ["clean", "container_path", "depth"]


def clean(path: str) -> str:
    """`path` without empty parts, "." and "..", by text alone; "" is "."; one leading slash at most."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def container_path(path: str, what: str) -> str:
    """The clean form of a path that a request names inside the container; `what` opens the error's sentence.

    Raises:
        InvalidArgument: empty, relative, with a ".." part, a NUL byte or a line break.
    """
    if not path:
        raise errors.InvalidArgument(f"{what} has no container path")
    if not path.startswith("/"):
        raise errors.InvalidArgument(f"{what}: container path {path!r} is not absolute")
    if ".." in path.split("/"):
        raise errors.InvalidArgument(f"{what}: container path {path!r} must not contain '..'")
    if "\0" in path or "\n" in path:
        raise errors.InvalidArgument(f"{what}: container path {path!r} has a NUL byte or a line break")
    return clean(path)


def depth(path: str) -> int:
    """How many parts a clean absolute path has; "/" has none."""
    return 0 if path == "/" else path.count("/")
