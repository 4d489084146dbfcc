# SPDX-License-Identifier: Apache-2.0
"""systemd's two protocols for a daemon: sockets handed in (LISTEN_FDS) and messages sent out (NOTIFY_SOCKET).

References:
    sd_listen_fds(3), sd_notify(3). A few lines each; no package is needed.
"""

from __future__ import annotations

import os
import socket

__all__ = ["Notifier", "listen_sockets"]

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

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(message.encode(), address)
            except OSError:  # a manager that went away must not end the daemon
                pass


def listen_sockets() -> list[socket.socket]:
    """The listening sockets that the service manager opened for this process; each can be taken once."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    os.environ.pop("LISTEN_FDNAMES", None)
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    return sockets
