# SPDX-License-Identifier: Apache-2.0
"""How several `acri up` on one host keep out of each other's way: a lock per directory, a subnet each, a record.

    free ──claim──▶ claimed (DIR/lock held, /run/acri-up/TAG.json written) ──release──▶ free
                        └─ killed: the lock is free, the record stays ──claim again──▶ claimed, `dirty`

Subnets are /24 networks of 10.176.0.0/13, which no common Kubernetes distribution, Docker or Podman uses by default.
One is free if no route of any table and no address of this host overlaps it, and no other record names it. All choose
under one lock.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from acri.errors import ConfigError
from acri.testing.place import RENDEZVOUS, Place

__all__ = ["Claim", "abandoned", "choose_subnet", "claim", "routed"]

POOL = ipaddress.ip_network("10.176.0.0/13")
_PREFIX = 24
_LEAF = re.compile(r"\|-- (?P<address>[\d.]+)|/(?P<length>\d+) [a-z]+ [A-Z]+")


@dataclass(frozen=True, slots=True)
class Claim:
    """A directory in use by this process.

    subnet  of its own network, e.g. 10.180.7.0/24
    dirty   the last `acri up` in it did not end in order
    """

    place: Place
    subnet: str
    dirty: bool
    lock: int

    def release(self, *, clean: bool) -> None:
        """Give the directory up. `clean`: nothing is left of it on the host, so the others may forget it."""
        if clean:
            for path in (self.place.record, self.place.link):
                try:
                    os.unlink(path)
                except FileNotFoundError:
                    pass
        os.close(self.lock)


def claim(place: Place, *, temporary: bool = False) -> Claim:
    """Take the directory, making it if need be.

    Args:
        temporary: nobody comes back to this directory; if its user is killed, `abandoned` tells others of it.

    Raises:
        ConfigError: it is in use, or cannot be made; or no subnet is free.
    """
    try:
        os.makedirs(place.directory, mode=0o711, exist_ok=True)
        os.makedirs(RENDEZVOUS, mode=0o711, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be made: {error.strerror}") from None
    lock = _take_lock(place)
    try:
        with _choosing():
            old = _read(Path(place.record))
            taken = [*routed(), *(_subnets(other) for other in _records() if other != Path(place.record))]
            subnet = choose_subnet(place.tag, [item for item in taken if item], old.get("subnet", ""))
            record = {"directory": place.directory, "subnet": subnet, "temporary": temporary}
            Path(place.record).write_text(json.dumps(record), "utf-8")
            if place.is_deep and not os.path.islink(place.link):
                os.symlink(place.directory, place.link)
    except BaseException:
        os.close(lock)
        raise
    return Claim(place, subnet, bool(old), lock)


def _take_lock(place: Place) -> int:
    path = place.below("lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise ConfigError(f"{place.directory} is in use by another acri up (pid {owner or 'unknown'})") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


@contextmanager
def _choosing() -> Iterator[None]:
    """One chooses at a time on this host; waits for the others, who take milliseconds."""
    fd = os.open(f"{RENDEZVOUS}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _records() -> list[Path]:
    return sorted(Path(RENDEZVOUS).glob("*.json"))


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _subnets(path: Path) -> ipaddress.IPv4Network | None:
    try:
        return ipaddress.IPv4Network(_read(path).get("subnet", ""))
    except ValueError:
        return None


def abandoned() -> list[Place]:
    """Temporary directories whose user was killed; the caller sweeps them, under `claim`."""
    found = []
    for path in _records():
        record = _read(path)
        if record.get("temporary") and record.get("directory"):
            place = Place(record["directory"])
            if not _locked(place):
                found.append(place)
    return found


def _locked(place: Place) -> bool:
    try:
        fd = os.open(place.below("lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def choose_subnet(tag: str, taken: list[ipaddress.IPv4Network], last: str = "") -> str:
    """A /24 of the pool that overlaps none of `taken`: the one of `last` time, else from a place that the tag gives.

    Raises:
        ConfigError: all of the pool is taken.
    """
    count = 1 << (_PREFIX - POOL.prefixlen)
    first = int(tag, 16) % count
    size = 1 << (32 - _PREFIX)
    base = int(POOL.network_address)
    candidates = (ipaddress.IPv4Network((base + (first + step) % count * size, _PREFIX)) for step in range(count))
    if last:
        known = ipaddress.IPv4Network(last)
        if not any(known.overlaps(other) for other in taken):
            return last
    for candidate in candidates:
        if not any(candidate.overlaps(other) for other in taken):
            return str(candidate)
    raise ConfigError(f"no subnet of {POOL} is free on this host; use --cni-conf-dir with a network of your own")


def routed(root: str = "/") -> list[ipaddress.IPv4Network]:
    """What this host's IPv4 routes reach, in every table, default routes aside; its own addresses are routes too."""
    try:
        text = Path(root, "proc/net/fib_trie").read_text("ascii")
    except OSError:
        return []
    found: set[ipaddress.IPv4Network] = set()
    address = ""
    for match in _LEAF.finditer(text):
        if match["address"]:
            address = match["address"]
        elif address and match["length"] != "0":
            found.add(ipaddress.IPv4Network(f"{address}/{match['length']}", strict=False))
    return sorted(found)
