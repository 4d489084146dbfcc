# SPDX-License-Identifier: Apache-2.0
"""Attach and detach: order, cache, retries, cancellation, STATUS, GC, version negotiation."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import pytest

from acri import errors
from acri.cni.attachment import Attachment, PortMapping
from acri.cni.network import Networks
from acri.cni.plugin import PluginError

if TYPE_CHECKING:
    from .conftest import Scripted

POD = Attachment("abc", "/proc/self/ns/net", name="pod", port_mappings=(PortMapping("TCP", 80, 8080),))
ONLY_ID = Attachment("abc", "")
FAIL = """echo '{"code": 5, "msg": "broken"}'; exit 1"""
PORTS = {"type": "two", "capabilities": {"portMappings": True}}


async def test_attach_and_detach(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", PORTS)
    got = await networks.setup(POD)
    assert got.ips == ("10.9.8.7",)
    assert got.network == "net"
    assert scripted.cached() == ["net-abc-eth0"]
    assert await networks.attached(POD) == got
    await networks.teardown(ONLY_ID)
    assert scripted.order() == ["one ADD", "two ADD", "two DEL", "one DEL"]
    # DEL carries what ADD carried, though the caller has forgotten it, and the whole ADD's result.
    add, delete = scripted.calls()[1:3]
    assert delete.stdin["runtimeConfig"] == add.stdin["runtimeConfig"]
    assert delete.env["CNI_ARGS"] == add.env["CNI_ARGS"]
    assert delete.stdin["prevResult"] == {"cniVersion": "1.0.0", "ips": [{"address": "10.9.8.7/24"}]}
    assert delete.env["CNI_NETNS"] == ""
    assert scripted.cached() == []
    assert await networks.attached(POD) is None
    await networks.teardown(ONLY_ID)


async def test_the_intent_is_on_disk_before_the_first_plugin_runs(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    scripted.answer("one", "ADD", f"cp -r {scripted.cache}/results {scripted.say}/seen; " + FAIL)
    with pytest.raises(PluginError):
        await networks.setup(POD)
    entry = json.loads((scripted.say / "seen" / "net-abc-eth0").read_text())
    assert "result" not in entry
    assert json.loads(base64.b64decode(entry["config"]))["name"] == "net"
    assert entry["netns"] == "/proc/self/ns/net"


async def test_detaching_uses_the_configuration_of_the_attach(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", cniVersion="0.4.0", marker="old")
    await networks.setup(POD)
    (scripted.conf / "10.conflist").unlink()
    scripted.network("two", name="replaced", file="00.conflist")
    await networks.teardown(POD)
    assert scripted.order() == ["one ADD", "one DEL"]
    assert scripted.calls()[1].stdin["name"] == "net"
    assert scripted.cached() == []


async def test_without_a_cache_the_current_configuration_is_used(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", PORTS)
    await networks.setup(POD)
    (scripted.cache / "results" / "net-abc-eth0").write_text("{torn")
    await networks.teardown(POD, attached=True)
    assert scripted.order()[2:] == ["two DEL", "one DEL"]
    assert "prevResult" not in scripted.calls()[3].stdin
    assert scripted.calls()[2].stdin["runtimeConfig"]["portMappings"]
    assert scripted.cached() == []


async def test_with_neither_cache_nor_configuration_there_is_nothing_to_do(networks: Networks) -> None:
    await networks.teardown(POD)


async def test_a_failed_detach_is_raised_kept_and_can_be_repeated(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two")
    await networks.setup(POD)
    scripted.answer("two", "DEL", FAIL)
    with pytest.raises(PluginError, match=r'two \(network "net", DEL\): broken'):
        await networks.teardown(POD)
    # The namespace lives: the order of the chain is kept, as the spec has it.
    assert scripted.order()[2:] == ["two DEL"]
    assert scripted.cached() == ["net-abc-eth0"]
    # It is gone: what can be freed is freed.
    with pytest.raises(PluginError, match="broken"):
        await networks.teardown(ONLY_ID)
    assert scripted.order()[3:] == ["two DEL", "one DEL"]
    scripted.answer("two", "DEL", "exit 0")
    await networks.teardown(ONLY_ID)
    assert scripted.cached() == []


@pytest.mark.parametrize(
    "shell",
    [
        """echo '{"code": 3, "msg": "unknown container"}'; exit 1""",
        """echo '{"code": 999, "msg": "link eth0 not found"}'; exit 1""",
        "echo 'open /run/netns/x: no such file or directory' >&2; exit 1",
    ],
)
async def test_a_detach_that_has_nothing_left_to_do_succeeds(
    scripted: Scripted, networks: Networks, shell: str
) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two")
    await networks.setup(POD)
    scripted.answer("two", "DEL", shell)
    await networks.teardown(ONLY_ID)
    assert scripted.order()[-1] == "one DEL"
    assert scripted.cached() == []


async def test_a_missing_plugin_at_detach(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two")
    await networks.setup(POD)
    (scripted.bin / "two").unlink()
    with pytest.raises(errors.FailedPrecondition, match="CNI plugin 'two' is not installed"):
        await networks.teardown(POD)
    scripted.plugin("two")
    await networks.teardown(POD)
    assert scripted.order() == ["one ADD", "two ADD", "two DEL", "one DEL"]


async def test_an_attach_that_cannot_be_undone_is_no_trap(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    scripted.answer("one", "ADD", FAIL)
    scripted.answer("one", "DEL", FAIL)
    with pytest.raises(PluginError, match="ADD"):
        await networks.setup(POD)
    assert scripted.cached() == ["net-abc-eth0"]
    await networks.teardown(POD)  # nothing was attached: StopPodSandbox must be able to succeed
    assert scripted.cached() == ["net-abc-eth0"]
    assert await networks.collect([]) == (f'CNI plugin {scripted.bin}/one (network "net", DEL): broken',)
    assert scripted.cached() == []


async def test_a_caller_that_leaves_has_its_attach_undone_before_the_detach(
    scripted: Scripted, networks: Networks
) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two")
    scripted.answer(
        "one",
        "ADD",
        f"""while [ ! -e {scripted.say}/go ]; do sleep 0.01; done; echo '{{"ips":[{{"address":"10.9.8.7/24"}}]}}'""",
    )
    waiter = asyncio.get_running_loop().create_task(networks.setup(POD))
    await scripted.called()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    teardown = asyncio.get_running_loop().create_task(networks.teardown(POD))
    await asyncio.sleep(0.1)
    assert scripted.order() == ["one ADD"], "DEL does not overtake ADD"
    (scripted.say / "go").touch()
    await teardown
    assert scripted.order() == ["one ADD", "two DEL", "one DEL", "two DEL", "one DEL"]
    assert scripted.cached() == []


async def test_a_hung_attach_holds_up_neither_status_nor_other_pods(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    hang = f'[ "$CNI_CONTAINERID" != abc ] || while [ ! -e {scripted.say}/go ]; do sleep 0.01; done; '
    scripted.answer("one", "ADD", hang + """echo '{"ips":[{"address":"10.9.8.7/24"}]}'""")
    hung = asyncio.get_running_loop().create_task(networks.setup(POD))
    await scripted.called()
    assert (await networks.status()).ready
    assert (await networks.setup(Attachment("other", "/proc/self/ns/net"))).ips == ("10.9.8.7",)
    assert not hung.done()
    (scripted.say / "go").touch()
    await hung


async def test_one_attachment_is_worked_on_once_at_a_time(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    await networks.setup(POD)
    await asyncio.gather(*(networks.teardown(POD) for _ in range(5)))
    assert not (scripted.log / "overlaps").exists()


async def test_status(scripted: Scripted, networks: Networks) -> None:
    status = await networks.status()
    assert (status.ready, status.reason) == (False, "NetworkPluginNotReady")
    assert f"{scripted.conf} has no *.conflist" in status.message
    (scripted.conf / "00.conflist").write_text("{")
    status = await networks.status()
    assert f"{scripted.conf}/00.conflist: it is not JSON" in status.message
    with pytest.raises(errors.Unavailable, match=r"00\.conflist: it is not JSON"):
        await networks.setup(POD)
    scripted.plugin("one")
    scripted.network("one")
    status = await networks.status()
    assert status.ready
    assert status.message == ""
    assert len(status.complaints) == 1
    assert networks.last_status == status
    assert scripted.calls() == [], "no STATUS below spec 1.1.0"


async def test_status_of_the_plugins_where_the_network_speaks_1_1(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two", cniVersion="1.1.0")
    assert (await networks.status()).ready
    assert scripted.order() == ["one STATUS", "two STATUS"]
    assert scripted.calls()[0].stdin == {"type": "one", "name": "net", "cniVersion": "1.1.0"}
    scripted.answer("two", "STATUS", """echo '{"code": 50, "msg": "no route to the datastore"}'; exit 1""")
    status = await networks.status()
    assert (status.ready, status.reason) == (False, "NetworkPluginNotReady")
    assert 'two (network "net", STATUS): no route to the datastore' in status.message


async def test_the_version_is_negotiated_once_for_each_executable(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one", "two", "ipam")
    scripted.network(
        {"type": "one", "ipam": {"type": "ipam"}}, "two", cniVersion="0.4.0", cniVersions=["1.0.0", "1.1.0"]
    )
    scripted.answer("ipam", "VERSION", """echo '{"supportedVersions": ["0.4.0", "1.0.0"]}'""")
    await networks.setup(POD)
    assert [name for name in scripted.order() if name.endswith("VERSION")] == [
        "one VERSION",
        "ipam VERSION",
        "two VERSION",
    ]
    assert {call.stdin["cniVersion"] for call in scripted.calls() if call.command == "ADD"} == {"1.0.0"}
    await networks.teardown(POD)
    await networks.setup(Attachment("def", "/proc/self/ns/net"))
    assert len([name for name in scripted.order() if name.endswith("VERSION")]) == 3
    assert {call.stdin["cniVersion"] for call in scripted.calls() if call.command == "DEL"} == {"1.0.0"}


async def test_results_of_older_plugins_are_handed_on_in_the_networks_version(
    scripted: Scripted, networks: Networks
) -> None:
    scripted.plugin("one", "two")
    scripted.network("one", "two", cniVersion="0.3.1")
    scripted.answer(
        "one", "ADD", """echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24"},"ip6":{"ip":"fd00::3/64"}}'"""
    )
    scripted.answer(
        "two",
        "ADD",
        """echo '{"ips":[{"version":"6","address":"fd00::3/64"},{"version":"4","address":"10.1.2.3/24"}]}'""",
    )
    got = await networks.setup(POD)
    assert got.ips == ("10.1.2.3", "fd00::3")
    assert scripted.calls()[1].stdin["prevResult"]["ips"] == [
        {"version": "4", "address": "10.1.2.3/24"},
        {"version": "6", "address": "fd00::3/64"},
    ]
    await networks.teardown(POD)
    assert "prevResult" not in scripted.calls()[-1].stdin, "DEL has one since spec 0.4.0"


async def test_collect_detaches_ones_own_and_counts_the_others(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one", cniVersion="1.1.0")
    for name in ("dead", "alive"):
        await networks.setup(Attachment(name, "/proc/self/ns/net"))
    results = scripted.cache / "results"
    foreign = json.loads((results / "net-alive-eth0").read_text()) | {"containerId": "podman", "owner": ""}
    (results / "net-podman-eth0").write_text(json.dumps(foreign))
    assert await networks.collect(["alive", "lost"]) == ()
    assert scripted.cached() == ["net-alive-eth0", "net-podman-eth0"]
    *_, delete, collected = scripted.calls()
    assert (delete.command, delete.env["CNI_CONTAINERID"]) == ("DEL", "dead")
    assert collected.command == "GC"
    assert collected.stdin["cni.dev/valid-attachments"] == [
        {"containerID": name, "ifname": "eth0"} for name in ("alive", "lost", "podman")
    ]
    assert collected.stdin["cni.dev/attachments"] == collected.stdin["cni.dev/valid-attachments"]


async def test_collect_asks_no_plugin_that_must_not_be_asked(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one", cniVersion="1.1.0", disableGC=True)
    assert await networks.collect([]) == ()
    scripted.network("one", cniVersion="1.0.0")
    assert await networks.collect([]) == ()
    assert scripted.calls() == []


async def test_bad_input_starts_nothing(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    bad = Attachment("abc", "/proc/self/ns/net", name="a;b")
    with pytest.raises(errors.InvalidArgument):
        await networks.setup(bad)
    assert scripted.calls() == []
    assert scripted.cached() == []
    await networks.teardown(bad)


async def test_a_cache_that_cannot_be_written_starts_nothing(scripted: Scripted, networks: Networks) -> None:
    scripted.plugin("one")
    scripted.network("one")
    scripted.cache.write_text("a file where a directory should be")
    with pytest.raises(errors.Unavailable, match=r"CNI result cache: .*: Not a directory"):
        await networks.setup(POD)
    assert scripted.calls() == []
