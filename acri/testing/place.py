# SPDX-License-Identifier: Apache-2.0
"""`Place`: everything that belongs to one directory of `acri up`, below it and elsewhere on the host.

    DIR/lock                      held while an `acri up` uses the directory
    DIR/acri.sock notify.sock containerd.sock containerd.sock.ttrpc
    DIR/acri.toml                 generated
    DIR/acri/{root,state}         acri's own
    DIR/containerd/{config.toml,root,state}
    DIR/cni/{net.d,cache,ipam}    network configuration, results, addresses given out
    DIR/netns/                    pinned network namespaces
    DIR/logs/{acri,containerd}.log

A unix socket's path has 107 bytes (unix(7)), and containerd allows itself 104; below a deep directory the sockets are
therefore reached by a symbolic link, /run/acri-up/TAG → DIR. On the host, the tag names the rest: the bridge `acriTAG`
(an interface's name has 15 bytes), the network `acri-up-TAG` and the cgroup `/acri-up-TAG`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

__all__ = ["RENDEZVOUS", "Place"]

RENDEZVOUS = "/run/acri-up"
"""Where all `acri up` of this host know of each other."""

_LONGEST_SOCKET = 104 - len("/containerd.sock.ttrpc")


@dataclass(frozen=True, slots=True)
class Place:
    """One directory. `directory` is absolute and free of symbolic links: `Place.at` makes it so."""

    directory: str

    @classmethod
    def at(cls, directory: str | os.PathLike[str]) -> Place:
        """The place for a directory, which need not exist yet."""
        return cls(os.path.realpath(directory))

    @property
    def tag(self) -> str:
        """Eight hex digits that stand for the directory."""
        return hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:8]

    @property
    def link(self) -> str:
        """The short way to a long directory."""
        return f"{RENDEZVOUS}/{self.tag}"

    @property
    def record(self) -> str:
        """What the others have to know of this one (`rendezvous`)."""
        return f"{RENDEZVOUS}/{self.tag}.json"

    @property
    def is_deep(self) -> bool:
        """Whether sockets need the short way."""
        return len(os.fsencode(self.directory)) > _LONGEST_SOCKET

    def socket(self, name: str) -> str:
        """The path by which the socket `name` is bound and reached; at most 104 bytes."""
        return f"{self.link if self.is_deep else self.directory}/{name}"

    def below(self, *parts: str) -> str:
        return "/".join((self.directory, *parts))

    @property
    def acri_socket(self) -> str:
        return self.socket("acri.sock")

    @property
    def notify_socket(self) -> str:
        return self.socket("notify.sock")

    @property
    def containerd_socket(self) -> str:
        return self.socket("containerd.sock")

    @property
    def acri_config(self) -> str:
        return self.below("acri.toml")

    @property
    def containerd_config(self) -> str:
        return self.below("containerd", "config.toml")

    @property
    def containerd_state(self) -> str:
        return self.below("containerd", "state")

    @property
    def acri_root(self) -> str:
        return self.below("acri", "root")

    @property
    def acri_state(self) -> str:
        return self.below("acri", "state")

    @property
    def netns(self) -> str:
        return self.below("netns")

    @property
    def bridge(self) -> str:
        return f"acri{self.tag}"

    @property
    def network(self) -> str:
        return f"acri-up-{self.tag}"

    @property
    def cgroup(self) -> str:
        return f"/acri-up-{self.tag}"

    @property
    def slice(self) -> str:
        """The cgroup parent under the systemd driver; `-` would nest it."""
        return f"acriup{self.tag}.slice"

    @property
    def addresses(self) -> str:
        """host-local's directory of this network: a file per address that is given out."""
        return self.below("cni", "ipam", self.network)
