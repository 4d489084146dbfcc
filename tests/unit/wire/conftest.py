# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from wire_oracle import Pair, build

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def test_pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """The messages of wiretest.proto by short name."""
    return {
        p.name.removeprefix("wiretest."): p for p in build(HERE / "wiretest.proto", tmp_path_factory.mktemp("wire"))
    }


@pytest.fixture(scope="session")
def t(test_pairs: dict[str, Pair]) -> ModuleType:
    """The betterproto module made from wiretest.proto."""
    import wiretest  # put on the path and imported by `build`

    return wiretest
