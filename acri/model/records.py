# SPDX-License-Identifier: Apache-2.0
"""What containerd's labels and extensions hold of a sandbox or container: typed, versioned JSON.

One containerd `Container` object is one sandbox or one container, and acri has no database beside. Its labels say
which, and carry CRI's labels for cAdvisor; its extension `io.acri.record` holds what this module reads and writes:

    {"version": 1, "sandbox": {…}}        type URL io.acri/Sandbox
    {"version": 1, "container": {…}}      type URL io.acri/Container

Fields that have their default value are left out. A reader ignores fields that it does not know, so that a downgrade
within one version reads a newer record; a version that it does not know is an error that names the object.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar, cast

from acri import errors
from acri.model.container import Container
from acri.model.sandbox import Sandbox

__all__ = [
    "CONTAINER",
    "EXTENSION",
    "KIND_LABEL",
    "SANDBOX",
    "SANDBOX_LABEL",
    "VERSION",
    "containerd_labels",
    "from_plain",
    "read_container",
    "read_sandbox",
    "to_plain",
    "type_url",
    "write",
]

T = TypeVar("T")
R = TypeVar("R", Sandbox, Container)

VERSION = 1
EXTENSION = "io.acri.record"
KIND_LABEL = "io.acri.kind"
SANDBOX_LABEL = "io.acri.sandbox"
SANDBOX, CONTAINER = "sandbox", "container"
# containerd refuses a label whose key and value have more bytes than this (labels/validate.go); the record keeps it.
_MAX_LABEL_BYTES = 4096
_INT64_MIN, _UINT64_MAX = -(1 << 63), (1 << 64) - 1


def type_url(kind: str) -> str:
    """The type URL of the extension: containerd stores it and does not look inside."""
    return f"io.acri/{kind.capitalize()}"


def containerd_labels(value: Sandbox | Container) -> dict[str, str]:
    """Labels of the containerd object: CRI's own, for cAdvisor and `ctr`, and acri's, which say what it is."""
    sandbox = isinstance(value, Sandbox)
    labels = {k: v for k, v in value.config.labels.items() if len(f"{k}{v}".encode()) <= _MAX_LABEL_BYTES and k}
    labels[KIND_LABEL] = SANDBOX if sandbox else CONTAINER
    labels[SANDBOX_LABEL] = value.id if isinstance(value, Sandbox) else value.sandbox_id
    return labels


def write(value: Sandbox | Container) -> bytes:
    """The extension's bytes."""
    kind = SANDBOX if isinstance(value, Sandbox) else CONTAINER
    return json.dumps({"version": VERSION, kind: to_plain(value)}, separators=(",", ":")).encode()


def read_sandbox(data: bytes) -> Sandbox:
    """Inverse of `write`. Raises `errors.Internal`, and nothing else, for a record that cannot be read."""
    return _read(data, SANDBOX, Sandbox)


def read_container(data: bytes) -> Container:
    """Inverse of `write`. Raises `errors.Internal`, and nothing else, for a record that cannot be read."""
    return _read(data, CONTAINER, Container)


def _read(data: bytes, kind: str, cls: type[R]) -> R:
    try:
        document = _expect(dict, json.loads(data))
        version = document["version"]
        if version != VERSION:
            raise errors.Internal(f"{kind} record has version {version!r}; this acri reads version {VERSION}")
        value = from_plain(cls, document[kind])
        if not value.id or value.config.metadata is None:
            raise ValueError("it has no id or no metadata, so nobody could name it")
        return value
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.Internal(f"{kind} record cannot be read: {type(error).__name__}: {error}") from error


def to_plain(value: Any) -> Any:
    """A dataclass as JSON-ready dicts and lists; fields that equal their default are left out."""
    if dataclasses.is_dataclass(value):
        plain = {}
        for name, default in _defaults(cast(Any, type(value))):
            item = getattr(value, name)
            if item != default:
                plain[name] = to_plain(item)
        return plain
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return dict(value)
    return value


def from_plain(cls: type[T], plain: Mapping[str, Any]) -> T:
    """Inverse of `to_plain` for the dataclass `cls`; unknown keys are ignored.

    Raises:
        TypeError, ValueError: a value of another type than the field's, or a field without default that is missing.
    """
    readers = _readers(cast(Any, cls))
    return cls(**{name: readers[name](item) for name, item in _expect(dict, plain).items() if name in readers})


@functools.cache
def _defaults(cls: Any) -> tuple[tuple[str, Any], ...]:
    def default(spec: dataclasses.Field[Any]) -> Any:
        return spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default

    return tuple((spec.name, default(spec)) for spec in dataclasses.fields(cls))


@functools.cache
def _readers(cls: Any) -> dict[str, Callable[[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return {spec.name: _reader(hints[spec.name]) for spec in dataclasses.fields(cls)}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """How a value of type `hint` is made from its JSON form."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        read = _reader(inner)
        return lambda item: None if item is None else read(item)
    if origin is tuple:
        read_item = _reader(typing.get_args(hint)[0])
        return lambda items: tuple(map(read_item, _expect(list, items)))
    if origin is dict:
        read_key, read_value = map(_reader, typing.get_args(hint))
        return lambda items: {read_key(k): read_value(v) for k, v in _expect(dict, items).items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return functools.partial(from_plain, hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return functools.partial(_expect, hint)


def _expect(cls: type[T], value: T) -> T:
    # type(), not isinstance(): true is no number.
    if type(value) is not cls:
        raise TypeError(f"{cls.__name__} expected, not {type(value).__name__}")
    # What JSON can say and no message can carry would only fail at the first list.
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError: a lone surrogate
    elif isinstance(value, int) and not _INT64_MIN <= value <= _UINT64_MAX:
        raise ValueError("a number of more than 64 bits")
    return value
