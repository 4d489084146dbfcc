# SPDX-License-Identifier: Apache-2.0
"""Reading users out of images: once for all who ask, and nothing stays in containerd, whatever goes wrong."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acri import errors
from acri.aio.threads import Threads
from acri.containerd.client import Containerd
from acri.host.kernel import LinuxKernel
from acri.runtime import image_users
from acri.runtime.image_users import PREFIX, ImageUsers

SNAPSHOTTER = "overlayfs"
PASSWD = b"root:x:0:0::/:/bin/sh\nweb:x:7:8::/:/bin/sh\n"


class SlowKernel(LinuxKernel):
    """Counts reads, holds them up while `go` is not set, and fails them if told so."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.fail = False
        self.go = threading.Event()
        self.go.set()

    def unshare(self, flags: int) -> None:
        self.reads += 1
        assert self.go.wait(60)
        if self.fail:
            raise OSError(errno.ENOSPC, "no more mount namespaces")
        super().unshare(flags)


@pytest.fixture
def kernel() -> SlowKernel:
    return SlowKernel()


@pytest.fixture
async def users(client: Containerd, kernel: SlowKernel, tmp_path: Path) -> AsyncIterator[ImageUsers]:
    threads = Threads()
    made = ImageUsers(client, kernel, threads, str(tmp_path / "scratch"))
    yield made
    kernel.go.set()
    await made.close()
    threads.close()
    assert await left(client) == []


@pytest.fixture
async def layer(client: Containerd, unique: str) -> AsyncIterator[str]:
    """An unpacked layer with an /etc/passwd."""
    name = f"sha256:{unique}"
    root = {"containerd.io/gc.root": "x"}
    (mount,) = await client.snapshots.prepare(SNAPSHOTTER, unique, labels=root)
    Path(mount.source, "etc").mkdir()
    Path(mount.source, "etc", "passwd").write_bytes(PASSWD)
    await client.snapshots.commit(SNAPSHOTTER, name, unique, labels=root)
    yield name
    await client.snapshots.remove(SNAPSHOTTER, name)


async def left(client: Containerd) -> list[str]:
    leases = [lease.id for lease in await client.leases.list()]
    views = [snapshot.name for snapshot in await client.snapshots.list(SNAPSHOTTER)]
    return [name for name in (*leases, *views) if name.startswith(PREFIX)]


async def test_all_who_ask_share_one_read(users: ImageUsers, kernel: SlowKernel, layer: str) -> None:
    found = await asyncio.gather(*(users.get(layer, SNAPSHOTTER) for _ in range(8)))
    assert {files.passwd for files in found} == {PASSWD}
    assert {files.group for files in found} == {None}
    assert (await users.get(layer, SNAPSHOTTER)).passwd == PASSWD
    assert kernel.reads == 1


async def test_an_image_without_layers_has_no_files(users: ImageUsers, kernel: SlowKernel) -> None:
    assert (await users.get("", SNAPSHOTTER)).passwd is None
    assert kernel.reads == 0


async def test_a_failed_read_leaves_nothing_and_is_tried_again(
    client: Containerd, users: ImageUsers, kernel: SlowKernel, layer: str
) -> None:
    kernel.fail = True
    with pytest.raises(errors.ResourceExhausted):
        await users.get(layer, SNAPSHOTTER)
    assert await left(client) == []
    kernel.fail = False
    assert (await users.get(layer, SNAPSHOTTER)).passwd == PASSWD


@pytest.mark.parametrize(
    ("chain_id", "snapshotter", "error"),
    [("sha256:none", SNAPSHOTTER, errors.NotFound), ("sha256:none", "no-such", errors.InvalidArgument)],
)
async def test_what_is_not_there_is_an_error_and_leaves_nothing(
    client: Containerd, users: ImageUsers, chain_id: str, snapshotter: str, error: type[errors.AcriError]
) -> None:
    with pytest.raises(error):
        await users.get(chain_id, snapshotter)
    assert await left(client) == []


async def test_a_read_that_hangs_is_given_up_by_who_waits_and_goes_on(
    client: Containerd, users: ImageUsers, kernel: SlowKernel, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_users, "PATIENCE_S", 0.05)
    kernel.go.clear()
    for _ in range(2):
        with pytest.raises(errors.DeadlineExceeded, match=f"layer {layer} could not be read within"):
            await users.get(layer, SNAPSHOTTER)
    monkeypatch.undo()
    kernel.go.set()
    assert (await users.get(layer, SNAPSHOTTER)).passwd == PASSWD
    assert kernel.reads <= 1
    assert await left(client) == []


async def test_a_caller_that_leaves_does_not_take_the_read_along(
    users: ImageUsers, kernel: SlowKernel, layer: str
) -> None:
    kernel.go.clear()
    waiting = [asyncio.ensure_future(users.get(layer, SNAPSHOTTER)) for _ in range(2)]
    while not kernel.reads:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    kernel.go.set()
    assert (await waiting[1]).passwd == PASSWD
    assert kernel.reads == 1


async def test_closing_during_a_read_leaves_nothing(
    client: Containerd, users: ImageUsers, kernel: SlowKernel, layer: str
) -> None:
    kernel.go.clear()
    waiting = asyncio.ensure_future(users.get(layer, SNAPSHOTTER))
    while not kernel.reads:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    asyncio.get_running_loop().call_later(0.05, kernel.go.set)
    await users.close()
    with pytest.raises(errors.Aborted):
        await waiting
    assert await left(client) == []


async def test_leftovers_of_a_killed_acri_are_removed_and_nobody_elses(
    client: Containerd, users: ImageUsers, layer: str, unique: str
) -> None:
    for lease in (f"{PREFIX}{unique}", f"other-{unique}"):
        await client.leases.create(lease, expire_s=600)
        await client.snapshots.view(SNAPSHOTTER, lease, layer, lease=lease)
    await client.leases.create(f"{PREFIX}{unique}-empty", expire_s=600)
    await users.clear_leftovers()
    assert await left(client) == []
    assert f"other-{unique}" in [lease.id for lease in await client.leases.list()]
    assert f"other-{unique}" in [snapshot.name for snapshot in await client.snapshots.list(SNAPSHOTTER)]
    await users.clear_leftovers()
    await client.snapshots.remove(SNAPSHOTTER, f"other-{unique}")
    await client.leases.delete(f"other-{unique}")
