# SPDX-License-Identifier: Apache-2.0
"""A network of the distribution's plugins (bridge, host-local, portmap) with a bridge and a subnet of its own."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from acri.aio.process import Processes
from acri.aio.threads import Kind, Threads
from acri.cni.attachment import Attachment
from acri.cni.network import Networks

BIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")


def sh(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class Lab:
    """One host network, and the namespaces that tests attach to it."""

    def __init__(self, root: Path) -> None:
        # Unlike other networks of this host, and several labs at once do not meet.
        self.tag = secrets.token_hex(3)
        self.bridge = f"acrit{self.tag}"
        self.subnet = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
        self.conf, self.cache, self.ipam = root / "net.d", root / "cache", root / "ipam"
        self.conf.mkdir()
        self.root = root
        self.namespaces: list[str] = []

    @property
    def plugins(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "bridge",
                "bridge": self.bridge,
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(self.ipam),
                    "ranges": [[{"subnet": f"{self.subnet}.0/24"}], [{"subnet": f"fd00:{self.tag[:4]}::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ]

    @property
    def name(self) -> str:
        return f"net-{self.tag}"

    def configure(self, *extra: dict[str, Any], **changes: Any) -> None:
        document = {"cniVersion": "1.0.0", "name": self.name, "plugins": [*self.plugins, *extra]} | changes
        (self.conf / "10-lab.conflist").write_text(json.dumps(document))

    def pod(self, **fields: Any) -> Attachment:
        """A namespace with loopback up, as the host room makes it, and its attachment."""
        name = f"acrit-{self.tag}-{len(self.namespaces)}"
        sh("ip", "netns", "add", name)
        self.namespaces.append(name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        return Attachment(secrets.token_hex(32), f"/run/netns/{name}", name="pod", namespace="ns", uid="u", **fields)

    def links(self, pod: Attachment) -> list[str]:
        name = os.path.basename(pod.netns_path)
        return sorted(link["ifname"] for link in json.loads(sh("ip", "-n", name, "-j", "link")))

    def addresses(self) -> list[str]:
        """What host-local has given out."""
        directory = self.ipam / self.name
        if not directory.exists():
            return []
        return sorted(path.name for path in directory.iterdir() if not path.name.startswith(("last_reserved", "lock")))

    def veths(self) -> list[str]:
        if not os.path.exists(f"/sys/class/net/{self.bridge}/brif"):
            return []
        return os.listdir(f"/sys/class/net/{self.bridge}/brif")

    def rules(self) -> list[str]:
        """Rules of this lab in the host's tables: by network name, by address."""
        lines = (sh("iptables-save") + sh("ip6tables-save")).splitlines()
        return [line for line in lines if self.name in line or f"{self.subnet}." in line]

    def leftovers(self) -> list[str]:
        results = self.cache / "results"
        cached = [path.name for path in results.iterdir()] if results.exists() else []
        return [*self.addresses(), *self.veths(), *self.rules(), *cached]

    @asynccontextmanager
    async def server(self, pod: Attachment, program: str) -> AsyncIterator[None]:
        """Run a Python program in the pod's namespace, from its first line of output on."""
        argv = ("ip", "netns", "exec", os.path.basename(pod.netns_path), sys.executable, "-c", program)
        process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            await process.stdout.readline()
            yield
        finally:
            process.kill()
            await process.wait()

    def unpin(self, pod: Attachment) -> None:
        """The namespace goes, as at a reboot."""
        sh("ip", "netns", "del", os.path.basename(pod.netns_path))

    def wait_without_veths(self) -> None:
        """The kernel removes the pairs of a namespace that went in its own time."""
        while self.veths():
            time.sleep(0.05)

    def close(self) -> None:
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def networks(lab: Lab) -> AsyncIterator[Networks]:
    threads = Threads()
    made = Networks(
        str(lab.conf),
        [str(lab.root / "bin"), *BIN_DIRS],
        str(lab.cache),
        run=Processes(threads).run,
        run_in_thread=functools.partial(threads.run, Kind.FILE),
        timeout=60,
    )
    yield made
    await made.close()
    threads.close()
