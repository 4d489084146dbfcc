# SPDX-License-Identifier: Apache-2.0
"""ExecSync: what probes and lifecycle hooks run on (kubelet-cri.md 3.6, scripts 17 and 18)."""

from __future__ import annotations

import asyncio
import time

import pytest
from cri_client import Cri, eventually
from cri_lab import AcriProcess, command_of
from cri_pods import FOREVER, POD, Pod, Pods, options

from acri import errors
from acri.proto.runtime import v1 as m


@pytest.fixture
async def pod(pods: Pods) -> Pod:
    return await pods.run()


async def _sleepers(acri: AcriProcess) -> list[int]:
    """Processes of this acri's containers named `sleep 4321…`."""
    return [pid for pid in acri.processes() if command_of(pid).startswith("sleep 4321")]


async def test_streams_and_exit_code(cri: Cri, pod: Pod) -> None:
    container_id = await pod.start()
    answer = await cri.exec(container_id, "sh", "-c", "printf out; printf err >&2; exit 7")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out", b"err", 7)
    answer = await cri.exec(container_id, "true", timeout=10)
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"", b"", 0)
    assert (await cri.exec(container_id, "sh", "-c", "kill -9 $$")).exit_code == 137
    assert (await cri.exec(container_id, "printf", r"\000\377")).stdout == b"\x00\xff"


async def test_a_probe_inherits_the_container(cri: Cri, pod: Pod) -> None:
    security = {"run_as_user": m.Int64Value(value=1000), "capabilities": m.Capability(drop_capabilities=["ALL"])}
    envs = [m.KeyValue(key="K", value=b"v")]
    container_id = await pod.start(*FOREVER, security=security, envs=envs, working_dir="/tmp")
    output = await pod.exec(container_id, "sh", "-c", "id -u; pwd; echo $K; grep CapBnd /proc/self/status")
    assert output.split() == ["1000", "/tmp", "v", "CapBnd:", "0" * 16]


@pytest.mark.parametrize("mode", [POD, 1])
async def test_a_timeout_is_deadline_exceeded_and_leaves_no_process(
    cri: Cri, pods: Pods, acri: AcriProcess, mode: int
) -> None:
    pod = await pods.run(namespaces=options(pid=mode))
    container_id = await pod.start()
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match="timed out"):
        await cri.exec(container_id, "sleep", "43210", timeout=1)
    assert time.monotonic() - started >= 1
    assert await _sleepers(acri) == []
    assert (await cri.exec(container_id, "true")).exit_code == 0


async def test_without_a_timeout_it_may_take_its_time(cri: Cri, pod: Pod) -> None:
    container_id = await pod.start()
    assert (await cri.exec(container_id, "sh", "-c", "sleep 1.5; echo late")).stdout == b"late\n"


async def test_a_client_that_leaves_ends_the_command(cri: Cri, pod: Pod, acri: AcriProcess) -> None:
    container_id = await pod.start()
    with pytest.raises(errors.DeadlineExceeded):
        await cri.exec(container_id, "sleep", "43211", within=0.5)

    async def gone() -> bool:
        return not await _sleepers(acri)

    await eventually(gone)


async def test_large_output_is_cut(cri: Cri, pod: Pod) -> None:
    """The answer stays below the kubelet's 16 MiB, the command runs to its end."""
    container_id = await pod.start()
    answer = await cri.exec(container_id, "sh", "-c", "yes | head -c 41943040; echo end >&2")
    assert answer.exit_code == 0
    assert answer.stderr == b"end\n"
    assert 1 << 20 < len(answer.stdout) < 16 << 20
    assert answer.stdout[:4] == b"y\ny\n"


async def test_output_up_to_the_last_byte(cri: Cri, pod: Pod) -> None:
    container_id = await pod.start()
    answer = await cri.exec(container_id, "sh", "-c", "yes 0123456789abcde | head -c 1048576")
    assert answer.stdout == b"0123456789abcde\n" * 65536


async def test_a_background_child_does_not_hold_the_answer(cri: Cri, pod: Pod) -> None:
    container_id = await pod.start()
    answer = await cri.exec(container_id, "sh", "-c", "sleep 300 & echo started")
    assert (answer.stdout, answer.exit_code) == (b"started\n", 0)


async def test_where_it_cannot_run(cri: Cri, pod: Pod) -> None:
    with pytest.raises(errors.NotFound):
        await cri.exec("f" * 64, "true")
    created = await pod.create("true", name="created")
    exited = await pod.start("true", name="exited")
    await cri.exited(exited)
    for container_id in (created, exited):
        with pytest.raises(errors.FailedPrecondition):
            await cri.exec(container_id, "true")
    running = await pod.start()
    with pytest.raises(errors.InvalidArgument):
        await cri.exec(running)
    with pytest.raises(errors.AcriError, match="nonexistent"):
        await cri.exec(running, "/nonexistent")
    assert (await cri.exec(running, "echo", "on")).stdout == b"on\n"


async def test_many_at_once(cri: Cri, pod: Pod) -> None:
    container_id = await pod.start()
    answers = await asyncio.gather(*(cri.exec(container_id, "echo", str(i)) for i in range(100)))
    assert [answer.stdout for answer in answers] == [b"%d\n" % i for i in range(100)]


async def test_a_stop_ends_a_hook_that_runs(cri: Cri, pod: Pod) -> None:
    """preStop race: both calls return."""
    container_id = await pod.start("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    hook = asyncio.create_task(cri.exec(container_id, "sleep", "43212"))
    await asyncio.sleep(0.3)
    await cri.stop(container_id, 1)
    assert (await hook).exit_code == 137
    assert (await cri.container_status(container_id)).exit_code == 137
