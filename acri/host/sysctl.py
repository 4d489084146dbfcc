# SPDX-License-Identifier: Apache-2.0
"""Sysctls of a pod: which may be set, and where they are written.

Only what belongs to a namespace that the pod has for itself may be set, or a pod would change the node: `net.*` goes
with the network namespace, `kernel.shm*`, `kernel.msg*`, `kernel.sem` and `fs.mqueue.*` with the IPC namespace,
`kernel.domainname` with the UTS namespace (kubernetes.io, "Using sysctls in a Kubernetes Cluster"; runc's validator).

Names come in two spellings (sysctl(8)): with dots, where a "/" stands for a dot inside an element
(`net.ipv4.conf.eth0/100.forwarding`), or with slashes, where dots are themselves. The first separator decides.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping

from acri import errors
from acri.host.failures import host_error
from acri.host.kernel import Kernel

__all__ = ["apply", "check", "to_path"]

# "%" and "@" occur in interface names; a wildcard or a blank does not.
_ELEMENT = re.compile(r"[A-Za-z0-9_.:@%+-]{1,255}")
_SWAP = str.maketrans("./", "/.")


def to_path(name: str) -> str:
    """`net.ipv4.ip_forward` → `net/ipv4/ip_forward`, the path below /proc/sys.

    Raises:
        errors.InvalidArgument: an empty element, `.` or `..`, or a character that no sysctl has.
    """
    separator = next((char for char in name if char in "./"), "")
    path = name.translate(_SWAP) if separator == "." else name
    elements = path.split("/")
    if len(elements) < 2 or any(part in (".", "..") or not _ELEMENT.fullmatch(part) for part in elements):
        raise errors.InvalidArgument(f"sysctl {name!r} is not a sysctl's name, such as net.ipv4.ip_forward")
    return path


def _namespace(path: str) -> str:
    """The namespace that a sysctl belongs to: "net", "ipc", "uts", or "" for the node's own."""
    if path.startswith("net/"):
        return "net"
    if path == "kernel/sem" or path.startswith(("kernel/shm", "kernel/msg", "fs/mqueue/")):
        return "ipc"
    return "uts" if path == "kernel/domainname" else ""


def check(
    sysctls: Mapping[str, str], *, host_network: bool = False, host_ipc: bool = False, host_uts: bool = False
) -> dict[str, str]:
    """Path below /proc/sys → value, for sysctls that this pod may set.

    Raises:
        errors.InvalidArgument: not a name, not namespaced, of a namespace that the pod shares with the node, set twice
            in two spellings to different values, or a value with control characters.
    """
    shared = {"net": host_network, "ipc": host_ipc, "uts": host_uts}
    option = {"net": "host network", "ipc": "host IPC", "uts": "host UTS"}
    checked: dict[str, str] = {}
    for name, value in sysctls.items():
        path = to_path(name)
        namespace = _namespace(path)
        if path == "kernel/hostname":
            raise errors.InvalidArgument("sysctl kernel.hostname: set the pod's hostname instead")
        if not namespace:
            raise errors.InvalidArgument(
                f"sysctl {name!r} is not namespaced: it would change the node; set it on the node"
            )
        if shared[namespace]:
            raise errors.InvalidArgument(
                f"sysctl {name!r} cannot be set in a pod with {option[namespace]}: it would change the node"
            )
        if not value.isprintable() and any(char != "\t" and not char.isprintable() for char in value):
            raise errors.InvalidArgument(f"sysctl {name!r}: the value {value!r} has a control character in it")
        if checked.setdefault(path, value) != value:
            raise errors.InvalidArgument(f"sysctl {name!r} is set twice, to different values")
    return checked


def apply(kernel: Kernel, paths: Mapping[str, str], *, skip_missing: bool = False) -> None:
    """Write checked sysctls (`check`) in the calling thread's namespaces.

    `skip_missing`: a kernel without one of them is fine (acri's own defaults, not what a user asked for).

    Raises:
        errors.InvalidArgument: this kernel has no such sysctl in a namespace, or refuses the value.
        errors.PermissionDenied: /proc/sys cannot be written.
    """
    for path, value in paths.items():
        name = path.translate(_SWAP)
        try:
            kernel.write_file(f"/proc/sys/{path}", value)
        except FileNotFoundError:
            if not skip_missing:
                raise errors.InvalidArgument(
                    f"sysctl {name}: this kernel has none of that name in a pod's namespace"
                ) from None
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG):
                raise errors.InvalidArgument(f"sysctl {name}: the kernel refuses the value {value!r}") from error
            raise host_error(f"set sysctl {name}", error) from error
