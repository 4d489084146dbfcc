# SPDX-License-Identifier: Apache-2.0
"""The ground that an acri stands on in these tests, and what it may not leave there.

    Lab           containerd, registry and network that all acris of a session share
    Network       bridge, host-local and portmap on a bridge and a subnet of its own
    AcriProcess   `acri serve` as a process, with every path below one directory
    leftovers     whatever of a pod can still be seen on this host

Nothing here knows CRI; `cri_pods` does.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from containerd_process import ContainerdProcess
from fixtures.images import LocalRegistry

from acri.aio.fdstore import FdStore
from acri.config import Settings, parse
from acri.containerd.client import Containerd
from acri.testing import firewall

__all__ = ["SERVE", "AcriProcess", "Lab", "MakeAcri", "Network", "command_of", "leftovers", "require_tools", "sh"]

SERVE = (sys.executable, "-m", "acri", "serve", "--config")
CNI_DIRS = ("/opt/cni/bin", "/usr/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")


def sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class Network:
    """A pod network that no other test's network meets. `conf_dir` is what acri gets."""

    def __init__(self, directory: Path) -> None:
        self.tag = secrets.token_hex(3)
        self.bridge = f"acrie{self.tag}"
        self.subnet = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
        self.conf_dir, self.cache_dir, self._ipam = directory / "net.d", directory / "cni-cache", directory / "ipam"
        self.conf_dir.mkdir(parents=True)
        self.configure()

    @property
    def name(self) -> str:
        return f"net-{self.tag}"

    def configure(self, ranges: int = 1) -> None:
        """Write the configuration; a pod gets an address of each range."""
        bridge: dict[str, Any] = {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._ipam),
                "ranges": [[{"subnet": f"{self.subnet}.{128 * i}/{24 + ranges - 1}"}] for i in range(ranges)],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        document = {"cniVersion": "1.0.0", "name": self.name, "plugins": plugins}
        (self.conf_dir / "10-pods.conflist").write_text(json.dumps(document))

    def addresses(self) -> list[str]:
        """What host-local has given out."""
        directory = self._ipam / self.name
        names = os.listdir(directory) if directory.exists() else []
        return sorted(name for name in names if name[0].isdigit())

    def leftovers(self) -> list[str]:
        """Addresses, cables, firewall rules and results of pods."""
        ports = Path(f"/sys/class/net/{self.bridge}/brif")
        rules = firewall.rules(self.name)
        results = self.cache_dir / "results"
        cached = os.listdir(results) if results.exists() else []
        return [
            *(f"address {address}" for address in self.addresses()),
            *(f"cable {port}" for port in (os.listdir(ports) if ports.exists() else [])),
            *(f"rule {rule}" for rule in rules),
            *(f"result {name}" for name in cached),
        ]

    def forget(self) -> None:
        """Drop what pods without a record hold."""
        firewall.remove(self.name)
        for directory in (self._ipam, self.cache_dir):
            shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """The bridge and the rules go, as at a reboot."""
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        firewall.remove(self.name)


_CONFIG = """\
socket = "{dir}/acri.sock"
state_dir = "{dir}/run"
root_dir = "{dir}/lib"
[log]
level = "debug"
format = "json"
[containerd]
address = "{containerd}"
namespace = "{namespace}"
[cni]
conf_dir = "{conf_dir}"
bin_dirs = {bin_dirs}
cache_dir = "{cache_dir}"
netns_dir = "{dir}/netns"
[cgroups]
driver = "{driver}"
parent = "{cgroup_parent}"
[images]
certs_dir = "{certs_dir}"
[runtime]
drain_timeout = 2.0
"""


class AcriProcess:
    """`acri serve` with its configuration under `directory`. `start` and `kill` may be repeated: state stays."""

    def __init__(
        self,
        directory: Path,
        network: Network,
        containerd: str,
        certs_dir: Path,
        *,
        namespace: str = "k8s.io",
        conf_dir: Path | None = None,
        driver: str = "cgroupfs",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.network = network
        self.cgroup_parent = f"/acri-e2e-{secrets.token_hex(3)}"
        self.socket = str(directory / "acri.sock")
        self.log_path = directory / "log"
        self.manager: FdStore | None = None
        """What plays the service manager, for tests that need one."""
        self._process: subprocess.Popen[bytes] | None = None
        self._config = directory / "config.toml"
        self._config.write_text(
            _CONFIG.format(
                dir=directory,
                containerd=containerd,
                namespace=namespace,
                conf_dir=conf_dir or network.conf_dir,
                bin_dirs=json.dumps(CNI_DIRS),
                cache_dir=network.cache_dir,
                driver=driver,
                cgroup_parent=self.cgroup_parent if driver == "cgroupfs" else "",
                certs_dir=certs_dir,
            )
        )

    @property
    def settings(self) -> Settings:
        return parse(self._config.read_text(), str(self._config))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self, *command: str) -> None:
        """Start it, or a script in its place that takes the configuration's path, and wait until it serves."""
        self.spawn(*(command or SERVE))
        self.wait_until_it_serves()

    def wait_until_it_serves(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 30
        while not self._serves():
            assert self._process.poll() is None, f"acri ended: {self.log[-3000:]}"
            assert time.monotonic() < deadline, f"acri does not serve: {self.log[-3000:]}"
            time.sleep(0.01)

    def spawn(self, *command: str) -> None:
        """Start it and do not wait."""
        whole = [*command, str(self._config)]
        environment = dict(os.environ)
        stored = self.manager.stored() if self.manager is not None else ()
        if self.manager is not None:
            fds = ",".join(str(fd) for _, fd in stored)
            whole = [sys.executable, "-m", "acri.testing.listen_exec", str(os.getpid()), fds, *whole]
            environment["NOTIFY_SOCKET"] = self.manager.path
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in stored)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                whole,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                pass_fds=[fd for _, fd in stored],
            )

    def _serves(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.socket)
            except OSError:
                return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit code. One that has ended already is fine."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(60)

    def wait(self) -> int:
        """Wait until it has ended by itself; the exit code."""
        assert self._process is not None
        return self._process.wait(60)

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.kill(number)
        self.start()

    def stop(self) -> None:
        """End acri, and what a failed test left of its pods, as far as that would disturb the next one."""
        if self._process is not None:
            self.kill(signal.SIGTERM)
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for point in [*_mounts_below(self.directory), *map(str, _pin_roots(self.directory))]:
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        for directory in self.cgroups():
            _remove_cgroup(directory)

    def processes(self) -> list[int]:
        """Pids in this acri's cgroups: containers and holders."""
        found = set()
        for directory in self.cgroups():
            for path in [directory, *directory.rglob("*")]:
                if path.is_dir():
                    try:
                        found |= {int(pid) for pid in (path / "cgroup.procs").read_text().split()}
                    except OSError:
                        pass
        return sorted(found)

    def cgroups(self) -> list[Path]:
        """This acri's cgroup parents, one per hierarchy."""
        name = self.cgroup_parent.strip("/")
        return [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]


@dataclass(frozen=True)
class Lab:
    """What every acri of the session shares."""

    directory: Path
    containerd: ContainerdProcess
    registry: LocalRegistry
    certs_dir: Path
    network: Network

    def acri(self, name: str, **changes: object) -> AcriProcess:
        """An acri that is not started yet."""
        arguments = {"network": self.network, "containerd": self.containerd.address, "certs_dir": self.certs_dir}
        return AcriProcess(self.directory / name, **(arguments | changes))  # type: ignore[arg-type]


MakeAcri = Callable[..., AcriProcess]


async def leftovers(acri: AcriProcess) -> list[str]:
    """What is left of pods: empty when none is there. Image content is no leftover."""
    found = [f"mount {point}" for point in _mounts_below(acri.directory)]
    for name in ("netns", "run/ns", "run/sandboxes", "run/containers", "lib/sandboxes", "lib/containers"):
        directory = acri.directory / name
        found += [str(path) for path in directory.iterdir()] if directory.exists() else []
    found += [f"fifo {path}" for path in (acri.directory / "run").rglob("*") if path.is_fifo()]
    found += [f"process {pid}: {command_of(pid)}" for pid in acri.processes()]
    # The parents are the kubelet's; what bears an id is acri's.
    found += [f"cgroup {path}" for parent in acri.cgroups() for path in parent.rglob("*") if len(path.name) == 64]
    found += acri.network.leftovers()
    settings = acri.settings.containerd
    async with Containerd(settings.address, settings.namespace) as containerd:
        found += [f"containerd container {item.id}" for item in await containerd.containers.list()]
        found += [f"containerd task {item.id}" for item in await containerd.tasks.list()]
        found += [f"lease {item.id}" for item in await containerd.leases.list()]
        snapshots = await containerd.snapshots.list(settings.snapshotter)
        found += [f"snapshot {item.name}" for item in snapshots if item.kind.name != "COMMITTED"]
    return found


def require_tools() -> str:
    """Why these tests cannot run here; "" if they can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in ("containerd", "runc", "iptables", "docker-registry", "ip") if not shutil.which(tool)]
    if not any(Path(directory, "bridge").exists() for directory in CNI_DIRS):
        missing.append("CNI plugins")
    if not Path("/bin/busybox").exists():
        missing.append("busybox-static")
    return f"needs {', '.join(missing)}" if missing else ""


def _pin_roots(directory: Path) -> list[Path]:
    """Mount points of their own that hold the pins: made once and kept, as `ip netns` does."""
    return [directory / "netns", directory / "run" / "ns"]


def _mounts_below(directory: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    roots = set(map(str, _pin_roots(directory)))
    return sorted((p for p in points if p.startswith(f"{directory}/") and p not in roots), reverse=True)


def _remove_cgroup(directory: Path) -> None:
    for path in sorted((p for p in directory.rglob("*") if p.is_dir()), reverse=True):
        _rmdir(path)
    _rmdir(directory)


def _rmdir(path: Path) -> None:
    for _ in range(50):
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)  # its last process is not reaped yet


def command_of(pid: int) -> str:
    """A process's command line; "?" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "?"
