# SPDX-License-Identifier: Apache-2.0
"""Requests that are wrong: the right code, one clear sentence, nothing left behind, and the next request works."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from cri_client import Cri, eventually
from cri_lab import AcriProcess, MakeAcri, leftovers
from cri_pods import NODE, POD, TARGET, Pods, options

from acri import errors
from acri.proto.runtime import v1 as m

SENTENCE = re.compile(r"[^\n]{10,400}")


def _metadata(**fields: object) -> m.PodSandboxMetadata:
    return m.PodSandboxMetadata(**{"name": "n", "namespace": "ns", "uid": "u"} | fields)


def _ports(**fields: object) -> dict[str, object]:
    return {"port_mappings": [m.PortMapping(**fields)]}


def _user_namespace(*mappings: tuple[int, int, int], mode: int = POD) -> m.NamespaceOption:
    ids = [m.IdMapping(host_id=host, container_id=inside, length=length) for host, inside, length in mappings]
    user = m.UserNamespace(mode=m.NamespaceMode(mode), uids=ids, gids=ids)
    return m.NamespaceOption(pid=m.NamespaceMode.CONTAINER, userns_options=user)


SANDBOXES = {
    "no metadata": {"metadata": None},
    "no name": {"metadata": _metadata(name="")},
    "no namespace": {"metadata": _metadata(namespace="")},
    "no uid": {"metadata": _metadata(uid="")},
    "dots in the name": {"metadata": _metadata(name="..")},
    "slash in the name": {"metadata": _metadata(name="../../etc")},
    "newline in the namespace": {"metadata": _metadata(namespace="a\nb")},
    "nul in the uid": {"metadata": _metadata(uid="a\0b")},
    "relative log directory": {"log_directory": "logs"},
    "dots in the log directory": {"log_directory": "/var/log/../../etc"},
    "host port too large": _ports(container_port=80, host_port=65536),
    "negative container port": _ports(container_port=-1),
    "host port without container port": _ports(host_port=80),
    "unknown protocol": _ports(container_port=80, host_port=8080, protocol=7),
    "bad host address": _ports(container_port=80, host_port=18080, host_ip="not an address"),
    "host name too long": {"hostname": "h" * 65},
    "line break in a DNS server": {"dns_config": m.DnsConfig(servers=["1.1.1.1\nnameserver 6.6.6.6"])},
    "systemd slice with cgroupfs": {"cgroup_parent": "kubepods-burstable-pod1.slice"},
    "dots in the cgroup parent": {"cgroup_parent": "/kubepods/../../x"},
    "sysctl with a path": {"sysctls": {"../../etc/passwd": "x"}},
    "sysctl of the node": {"sysctls": {"kernel.panic": "1"}},
    "group without user": {"security": {"run_as_group": m.Int64Value(value=5)}},
    "PID namespace of a target": {"namespaces": options(pid=TARGET)},
    "unknown namespace mode": {"namespaces": options(network=9)},
    "network namespace per container": {"namespaces": options(network=1)},
    "two id mappings": {"namespaces": _user_namespace((100000, 0, 1000), (200000, 1000, 1000))},
    "container id not mapped": {"namespaces": _user_namespace((100000, 1, 1000))},
    "user namespace per container": {"namespaces": _user_namespace(mode=1)},
}


@pytest.mark.parametrize("wrong", SANDBOXES.values(), ids=SANDBOXES.keys())
async def test_sandboxes(cri: Cri, pods: Pods, acri: AcriProcess, wrong: dict) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        await pods.run(**wrong)
    assert SENTENCE.fullmatch(str(refused.value)), str(refused.value)
    assert await cri.sandboxes() == []
    assert await leftovers(acri) == []


async def test_a_sandbox_without_configuration(cri: Cri) -> None:
    with pytest.raises(errors.InvalidArgument, match="config"):
        await cri(m.RunPodSandboxRequest())


async def test_an_unknown_handler(cri: Cri, pods: Pods) -> None:
    with pytest.raises(errors.InvalidArgument, match=r"'no-such'.*runc"):
        await cri.run(pods.config(), handler="no-such")
    assert await cri.sandboxes() == []
    named = await cri.run(pods.config(), handler="runc")
    assert (await cri.sandbox_status(named)).runtime_handler == "runc"


async def test_a_sysctl_that_the_kernel_refuses(cri: Cri, pods: Pods, acri: AcriProcess) -> None:
    """Found in the new namespace only: everything is undone."""
    for sysctls in ({"net.ipv4.no_such_key": "1"}, {"net.ipv4.ip_forward": "not a number"}):
        with pytest.raises(errors.AcriError) as refused:
            await pods.run(sysctls=sysctls)
        assert next(iter(sysctls)).split(".")[-1] in str(refused.value)
        assert await leftovers(acri) == []


CONTAINERS = {
    "no metadata": {"metadata": None},
    "no name": {"metadata": m.ContainerMetadata()},
    "dots in the name": {"metadata": m.ContainerMetadata(name="..")},
    "slash in the name": {"metadata": m.ContainerMetadata(name="a/../../b")},
    "no image": {"image": None},
    "empty image": {"image": m.ImageSpec()},
    "log path outside the log directory": {"log_path": "../../../etc/cron.d/x"},
    "absolute log path": {"log_path": "/etc/x"},
    "log path is the directory": {"log_path": "."},
    "relative mount": {"mounts": [m.Mount(container_path="relative", host_path="/tmp")]},
    "mount without host path": {"mounts": [m.Mount(container_path="/x")]},
    "relative host path": {"mounts": [m.Mount(container_path="/x", host_path="tmp")]},
    "unknown propagation": {"mounts": [m.Mount(container_path="/x", host_path="/tmp", propagation=9)]},
    "relative working directory": {"working_dir": "here"},
    "empty environment name": {"envs": [m.KeyValue(key="", value=b"x")]},
    "equals sign in an environment name": {"envs": [m.KeyValue(key="A=B", value=b"x")]},
    "environment that is not UTF-8": {"envs": [m.KeyValue(key="A", value=b"\xff")]},
    "device permissions": {"devices": [m.Device(container_path="/dev/x", host_path="/dev/null", permissions="rz")]},
    "unknown capability": {"security": {"capabilities": m.Capability(add_capabilities=["FLYING"])}},
    "group without user": {"security": {"run_as_group": m.Int64Value(value=5)}},
    "negative user": {"security": {"run_as_user": m.Int64Value(value=-1)}},
    "host IPC in a pod with its own": {"security": {"namespace_options": options(network=NODE, ipc=NODE)}},
    "pod's PID namespace where there is none": {"security": {"namespace_options": options(pid=POD)}},
    "target without id": {"security": {"namespace_options": options(pid=TARGET)}},
    "privileged in a pod that is not": {"security": {"privileged": True}},
    "relative masked path": {"security": {"masked_paths": ["proc/kcore"]}},
    "Localhost seccomp profile without path": {
        "security": {"seccomp": m.SecurityProfile(profile_type=m.SecurityProfileProfileType.Localhost)}
    },
    "unknown stop signal": {"stop_signal": 999},
}


@pytest.mark.parametrize("wrong", CONTAINERS.values(), ids=CONTAINERS.keys())
async def test_containers(cri: Cri, pods: Pods, wrong: dict) -> None:
    pod = await pods.run_host_network()
    with pytest.raises(errors.InvalidArgument) as refused:
        await pod.create("true", **{"security": {"namespace_options": options(network=NODE)}} | wrong)
    assert SENTENCE.fullmatch(str(refused.value)), str(refused.value)
    assert await cri.containers() == []
    assert await pod.output("echo", "on") == "on\n"


async def test_what_a_container_needs_and_is_not_there(cri: Cri, pods: Pods, tmp_path: Path) -> None:
    pod = await pods.run()
    with pytest.raises(errors.NotFound, match="pull it first"):
        await pod.create("true", image="docker.io/test/not-pulled:1")
    with pytest.raises(errors.NotFound, match="sandbox"):
        await cri.create("f" * 64, pod.container("true"), pod.config)
    with pytest.raises(errors.InvalidArgument, match="empty"):
        await cri.create("", pod.container("true"), pod.config)
    with pytest.raises(errors.InvalidArgument, match="config"):
        await cri(m.CreateContainerRequest(pod_sandbox_id=pod.id))
    missing = m.Device(container_path="/dev/x", host_path=str(tmp_path / "no-device"), permissions="r")
    with pytest.raises(errors.AcriError, match="no-device"):
        await pod.create("true", devices=[missing])
    seccomp = m.SecurityProfile(
        profile_type=m.SecurityProfileProfileType.Localhost, localhost_ref=str(tmp_path / "no-profile.json")
    )
    with pytest.raises(errors.AcriError, match=r"no-profile\.json"):
        await pod.create("true", security={"seccomp": seccomp})
    with pytest.raises(errors.AcriError, match="no-such-user"):
        await pod.create("true", security={"run_as_username": "no-such-user"})
    with pytest.raises(errors.NotFound):
        await pod.create("true", security={"namespace_options": options(pid=TARGET, target="f" * 64)})
    assert await cri.containers() == []


async def test_no_command_anywhere(cri: Cri, pods: Pods) -> None:
    """Neither the configuration nor the image says what to run."""
    pod = await pods.run()
    await cri.pull("docker.io/test/nothing:1")
    with pytest.raises(errors.InvalidArgument, match="command"):
        await pod.create(image="docker.io/test/nothing:1")


async def test_what_a_later_version_will_do(pods: Pods) -> None:
    """User namespaces and CDI: refused in so many words, not ignored."""
    with pytest.raises(errors.Unimplemented, match="user namespace"):
        await pods.run(namespaces=_user_namespace((100000, 0, 65536)))
    pod = await pods.run()
    with pytest.raises(errors.Unimplemented, match="CDI"):
        await pod.create("true", cdi_devices=[m.CdiDevice(name="vendor.com/gpu=0")])


async def test_ambiguous_ids(cri: Cri, pods: Pods) -> None:
    made = await asyncio.gather(*(pods.run_host_network() for _ in range(17)))
    digits = [pod.id[0] for pod in made]
    double = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(errors.InvalidArgument, match="ambiguous"):
        await cri.sandbox_status(double)
    assert len(await cri.sandboxes()) == 17


async def test_without_a_network_configuration(own_acri: MakeAcri, tmp_path: Path) -> None:
    """NetworkReady is false and says why; pods on the host's network run all the same (script 2)."""
    conf_dir = tmp_path / "net.d"
    conf_dir.mkdir()
    process = own_acri(conf_dir=conf_dir)
    process.start()
    async with Cri(process.socket) as cri:
        pods = Pods(cri, tmp_path)
        await _network_is_missing(cri, pods, process)
        (conf_dir / "10-broken.conflist").write_text("{not json")
        await _network_is_missing(cri, pods, process)
        (conf_dir / "20-good.conflist").write_text((process.network.conf_dir / "10-pods.conflist").read_text())
        pod = await pods.run()
        assert await pod.ip()
        ready = (await cri.conditions())["NetworkReady"]
        assert ready.status
        await pods.remove_all()
        assert await leftovers(process) == []


async def _network_is_missing(cri: Cri, pods: Pods, process: AcriProcess) -> None:
    async def noticed() -> bool:
        return not (await cri.conditions())["NetworkReady"].status

    await eventually(noticed)
    conditions = await cri.conditions()
    assert conditions["RuntimeReady"].status
    assert re.fullmatch(r"[A-Z]\w+", conditions["NetworkReady"].reason)
    assert SENTENCE.fullmatch(conditions["NetworkReady"].message)
    with pytest.raises(errors.AcriError) as refused:
        await pods.run()
    assert SENTENCE.fullmatch(str(refused.value))
    assert await cri.sandboxes() == []
    assert await leftovers(process) == []
    host = await pods.run_host_network()
    assert (await cri.sandbox_status(host.id)).state == m.PodSandboxState.SANDBOX_READY
    await pods.remove_all()


async def test_a_network_plugin_that_fails(own_acri: MakeAcri, tmp_path: Path) -> None:
    """ADD fails half way: what it did is undone, the plugin's own words reach the caller."""
    conf_dir = tmp_path / "net.d"
    conf_dir.mkdir()
    process = own_acri(conf_dir=conf_dir)
    good = json.loads((process.network.conf_dir / "10-pods.conflist").read_text())
    good["plugins"].append({"type": "tuning", "sysctl": {"net.no.such": "1"}})
    (conf_dir / "10.conflist").write_text(json.dumps(good))
    process.start()
    async with Cri(process.socket) as cri:
        with pytest.raises(errors.AcriError, match="tuning"):
            await Pods(cri, tmp_path).run()
        assert await cri.sandboxes() == []
        assert await leftovers(process) == []
