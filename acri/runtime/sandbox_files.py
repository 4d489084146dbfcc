# SPDX-License-Identifier: Apache-2.0
"""The files that a pod's containers share: /etc/hostname, /etc/hosts and /etc/resolv.conf.

A kubelet mounts its own /etc/hosts over ours; for everybody else ours has to be a working one. Content is made by pure
functions; what touches the file system blocks and runs in a thread.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from acri import errors
from acri.host import mounts
from acri.host.failures import host_error
from acri.host.kernel import Kernel
from acri.model.config import DNSConfig, NamespaceMode
from acri.model.sandbox import Sandbox
from acri.runtime.paths import SandboxPaths

__all__ = ["hostname_of", "hosts_content", "make", "remove", "resolv_conf_content", "unmount_shm", "write_hosts"]

MAX_HOSTNAME = 64
"""HOST_NAME_MAX: what sethostname(2) takes."""

_LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def hostname_of(sandbox: Sandbox) -> str:
    """The pod's host name: the node's where the kubelet sends none (host network) or nobody set one.

    Raises:
        errors.InvalidArgument: longer than the kernel allows.
    """
    hostname = sandbox.config.hostname or socket.gethostname()
    if len(hostname.encode()) > MAX_HOSTNAME:
        raise errors.InvalidArgument(f"hostname {hostname!r} has more than {MAX_HOSTNAME} bytes")
    return hostname


def hosts_content(hostname: str, ips: tuple[str, ...]) -> str:
    """/etc/hosts of a pod with a network of its own."""
    return _LOCALHOST + "".join(f"{ip}\t{hostname}\n" for ip in ips)


def resolv_conf_content(dns: DNSConfig) -> str:
    """/etc/resolv.conf from the pod's DNS configuration; an empty configuration makes an empty file.

    Raises:
        errors.InvalidArgument: a value that would break out of its line.
    """
    for value in (*dns.servers, *dns.searches, *dns.options):
        if "\n" in value or "\0" in value:
            raise errors.InvalidArgument(f"dns_config: {value!r} has a line break in it")
    lines = [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"nameserver {server}" for server in dns.servers]
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def make(kernel: Kernel, sandbox: Sandbox, paths: SandboxPaths) -> None:
    """Make the sandbox's directories, its /dev/shm and the files that do not depend on its address. Blocks.

    Raises:
        errors.InvalidArgument: a host name or DNS configuration that cannot be.
        errors.AcriError: the host refused; the text names the path.
    """
    _make_directory(paths.root, 0o755)
    _make_directory(paths.state, 0o711)
    _write(paths.hostname, f"{hostname_of(sandbox)}\n".encode())
    dns = sandbox.config.dns_config
    _write(paths.resolv_conf, _host_file("/etc/resolv.conf") if dns is None else resolv_conf_content(dns).encode())
    if sandbox.host_network:
        _write(paths.hosts, _host_file("/etc/hosts"))
    if sandbox.namespace_options.ipc is not NamespaceMode.NODE:
        mounts.mount_shm(kernel, paths.shm)


def unmount_shm(kernel: Kernel, paths: SandboxPaths) -> None:
    """Give the memory of /dev/shm back; idempotent. Blocks. Raises `errors.AcriError`."""
    mounts.unmount(kernel, paths.shm)


def remove(kernel: Kernel, paths: SandboxPaths) -> None:
    """Remove the sandbox's directories and what is mounted in them; idempotent. Blocks. Raises `errors.AcriError`."""
    for path in (paths.state, paths.root):
        mounts.remove_tree(kernel, path)


def write_hosts(sandbox: Sandbox, paths: SandboxPaths) -> None:
    """Write /etc/hosts of a pod with a network of its own, once its addresses are known. Blocks.

    Raises:
        errors.AcriError: the host refused; the text names the path.
    """
    _write(paths.hosts, hosts_content(hostname_of(sandbox), sandbox.ips).encode())


def _host_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _make_directory(path: str, mode: int) -> None:
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
    except OSError as error:
        raise host_error(f"make the directory {path}", error) from error


def _write(path: str, content: bytes) -> None:
    try:
        with open(path, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
    except OSError as error:
        raise host_error(f"write {path}", error) from error
