# SPDX-License-Identifier: Apache-2.0
"""systemd's two protocols for a daemon: descriptors handed in (LISTEN_FDS) and messages sent out (NOTIFY_SOCKET).

With the second a daemon can also leave descriptors with its manager and have them back after a restart (fd store).

References:
    sd_listen_fds(3), sd_notify(3), sd_pid_notify_with_fds(3). A few lines each; no package is needed.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from dataclasses import dataclass, field
from itertools import zip_longest

__all__ = ["Inherited", "Notifier", "inherited"]

_FIRST_FD = 3


class Notifier:
    """Tells the service manager how things stand; without one every call does nothing."""

    def __init__(self, address: str | None = None) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address

    def ready(self, status: str) -> None:
        """The daemon serves; `status` is the line that `systemctl status` shows."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=ending")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    @property
    def present(self) -> bool:
        """Whether there is a service manager to tell."""
        return bool(self._address)

    def store(self, name: str, fd: int) -> None:
        """Leave a duplicate of `fd` with the manager, to be had back by `inherited` after a restart. May block.

        FDPOLL=0: a FIFO whose writer has gone still holds what was written last.
        """
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fd)

    def forget(self, name: str) -> None:
        """Have the manager close what was stored under `name`. May block."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _send(self, message: str, *fds: int) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            # Not socket.send_fds: before Python 3.12 it forgets the address.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
            try:
                sock.sendmsg([message.encode()], rights, 0, address)
            except OSError:  # a manager that went away must not end the daemon
                pass


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a service manager handed to this process."""

    sockets: tuple[socket.socket, ...] = ()
    """Listening sockets, in the order of the unit's ListenStream= lines."""
    stored: dict[str, int] = field(default_factory=dict)
    """What an earlier process of this service left with `Notifier.store`, by name."""


def inherited() -> Inherited:
    """Take over the descriptors that the manager passed; they can be taken once."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return Inherited()
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    sockets = []
    stored = {}
    for fd, name in zip_longest(range(_FIRST_FD, _FIRST_FD + count), names[:count], fillvalue=""):
        assert isinstance(fd, int), "there are no more names than descriptors"
        os.set_inheritable(fd, False)
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sockets.append(socket.socket(fileno=fd))
        else:
            stored[str(name)] = fd
    return Inherited(tuple(sockets), stored)
