# SPDX-License-Identifier: Apache-2.0
"""The catalog: names come and go, images follow. And what no look-up may cost: aiohttp before the first pull."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.images.catalog import Catalog, Content
from acri.images.locks import KeyedLocks
from acri.model.image import ImageConfig


def _digest(n: int) -> str:
    return f"sha256:{n:064x}"


def _content(n: int) -> Content:
    """Image n: ids that differ in their first digits."""
    return Content(_digest(100 + n), _digest(100 + n), f"sha256:{n:x}{n:063x}", 10 + n, _digest(200 + n), ImageConfig())


def test_one_image_of_many_names() -> None:
    catalog, one = Catalog(), _content(1)
    for name in (one.image_id, "docker.io/library/x:1", f"docker.io/library/x@{one.target_digest}", "quay.io/y:2"):
        catalog.put(name, one, pinned=name.startswith("quay"))
    (image,) = catalog.list()
    assert image.repo_tags == ("docker.io/library/x:1", "quay.io/y:2")
    assert image.repo_digests == (f"docker.io/library/x@{one.target_digest}",)
    assert image.pinned
    assert image.reference == image.repo_digests[0]
    assert catalog.names_of(image.id)[-1] == image.id
    for text in ("x:1", "quay.io/y:2", image.id, image.id[7:12], f"quay.io/y@{one.target_digest}"):
        assert catalog.find(text) == image
    for text in ("x", "y:2", "quay.io/y:3", "sha256:" + "f" * 64, f"z@{one.target_digest}", "fffff"):
        assert catalog.find(text) is None
    catalog.discard("quay.io/y:2")
    assert catalog.find("quay.io/y:2") is None
    assert not next(iter(catalog.list())).pinned
    for name in catalog.names():
        catalog.discard(name)
    assert list(catalog.list()) == []
    assert catalog.content_of_target(one.target_digest) is None


def test_names_before_ids_and_ambiguous_prefixes() -> None:
    catalog, one, two = Catalog(), _content(1), _content(2)
    catalog.put(one.image_id, one, pinned=False)
    catalog.put("docker.io/library/1:latest", two, pinned=False)
    assert catalog.find("1") == catalog.get(two.image_id)  # a name that looks like a prefix is a name
    three = Content(_digest(7), _digest(7), f"sha256:10{'0' * 61}5", 1, "", ImageConfig())
    catalog.put(three.image_id, three, pinned=False)
    with pytest.raises(errors.InvalidArgument, match="ambiguous"):
        catalog.find("sha256:10")
    with pytest.raises(errors.InvalidArgument, match="lowercase"):
        catalog.find("UPPER")


_NAMES = ["docker.io/library/a:1", "docker.io/library/b:1", "quay.io/c:x", f"quay.io/c@{_digest(101)}"]


@given(st.lists(st.tuples(st.sampled_from(_NAMES), st.integers(0, 3))))
def test_any_history_ends_in_what_the_records_say(history: list[tuple[str, int]]) -> None:
    catalog, records = Catalog(), dict[str, int]()
    for name, n in history:
        if n == 0:
            catalog.discard(name)
            records.pop(name, None)
        else:
            catalog.put(name, _content(n), pinned=False)
            records[name] = n
    assert {image.id for image in catalog.list()} == {_content(n).image_id for n in records.values()}
    for image in catalog.list():
        names = {name for name, n in records.items() if _content(n).image_id == image.id}
        assert {*image.repo_tags, *image.repo_digests} == names == set(catalog.names_of(image.id))
    for name, n in records.items():
        found = catalog.find(name)
        assert found is not None
        assert found.id == _content(n).image_id


@pytest.mark.parametrize(
    ("user", "number", "name"),
    [("", None, ""), ("1000", 1000, ""), ("1000:1000", 1000, ""), ("0", 0, ""), ("www-data", None, "www-data"),
     ("www-data:www-data", None, "www-data"), (":5", None, ""), ("1_0", None, "1_0"), ("\u0661", None, "\u0661")],
)  # fmt: skip
def test_uid_xor_username(user: str, number: int | None, name: str) -> None:
    config = ImageConfig(user=user)
    assert (config.user_id, config.user_name) == (number, name)


async def test_keyed_locks_leave_nothing_behind() -> None:
    locks, inside = KeyedLocks(), list[str]()

    async def work(key: str) -> None:
        async with locks.hold(key):
            assert key not in inside
            inside.append(key)
            await asyncio.sleep(0)
            inside.remove(key)

    await asyncio.gather(*(work(key) for key in "aabbabc"))
    waiting = asyncio.ensure_future(work("z"))
    async with locks.hold("z"):
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert len(locks) == 1
    assert len(locks) == 0


def test_aiohttp_is_not_imported_before_the_first_pull() -> None:
    code = "import sys, acri.images.service; print([m for m in ('aiohttp', 'yarl') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
