# SPDX-License-Identifier: Apache-2.0
"""Attach and detach with the distribution's plugins, in real namespaces: what works, and that nothing is left."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from acri import errors
from acri.aio.process import Processes
from acri.aio.threads import Kind, Threads
from acri.cni.attachment import Attachment, PortMapping
from acri.cni.network import Networks
from acri.cni.plugin import PluginError

if TYPE_CHECKING:
    from .conftest import Lab

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(
        not any(os.path.exists(f"{path}/bridge") for path in ("/opt/cni/bin", "/usr/lib/cni")),
        reason="needs the CNI plugins (Debian: containernetworking-plugins)",
    ),
]

SERVER = """
import socket
server = socket.create_server(("", 8080))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"hello from the pod")
    connection.close()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def ask(address: str, port: int) -> bytes:
    with socket.create_connection((address, port), timeout=10) as connection:
        return connection.recv(100)


async def test_attach_serve_detach(lab: Lab, networks: Networks) -> None:
    lab.configure()
    assert (await networks.status()).ready
    port = free_port()
    pod = lab.pod(port_mappings=(PortMapping("TCP", 8080, port), PortMapping("TCP", 8081, 0)))
    got = await networks.setup(pod)

    assert got.ips[0].startswith(f"{lab.subnet}.")
    assert got.ips[1].startswith("fd00:")
    assert lab.links(pod) == ["eth0", "lo"]
    assert lab.addresses() == sorted(got.ips)
    assert await networks.attached(pod) == got

    async with lab.server(pod, SERVER):
        assert await asyncio.to_thread(ask, got.ips[0], 8080) == b"hello from the pod"
        assert await asyncio.to_thread(ask, "127.0.0.1", port) == b"hello from the pod"
        assert await asyncio.to_thread(ask, f"{lab.subnet}.1", port) == b"hello from the pod"

    await networks.teardown(pod)
    assert lab.links(pod) == ["lo"]
    assert lab.leftovers() == []
    await networks.teardown(pod)
    assert lab.leftovers() == []


async def test_many_pods_at_once(lab: Lab, networks: Networks) -> None:
    lab.configure()
    pods = [lab.pod(port_mappings=(PortMapping("tcp", 80, 20000 + index),)) for index in range(6)]
    results = await asyncio.gather(*(networks.setup(pod) for pod in pods))
    assert len({ip for result in results for ip in result.ips}) == 12
    await asyncio.gather(*(networks.teardown(pod) for pod in pods))
    assert lab.leftovers() == []


async def test_a_failing_second_plugin_leaves_nothing(lab: Lab, networks: Networks) -> None:
    # portmap wants its mark bit within a word and fails on this one, after bridge has done all its work.
    broken = [lab.plugins[0], lab.plugins[1] | {"markMasqBit": 77}]
    lab.configure(plugins=broken)
    pod = lab.pod(port_mappings=(PortMapping("tcp", 80, 20080),))
    with pytest.raises(PluginError, match=rf'portmap \(network "{lab.name}", ADD\): .*MasqMarkBit must be between'):
        await networks.setup(pod)
    assert lab.links(pod) == ["lo"]
    assert lab.addresses() == []
    assert lab.veths() == []
    lab.configure()
    await networks.teardown(pod)
    assert (await networks.setup(pod)).ips, "the same sandbox can be attached once the network is right"
    await networks.teardown(pod)
    assert lab.leftovers() == []


async def test_a_missing_plugin_leaves_nothing(lab: Lab, networks: Networks) -> None:
    lab.configure({"type": "no-such-plugin"})
    pod = lab.pod()
    with pytest.raises(errors.FailedPrecondition, match=r"'no-such-plugin' is not installed: .* in .*, /usr/lib/cni"):
        await networks.setup(pod)
    assert lab.leftovers() == []


async def test_a_missing_address_plugin_is_named(lab: Lab, networks: Networks) -> None:
    lab.configure(plugins=[lab.plugins[0] | {"ipam": {"type": "no-such-ipam"}}])
    pod = lab.pod()
    with pytest.raises(PluginError, match=r"bridge \(network .*no-such-ipam"):
        await networks.setup(pod)
    assert lab.links(pod) == ["lo"]
    assert lab.veths() == []


async def test_a_hanging_plugin_leaves_nothing(lab: Lab) -> None:
    directory = lab.root / "bin"
    directory.mkdir()
    (directory / "hang").write_text('#!/bin/sh\n[ "$CNI_COMMAND" = DEL ] || sleep 600\n')
    (directory / "hang").chmod(0o755)
    lab.configure({"type": "hang"})
    threads = Threads()
    networks = Networks(
        str(lab.conf),
        [str(directory), "/opt/cni/bin", "/usr/lib/cni"],
        str(lab.cache),
        run=Processes(threads).run,
        run_in_thread=functools.partial(threads.run, Kind.FILE),
        timeout=3,
    )
    pod = lab.pod(port_mappings=(PortMapping("tcp", 80, 20081),))
    with pytest.raises(errors.DeadlineExceeded, match=r"bin/hang .*did not end within"):
        await networks.setup(pod)
    assert lab.links(pod) == ["lo"]
    assert lab.leftovers() == []
    await networks.close()
    threads.close()


@pytest.mark.parametrize("path", ["kept", "forgotten", "a file without its mount"])
async def test_detach_with_the_namespace_gone_frees_the_address(
    lab: Lab, networks: Networks, tmp_path: Path, path: str
) -> None:
    lab.configure(plugins=[lab.plugins[0] | {"ipMasq": False}, lab.plugins[1]])
    pod = lab.pod(port_mappings=(PortMapping("tcp", 80, 20082),))
    await networks.setup(pod)
    await asyncio.to_thread(lab.unpin, pod)
    fake = tmp_path / "pin"
    fake.touch()
    netns = {"kept": pod.netns_path, "forgotten": ""}.get(path, str(fake))
    await networks.teardown(Attachment(pod.sandbox_id, netns))
    assert lab.addresses() == []
    assert not (lab.cache / "results" / f"{lab.name}-{pod.sandbox_id}-eth0").exists()
    assert not any("20082" in line for line in lab.rules())
    await asyncio.to_thread(lab.wait_without_veths)


async def test_the_configuration_is_replaced_between_attach_and_detach(lab: Lab, networks: Networks) -> None:
    lab.configure()
    pod = lab.pod(port_mappings=(PortMapping("tcp", 80, 20083),))
    await networks.setup(pod)
    (lab.conf / "10-lab.conflist").write_text(
        '{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"no-such-plugin"}]}'
    )
    await networks.teardown(Attachment(pod.sandbox_id, pod.netns_path))
    assert lab.links(pod) == ["lo"]
    assert lab.leftovers() == []


async def test_broken_configuration(lab: Lab, networks: Networks) -> None:
    (lab.conf / "10-lab.conflist").write_text('{"name": "x", "plugins": [')
    status = await networks.status()
    assert not status.ready
    assert "10-lab.conflist: it is not JSON" in status.message
    with pytest.raises(errors.Unavailable, match="it is not JSON"):
        await networks.setup(lab.pod())
    lab.configure()
    assert (await networks.status()).ready


async def test_a_caller_that_leaves_at_any_moment(lab: Lab, networks: Networks) -> None:
    lab.configure()
    for delay in (0, 0.002, 0.01, 0.02, 0.03, 0.05):
        pod = lab.pod(port_mappings=(PortMapping("tcp", 80, 20084),))
        waiter = asyncio.get_running_loop().create_task(networks.setup(pod))
        await asyncio.sleep(delay)
        waiter.cancel()
        await asyncio.wait([waiter])
        await networks.teardown(pod)
        assert lab.links(pod) == ["lo"], delay
        assert lab.leftovers() == [], delay


async def test_a_runtime_that_was_killed_after_the_plugins_ran(lab: Lab, networks: Networks) -> None:
    """What is on disk then is the intent: no result, but the configuration and arguments of the ADD."""
    lab.configure()
    pod = lab.pod(port_mappings=(PortMapping("tcp", 80, 20085),))
    await networks.setup(pod)
    entry = lab.cache / "results" / f"{lab.name}-{pod.sandbox_id}-eth0"
    document = json.loads(entry.read_text())
    del document["result"]
    entry.write_text(json.dumps(document))
    assert await networks.collect([]) == ()
    assert lab.links(pod) == ["lo"]
    assert lab.leftovers() == []
