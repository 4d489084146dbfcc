# SPDX-License-Identifier: Apache-2.0
"""Pod sandboxes: what RunPodSandbox makes, what Status and List tell of it, what Stop and Remove take away
(kubelet-cri.md scripts 3, 11–14; critest's PodSandbox and Networking groups)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from cri_client import Cri
from cri_lab import AcriProcess
from cri_pods import FOREVER, NODE, POD, Pods, options

from acri import errors
from acri.proto.runtime import v1 as m

READY, NOTREADY = m.PodSandboxState.SANDBOX_READY, m.PodSandboxState.SANDBOX_NOTREADY
WEB = ("sh", "-c", "mkdir /www && echo hello from $HOSTNAME > /www/index.html && exec httpd -f -p 80 -h /www")


def _labelled(**labels: str) -> m.PodSandboxFilter:
    return m.PodSandboxFilter(label_selector=labels)


async def test_status_right_after_run(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    before = time.time_ns()
    annotations = {"a/json": '{"ü": "\\n"}', "empty": ""}
    pod = await pods.run(annotations=annotations, labels={"app": "x", "empty": ""})
    status = await cri.sandbox_status(pod.id)
    assert len(pod.id) == 64
    assert int(pod.id, 16) >= 0
    assert status.id == pod.id
    assert status.state == READY
    assert status.metadata == pod.config.metadata
    assert (status.labels, status.annotations) == ({"app": "x", "empty": ""}, annotations)
    assert before <= status.created_at <= time.time_ns()
    assert status.network is not None
    assert status.network.ip.startswith(acri.network.subnet)
    assert list(status.network.additional_ips) == []
    assert status.linux.namespaces.options == pod.namespaces
    assert status.runtime_handler == ""
    (item,) = await cri.sandboxes(_labelled(app="x"))
    assert (item.id, item.state, item.metadata, item.created_at) == (pod.id, READY, status.metadata, status.created_at)
    assert (item.labels, item.annotations) == (status.labels, annotations)


async def test_verbose_status_tells_of_the_record(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    answer = await cri(m.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True))
    assert pod.id in answer.info["info"]
    assert (await cri(m.PodSandboxStatusRequest(pod_sandbox_id=pod.id))).info == {}


async def test_filters_select_and_their_absence_does_not(cri: Cri, pods: Pods) -> None:
    ready, stopped = await asyncio.gather(pods.run(labels={"k": "1"}), pods.run(labels={"k": "2"}))
    await cri.stop_sandbox(stopped.id)

    async def listed(wanted: m.PodSandboxFilter | None) -> set[str]:
        return {item.id for item in await cri.sandboxes(wanted)}

    both = {ready.id, stopped.id}
    assert await listed(None) == both
    assert await listed(m.PodSandboxFilter()) == both
    # The wrapper's presence counts: READY is 0.
    assert await listed(m.PodSandboxFilter(state=m.PodSandboxStateValue(state=READY))) == {ready.id}
    assert await listed(m.PodSandboxFilter(state=m.PodSandboxStateValue(state=NOTREADY))) == {stopped.id}
    assert await listed(m.PodSandboxFilter(id=ready.id)) == {ready.id}
    assert await listed(m.PodSandboxFilter(id=ready.id[:13])) == {ready.id}
    assert await listed(m.PodSandboxFilter(id="0" * 64)) == set()
    assert await listed(_labelled(k="2")) == {stopped.id}
    assert await listed(_labelled(k="2", x="")) == set()
    assert await listed(m.PodSandboxFilter(id=ready.id, state=m.PodSandboxStateValue(state=NOTREADY))) == set()


async def test_unique_prefixes_are_ids(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    container_id = await pod.create("true")
    prefix = pod.id[:12]
    assert (await cri.sandbox_status(prefix)).id == pod.id
    assert (await cri.container_status(container_id[:12])).id == container_id
    assert [item.id for item in await cri.containers(m.ContainerFilter(pod_sandbox_id=prefix))] == [container_id]
    await cri.stop_sandbox(prefix)
    await cri.remove_sandbox(prefix)
    assert await cri.sandboxes() == []


async def test_unknown_ids(cri: Cri) -> None:
    """Stop and Remove of what is not there are fine; Status says NotFound, exactly; an empty id is a mistake."""
    unknown = "f" * 64
    for call in (cri.stop_sandbox, cri.remove_sandbox, cri.stop, cri.remove):
        await call(unknown)
        with pytest.raises(errors.InvalidArgument):
            await call("")
    for status in (cri.sandbox_status, cri.container_status):
        with pytest.raises(errors.NotFound):
            await status(unknown)


async def test_stop_and_remove_twice(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    pod = await pods.run()
    assert len(acri.network.addresses()) == 1
    ip = await pod.ip()
    for _ in range(2):
        await cri.stop_sandbox(pod.id)
        status = await cri.sandbox_status(pod.id)
        assert status.state == NOTREADY
        assert acri.network.addresses() == []
        assert [item.state for item in await cri.sandboxes()] == [NOTREADY]
    assert status.network is not None
    assert status.network.ip == ip  # read after the stop, too
    for _ in range(2):
        await cri.remove_sandbox(pod.id)
        assert await cri.sandboxes() == []


async def test_stop_ends_all_containers(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    pod = await pods.run()
    running = await pod.start(name="running")
    created = await pod.create("true", name="created")
    exited = await pod.start("sh", "-c", "exit 4", name="exited")
    await cri.exited(exited)
    await cri.stop_sandbox(pod.id)
    states = {item.id: item.state for item in await cri.containers()}
    assert states == dict.fromkeys((running, created, exited), m.ContainerState.CONTAINER_EXITED)
    assert (await cri.container_status(exited)).exit_code == 4
    assert (await cri.container_status(running)).exit_code == 137
    assert acri.processes() == []
    with pytest.raises(errors.FailedPrecondition):
        await pod.create("true", name="late")
    with pytest.raises(errors.FailedPrecondition):
        await cri.start(created)


async def test_remove_takes_running_containers_along(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    pod = await pods.run()
    await pod.start(name="one")
    await pod.create("true", name="two")
    await cri.remove_sandbox(pod.id)
    assert await cri.sandboxes() == []
    assert await cri.containers() == []
    assert acri.processes() == []


async def test_the_same_request_at_once_makes_one_sandbox(cri: Cri, pods: Pods) -> None:
    config = pods.config()
    ids = await asyncio.gather(*(cri.run(config) for _ in range(5)))
    assert len(set(ids)) == 1
    assert await cri.run(config) == ids[0]  # and a retry after success finds it
    assert [item.id for item in await cri.sandboxes()] == ids[:1]


async def test_another_configuration_under_the_same_name_is_a_conflict(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    other = pods.config(pod.config.metadata.name, annotations={"other": "yes"})
    with pytest.raises(errors.AlreadyExists) as refused:
        await cri.run(other)
    assert pod.id in str(refused.value)
    assert "reserved" not in str(refused.value)


async def test_a_dead_sandbox_makes_room_for_its_name(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    await cri.stop_sandbox(pod.id)
    again = await cri.run(pod.config)
    assert again != pod.id
    assert [item.id for item in await cri.sandboxes()] == [again]


async def test_a_new_attempt_beside_the_old_one(cri: Cri, pods: Pods) -> None:
    first = await pods.run()
    await cri.stop_sandbox(first.id)
    second = await pods.run(pods.config(first.config.metadata.name, attempt=1))
    listed = {item.id: (item.metadata.attempt, item.state) for item in await cri.sandboxes()}
    assert listed == {first.id: (0, NOTREADY), second.id: (1, READY)}
    created = {item.metadata.attempt: item.created_at for item in await cri.sandboxes()}
    assert created[0] < created[1]


async def test_a_client_that_gives_up_leaves_nothing_half_made(cri: Cri, pods: Pods) -> None:
    """Its deadline passes while the sandbox is made; the retry joins or finds it."""
    config = pods.config()
    with pytest.raises(errors.DeadlineExceeded):
        await cri.run(config, timeout=0.005)
    pod_id = await cri.run(config)
    assert [item.id for item in await cri.sandboxes()] == [pod_id]
    assert (await cri.sandbox_status(pod_id)).state == READY


async def test_the_pod_answers_on_its_address_and_reaches_another(cri: Cri, pods: Pods) -> None:
    server, client = await asyncio.gather(pods.run(), pods.run())
    await server.start(*WEB)
    address = await server.ip()
    name = server.config.hostname
    assert await _get(f"http://{address}/") == f"hello from {name}\n"
    answer = await client.output("wget", "-q", "-O", "-", f"http://{address}/")
    assert answer == f"hello from {name}\n"


async def test_port_mapping(pods: Pods, acri: AcriProcess) -> None:
    """A host port leads to the pod, from the host's own addresses and its loopback; port 0 maps nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mappings = [m.PortMapping(container_port=80, host_port=port), m.PortMapping(container_port=81)]
    pod = await pods.run(port_mappings=mappings)
    await pod.start(*WEB)
    for host in ("127.0.0.1", f"{acri.network.subnet}.1"):
        assert await _get(f"http://{host}:{port}/") == f"hello from {pod.config.hostname}\n"


async def _get(url: str) -> str:
    """The page, as soon as somebody listens."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get() -> str:
        for attempt in range(200):
            try:
                with opener.open(url, timeout=20) as answer:
                    return answer.read().decode()
            except OSError:
                if attempt == 199:
                    raise
                time.sleep(0.05)
        raise AssertionError

    return await asyncio.to_thread(get)


async def test_host_network(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    pod = await pods.run_host_network()
    status = await cri.sandbox_status(pod.id)
    assert status.linux.namespaces.options.network == NODE
    assert status.network is None
    assert acri.network.addresses() == []
    assert not (acri.directory / "netns" / f"acri-{pod.id}").exists()
    assert await pod.output("readlink", "/proc/self/ns/net") == os.readlink("/proc/self/ns/net") + "\n"
    assert await pod.output("hostname") == socket.gethostname() + "\n"
    assert await pod.output("cat", "/etc/hosts") == Path("/etc/hosts").read_text()


async def test_hostname_hosts_and_resolv_conf(pods: Pods) -> None:
    dns = m.DnsConfig(servers=["10.10.10.10", "fd00::1"], searches=["a.example", "b.example"], options=["ndots:8"])
    pod = await pods.run(hostname="a-name", dns_config=dns)
    ip = await pod.ip()
    container_id = await pod.start()
    assert await pod.exec(container_id, "hostname") == "a-name\n"
    assert await pod.exec(container_id, "cat", "/etc/hostname") == "a-name\n"
    assert await pod.exec(container_id, "sh", "-c", "echo $HOSTNAME") == "a-name\n"
    hosts = (await pod.exec(container_id, "cat", "/etc/hosts")).splitlines()
    assert f"{ip}\ta-name" in hosts
    assert "127.0.0.1\tlocalhost" in hosts
    resolv = await pod.exec(container_id, "cat", "/etc/resolv.conf")
    assert resolv == "search a.example b.example\nnameserver 10.10.10.10\nnameserver fd00::1\noptions ndots:8\n"
    assert socket.gethostname() != "a-name"


async def test_without_dns_configuration_the_node_s_is_taken(pods: Pods) -> None:
    pod = await pods.run()
    assert await pod.output("cat", "/etc/resolv.conf") == Path("/etc/resolv.conf").read_text()


async def test_sysctls(pods: Pods) -> None:
    pod = await pods.run(
        sysctls={"kernel.shm_rmid_forced": "1", "net.ipv4.ip_default_ttl": "77", "fs.mqueue.msg_max": "100"}
    )
    container_id = await pod.start()
    for path, value in (
        ("kernel/shm_rmid_forced", "1"),
        ("net/ipv4/ip_default_ttl", "77"),
        ("fs/mqueue/msg_max", "100"),
        ("net/ipv4/ip_unprivileged_port_start", "0"),  # acri's own default
    ):
        assert (await pod.exec(container_id, "cat", f"/proc/sys/{path}")).split() == [value]
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text().strip() != "77"


async def test_loopback_is_up_and_low_ports_are_free(pods: Pods) -> None:
    pod = await pods.run()
    command = "ip -o addr show lo; httpd -p 127.0.0.1:80 -h /etc && wget -q -O - http://127.0.0.1/hostname"
    output = await pod.output("sh", "-c", command, security={"run_as_user": m.Int64Value(value=1000)})
    assert "127.0.0.1/8" in output
    assert output.endswith(f"\n{pod.config.hostname}\n")


@pytest.mark.parametrize("mode", [POD, NODE])
async def test_ipc_namespace_and_shm(pods: Pods, mode: int) -> None:
    pod = await pods.run(namespaces=options(ipc=mode))
    one, two = await pod.start(name="one"), await pod.start(name="two")
    links = {await pod.exec(c, "readlink", "/proc/self/ns/ipc") for c in (one, two)}
    assert len(links) == 1
    assert (links == {os.readlink("/proc/self/ns/ipc") + "\n"}) is (mode == NODE)
    name = f"acri-e2e-{os.getpid()}"
    await pod.exec(one, "sh", "-c", f"echo shared > /dev/shm/{name}")
    assert await pod.exec(two, "cat", f"/dev/shm/{name}") == "shared\n"
    assert Path(f"/dev/shm/{name}").exists() is (mode == NODE)
    if mode == POD:
        size = (await pod.exec(one, "df", "-k", "/dev/shm")).splitlines()[-1].split()[1]
        assert size == str(64 * 1024)
    await pod.exec(one, "rm", f"/dev/shm/{name}")


async def test_a_shared_pid_namespace_has_a_holder(cri: Cri, pods: Pods) -> None:
    """PID 1 is nobody's workload, orphans are reaped, containers see each other (critest PodPID)."""
    pod = await pods.run(namespaces=options(pid=POD))
    one, two = await pod.start("sleep", "54321", name="one"), await pod.start(name="two")
    first = await pod.exec(two, "cat", "/proc/1/cmdline")
    assert first
    assert "sleep" not in first
    assert await pod.exec(two, "pidof", "sleep") != ""
    await pod.exec(two, "sh", "-c", "sh -c 'sleep 0.1 &' &")  # an orphan, soon a zombie

    async def zombies() -> str:
        return (await cri.exec(two, "sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep ' Z '")).stdout.decode()

    for _ in range(100):
        if not (left := await zombies()):
            break
        await asyncio.sleep(0.05)
    assert not left
    await cri.stop(one, 30)  # not PID 1: an unhandled SIGTERM ends it at once
    assert (await cri.container_status(one)).exit_code == 143


async def test_container_and_node_pid_namespaces(pods: Pods) -> None:
    own, host = await asyncio.gather(pods.run(), pods.run(namespaces=options(pid=NODE)))
    container_id = await own.start("sleep", "54321")
    assert (await own.exec(container_id, "cat", "/proc/1/cmdline")).startswith("sleep\0")
    assert await host.output("readlink", "/proc/self/ns/pid") == os.readlink("/proc/self/ns/pid") + "\n"


async def test_containers_share_network_and_uts(pods: Pods) -> None:
    pod = await pods.run()
    one, two = await pod.start(name="one"), await pod.start(name="two")
    for kind, shared in (("net", True), ("uts", True), ("ipc", True), ("pid", False), ("mnt", False)):
        links = {await pod.exec(c, "readlink", f"/proc/self/ns/{kind}") for c in (one, two)}
        assert len(links) == (1 if shared else 2), kind
        assert os.readlink(f"/proc/self/ns/{kind}") + "\n" not in links


async def test_death_of_the_holder(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    """NOTREADY soon, its containers end, a new attempt runs beside it (script 14)."""
    pod = await pods.run(namespaces=options(pid=POD))
    (holder,) = acri.processes()
    container_id = await pod.start(*FOREVER)
    os.kill(holder, signal.SIGKILL)
    assert (await cri.not_ready(pod.id)).id == pod.id
    assert (await cri.exited(container_id)).exit_code == 137
    second = await pods.run(pods.config(pod.config.metadata.name, attempt=1, namespaces=options(pid=POD)))
    assert {item.metadata.attempt: item.state for item in await cri.sandboxes()} == {0: NOTREADY, 1: READY}
    assert second.id != pod.id


async def test_many_pods_at_once(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    made = await asyncio.gather(*(pods.run(namespaces=options(pid=POD)) for _ in range(8)))
    ips = {await pod.ip() for pod in made}
    assert len(ips) == 8
    assert sorted(ips) == acri.network.addresses()
    await asyncio.gather(*(pod.start() for pod in made))
    assert (
        len(
            await cri.containers(
                m.ContainerFilter(state=m.ContainerStateValue(state=m.ContainerState.CONTAINER_RUNNING))
            )
        )
        == 8
    )
