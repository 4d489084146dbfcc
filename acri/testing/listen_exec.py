# SPDX-License-Identifier: Apache-2.0
"""`python -m acri.testing.listen_exec PARENT FD,FD… PROGRAM ARGUMENT…`: become PROGRAM as a service manager's child.

sd_listen_fds(3) wants the descriptors to be 3, 4, … and LISTEN_PID to be the pid of who reads it: neither can be set
from outside without code between fork and exec, so this small program does it and becomes the real one. It also asks
for SIGTERM when its parent ends (PR_SET_PDEATHSIG), so that an `acri up` that is killed leaves no servers behind. The
names of the descriptors come in LISTEN_FDNAMES from the parent.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys

from acri.host.kernel import LinuxKernel

_FIRST_FD = 3
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Never returns."""
    parent, listed, *command = sys.argv[1:]
    fds = [int(word) for word in listed.split(",") if word]
    # First all out of the way: a target may be another one's source.
    above = _FIRST_FD + len(fds)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in fds]
    for target, fd in enumerate(high, _FIRST_FD):
        os.dup2(fd, target, inheritable=True)
    for fd in fds:
        if fd >= above:
            os.set_inheritable(fd, False)
    if fds:
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(fds))
    LinuxKernel().prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before we asked
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
