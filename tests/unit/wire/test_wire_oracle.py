# SPDX-License-Identifier: Apache-2.0
"""Random messages through acri's codec and google's protobuf, both directions, byte-equal after a canonical sort."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from wire_oracle import Pair, check, describe, oracle_classes, pairs

ROOT = Path(__file__).resolve().parents[3]
NAMES = ["Empty", "Sub", "M", "Scalars", "Optionals", "Lists", "OneOf", "Maps", "Names", "Names.Inner"]


@pytest.mark.parametrize("name", NAMES)
def test_random_messages(test_pairs: dict[str, Pair], name: str) -> None:
    rng = random.Random(name)
    for _ in range(150):
        check(test_pairs[name], rng)


def test_every_test_message_is_tried(test_pairs: dict[str, Pair]) -> None:
    assert {n for n in test_pairs if not n.startswith("wkt.")} == set(NAMES)


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    protos = ROOT / "protos"
    files = sorted(p.relative_to(protos).as_posix() for p in protos.rglob("*.proto"))
    described = describe(files, protos, out=tmp_path_factory.mktemp("protos") / "set.pb")
    return list(pairs(oracle_classes(described), "acri.proto."))


def test_every_message_of_cri_and_containerd(contracts: list[Pair]) -> None:
    """Empty, full, and some random ones of every class in acri.proto."""
    assert len(contracts) > 250
    assert {"runtime.v1.CreateContainerRequest", "containerd.services.tasks.v1.CreateTaskRequest"} <= {
        p.name for p in contracts
    }
    for pair in contracts:
        rng = random.Random(pair.name)
        for chance in (0.0, 1.0, 0.7, 0.6, 0.5, 0.4, 0.3):
            check(pair, rng, chance=chance)
