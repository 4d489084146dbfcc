# SPDX-License-Identifier: Apache-2.0
"""The servers that `bench_cri.py` compares, each with a containerd, a bridge and a subnet of its own.

    registry ◀─pull─┬─ acri serve ──▶ containerd, its CRI plugin off
                    └─ containerd with its CRI plugin on

Both get images, CNI chain (bridge, host-local, portmap, ipMasq) and containerd binary alike. The plugin's pause image
holds acri's holder program (2 KiB, static), so that neither side is charged for a larger one. All of it is gone at the
end: pods by CRI, processes by pid, bridges, cgroups, directories.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from containerd_process import ContainerdProcess
from cri_client import IMAGE, SANDBOX_IMAGE, Cri
from images import LocalRegistry, build, busybox_files, layer

from acri.proto.runtime import v1
from acri.wire import new

__all__ = ["Side", "make_cgroup", "remove_cgroup", "servers"]

ROOT = Path(__file__).parents[2]
HOLDER = ROOT / "acri/host/holder" / f"holder-{os.uname().machine}"
CGROUPS = Path("/sys/fs/cgroup")
CNI_BIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")

PLUGIN_CONFIG = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
temp = "{directory}/tmp"

[grpc]
address = "{address}"

[ttrpc]
address = "{address}.ttrpc"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{sandbox_image}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_bin}"
conf_dir = "{net_d}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{certs_d}"

[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"

[plugins."io.containerd.nri.v1.nri"]
disable = true
"""

ACRI_CONFIG = """
socket = "{directory}/acri.sock"
state_dir = "{directory}/acri-run"
root_dir = "{directory}/acri-lib"

[log]
level = "info"
format = "json"

[containerd]
address = "{address}"

[cni]
conf_dir = "{net_d}"
bin_dirs = ["{cni_bin}"]
cache_dir = "{directory}/cni-cache"
netns_dir = "{directory}/netns"

[cgroups]
driver = "cgroupfs"

[images]
certs_dir = "{certs_d}"
"""


@dataclass(frozen=True, slots=True)
class Side:
    """One server under test."""

    name: str
    cri: Cri
    containerd: ContainerdProcess
    daemons: dict[str, int]
    """Resident processes by name: pid. The first is the one that answers CRI."""
    directory: Path
    cgroup_parent: str


@asynccontextmanager
async def servers(names: list[str], containerd_bin: str) -> AsyncIterator[list[Side]]:
    """Start the named sides (`acri`, `plugin`), ready for pods, and remove every trace of them at the end."""
    os.environ["PATH"] = f"{Path(containerd_bin).parent}:{os.environ['PATH']}"  # its own shim first
    async with AsyncExitStack() as stack:
        shared = stack.enter_context(_directory())
        certs_d = stack.enter_context(_registry(shared))
        sides = []
        for name in names:
            directory = shared / name
            net_d = directory / "net.d"
            net_d.mkdir(parents=True)
            stack.enter_context(_network(name, net_d, directory / "ipam"))
            start = _acri if name == "acri" else _plugin
            containerd = stack.enter_context(_containerd(containerd_bin))
            socket, daemons = stack.enter_context(start(containerd, directory, net_d, certs_d))
            cgroup_parent = stack.enter_context(_cgroup(f"/acri-bench-{os.getpid()}-{name}"))
            cri = Cri(socket, name)
            stack.callback(cri.close)
            stack.push_async_callback(_remove_pods, cri, name)
            await _ready(cri, name)
            sides.append(Side(name, cri, containerd, daemons, directory, cgroup_parent))
        yield sides


@contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="acri-b", dir="/tmp"))  # short: a socket's path has 107 bytes
    try:
        yield directory
    finally:
        for point in _mounts_below(directory):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _registry(shared: Path) -> Iterator[Path]:
    """A registry with both images that answers for every other registry's name; its certs.d directory."""
    with LocalRegistry.start(shared / "registry") as registry:
        registry.push("library/bench", "1", build([layer(busybox_files())], {"Cmd": ["sh"]}))
        holder = layer({"pause": (0o755, HOLDER.read_bytes())})
        registry.push("pause", "bench", build([holder], {"Entrypoint": ["/pause"]}))
        yield registry.write_certs_dir(shared / "certs.d")


@contextmanager
def _network(side: str, net_d: Path, ipam: Path) -> Iterator[None]:
    """The side's CNI configuration, on a /24 and a bridge that nobody uses."""
    routes = subprocess.run(["ip", "-4", "route", "show"], capture_output=True, text=True, check=True).stdout
    third = next(n for n in range(10, 250) if f"10.86.{n}." not in routes and not _link_exists(f"acribench{n}"))
    bridge = f"acribench{third}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)  # taken: two benches may start at once
    subprocess.run(["ip", "address", "add", f"10.86.{third}.1/24", "dev", bridge], check=True)
    subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
    conflist = {
        "cniVersion": "1.0.0",
        "name": f"bench-{side}",
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(ipam),
                    "ranges": [[{"subnet": f"10.86.{third}.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }
    (net_d / "10-bench.conflist").write_text(json.dumps(conflist))
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "delete", bridge], check=False, capture_output=True)


def _link_exists(name: str) -> bool:
    return Path("/sys/class/net", name).exists()


@contextmanager
def _containerd(binary: str) -> Iterator[ContainerdProcess]:
    """Not started yet; stopped, with its shims and mounts, at the end."""
    process = ContainerdProcess(binary)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def _plugin(
    containerd: ContainerdProcess, directory: Path, net_d: Path, certs_d: Path
) -> Iterator[tuple[str, dict[str, int]]]:
    config = PLUGIN_CONFIG.format(
        directory=containerd.directory,
        address=containerd.address,
        sandbox_image=SANDBOX_IMAGE,
        cni_bin=_cni_bin(),
        net_d=net_d,
        certs_d=certs_d,
    )
    (containerd.directory / "config.toml").write_text(config)
    containerd.start()
    yield containerd.address, {"containerd": containerd.pid}


@contextmanager
def _acri(
    containerd: ContainerdProcess, directory: Path, net_d: Path, certs_d: Path
) -> Iterator[tuple[str, dict[str, int]]]:
    containerd.start()
    config = directory / "acri.toml"
    config.write_text(
        ACRI_CONFIG.format(
            directory=directory, address=containerd.address, cni_bin=_cni_bin(), net_d=net_d, certs_d=certs_d
        )
    )
    with (directory / "acri.log").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "acri", "serve", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,  # a Ctrl-C is the bench's: it still has pods to remove
        )
    try:
        yield f"{directory}/acri.sock", {"acri": daemon.pid, "containerd": containerd.pid}
    finally:
        daemon.terminate()
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        if daemon.returncode:
            print((directory / "acri.log").read_text()[-3000:], file=sys.stderr)


def _cni_bin() -> str:
    for path in CNI_BIN_DIRS:
        if Path(path, "bridge").exists():
            return path
    raise SystemExit("no CNI plugins: apt install containernetworking-plugins")


@contextmanager
def _cgroup(parent: str) -> Iterator[str]:
    """A cgroup parent of the side's own."""
    try:
        yield parent
    finally:
        remove_cgroup(parent)


def make_cgroup(path: str) -> None:
    """Make a pod's cgroup in every hierarchy, as a kubelet does before RunPodSandbox."""
    for root in _hierarchies():
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def remove_cgroup(path: str) -> None:
    """Remove a cgroup and those below it; a process in one of them is reported, not ended."""
    for root in _hierarchies():
        for directory, _, _ in os.walk(root / path.lstrip("/"), topdown=False):
            try:
                os.rmdir(directory)
            except OSError as error:
                print(f"left behind: {directory}: {error.strerror}", file=sys.stderr)


def _hierarchies() -> list[Path]:
    """The one of cgroups v2, or those of v1 without their aliases (cpu, cpuacct)."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


async def _ready(cri: Cri, name: str) -> None:
    """Wait for the server and its network; pull the images."""
    await cri.call("Version", wait=True)
    for _ in range(100):
        status = (await cri.call("Status")).status
        if all(condition.status for condition in status.conditions):
            break
        await asyncio.sleep(0.1)
    else:
        raise SystemExit(f"{name} is not ready: {status}")
    for image in (IMAGE, SANDBOX_IMAGE) if name == "plugin" else (IMAGE,):
        await cri.call("PullImage", image=new(v1.ImageSpec, image=image))


async def _remove_pods(cri: Cri, name: str) -> None:
    try:
        await cri.remove_all()
    except Exception as error:  # the rest of the clean-up goes on
        print(f"{name}: pods are left: {error}", file=sys.stderr)


def _mounts_below(directory: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True)
