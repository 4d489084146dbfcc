# SPDX-License-Identifier: Apache-2.0
"""The exec protocol, seen from the plugin: environment, request, and every way to fail."""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING

import pytest

from acri import errors
from acri.aio.process import Processes
from acri.aio.threads import Threads
from acri.cni.attachment import Attachment, PortMapping
from acri.cni.network import Networks
from acri.cni.plugin import PluginError

if TYPE_CHECKING:
    from .conftest import Scripted

POD = Attachment(
    "abc", "/proc/self/ns/net", name="pod", namespace="ns", uid="u", port_mappings=(PortMapping("TCP", 80, 8080),)
)


async def test_what_a_plugin_is_given(scripted: Scripted, networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("PATH", "/opt/tools:/bin")
    scripted.plugin("one", "two")
    scripted.network(
        {"type": "one", "capabilities": {"mac": True}, "keyA": 1, "cni.dev/x": 1},
        {"type": "two", "capabilities": {"portMappings": True, "bandwidth": True}},
        cniVersion="0.4.0",
    )
    await networks.setup(POD)
    first, second = scripted.calls()
    assert {key: value for key, value in first.env.items() if key.startswith("CNI_")} == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "abc",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;"
        "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u",
        "CNI_PATH": f"{scripted.bin}/empty:{scripted.bin}",
    }
    assert "SECRET_TOKEN" not in first.env
    assert first.env["PATH"].split(":")[:2] == ["/opt/tools", "/bin"]
    assert "/usr/sbin" in first.env["PATH"].split(":")
    assert first.stdin == {"type": "one", "keyA": 1, "name": "net", "cniVersion": "0.4.0"}
    assert second.stdin == {
        "type": "two",
        "name": "net",
        "cniVersion": "0.4.0",
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
        "prevResult": {"cniVersion": "0.4.0", "ips": [{"address": "10.9.8.7/24"}]},
    }


@pytest.mark.parametrize(
    ("shell", "reason"),
    [
        (
            """echo '{"code": 7, "msg": "bad subnet", "details": "10.0.0.0/31 is too small"}'; exit 1""",
            "bad subnet; 10.0.0.0/31 is too small",
        ),
        ("""echo '{"code": 11, "msg": "later"}'; exit 1""", "later"),
        ("echo no iptables >&2; exit 3", "exit code 3, 'no iptables'"),
        ("echo out; echo err >&2; exit 3", "exit code 3, 'out' and 'err'"),
        ("exit 2", "exit code 2, without a word"),
        ("kill -9 $$", "signal 9, without a word"),
        ("""echo '{"code": "x"}'; exit 1""", "exit code 1, "),
        ("printf 'a\\033[31m\\000b'; exit 1", "exit code 1, "),
        ("echo oops", "it printed no JSON"),
        ("true", "it printed no JSON"),
        ("echo '[]'", "JSON that is no object"),
        ("""echo '{"ips":[{"address":"10.0.0.256/8"}]}'""", "10.0.0.256/8"),
        ("""echo '{"cniVersion":"9.0.0"}'""", "unknown cniVersion '9.0.0'"),
        ("head -c 2000000 /dev/zero", "more than 1048576 bytes"),
    ],
)
async def test_a_failure_names_plugin_network_command_and_reason(
    scripted: Scripted, networks: Networks, shell: str, reason: str
) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two")
    scripted.answer("two", "ADD", shell)
    with pytest.raises(PluginError, match=re.escape(reason)) as caught:
        await networks.setup(POD)
    assert caught.value.message.startswith(f'CNI plugin {scripted.bin}/two (network "net", ADD): ')
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 5000
    assert caught.value.code == errors.Code.UNKNOWN
    assert scripted.order() == ["one ADD", "two ADD", "two DEL", "one DEL"]
    assert scripted.cached() == []


async def test_error_codes_are_kept(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    scripted.answer("one", "ADD", """echo '{"code": 11, "msg": "later"}'; exit 1""")
    with pytest.raises(PluginError) as caught:
        await networks.setup(POD)
    assert caught.value.cni_code == 11


async def test_an_empty_result_is_no_address(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    scripted.answer("one", "ADD", "echo null")
    with pytest.raises(errors.FailedPrecondition, match='network "net" gave eth0 no address'):
        await networks.setup(POD)
    assert scripted.order() == ["one ADD", "one DEL"]
    assert scripted.cached() == []


async def test_a_missing_plugin_is_named_with_the_directories(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one", "calico")
    with pytest.raises(errors.FailedPrecondition) as caught:
        await networks.setup(POD)
    assert caught.value.message == (
        f"CNI plugin 'calico' is not installed: no executable of that name in {scripted.bin}/empty, {scripted.bin}"
    )
    assert scripted.calls() == []
    status = await networks.status()
    assert not status.ready
    assert status.message == f"{scripted.conf}/10.conflist: {caught.value.message}"


@pytest.mark.parametrize("mode", [0o757, 0o777, 0o755 & ~0o111])
async def test_a_file_that_others_may_write_or_that_is_no_program_is_not_run(
    scripted: Scripted, networks: Networks, mode: int
) -> None:
    scripted.plugin("one")
    (scripted.bin / "one").chmod(mode)
    scripted.network("one")
    with pytest.raises(errors.FailedPrecondition, match=r"written by others|not installed"):
        await networks.setup(POD)
    assert scripted.calls() == []


async def test_a_program_that_cannot_start(scripted: Scripted, networks: Networks) -> None:
    (scripted.bin / "one").write_text("#!/no/such/interpreter\n")
    (scripted.bin / "one").chmod(0o755)
    scripted.network("one")
    with pytest.raises(errors.FailedPrecondition, match='one \\(network "net", ADD\\) cannot be started: No such file'):
        await networks.setup(POD)


async def test_a_plugin_that_is_being_replaced_is_waited_for(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    writer = os.open(scripted.bin / "one", os.O_WRONLY)  # exec fails with ETXTBSY while this is open
    asyncio.get_running_loop().call_later(0.3, os.close, writer)
    assert (await networks.setup(POD)).ips == ("10.9.8.7",)


async def test_a_plugin_that_hangs_is_killed_and_named(scripted: Scripted) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two")
    scripted.answer("two", "ADD", f"sleep 600 & echo $! > {scripted.say}/pid; wait")
    threads = Threads()

    async def in_thread(fn, *args):  # type: ignore[no-untyped-def]
        return fn(*args)

    networks = Networks(
        str(scripted.conf),
        [str(scripted.bin)],
        str(scripted.cache),
        run=Processes(threads).run,
        run_in_thread=in_thread,
        timeout=1.5,
    )
    with pytest.raises(
        errors.DeadlineExceeded, match=r'/two \(network "net", ADD\) did not end within [\d.]+ s and was killed'
    ):
        await networks.setup(POD)
    assert scripted.order()[-2:] == ["two DEL", "one DEL"]
    assert scripted.cached() == []
    pid = int((scripted.say / "pid").read_text())
    state = [line for line in _proc_status(pid) if line.startswith("State:")]
    assert not state or "Z" in state[0], "the whole process group ends"
    await networks.close()
    threads.close()


def _proc_status(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/status") as file:
            return file.readlines()
    except FileNotFoundError:
        return []
