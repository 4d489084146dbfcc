# SPDX-License-Identifier: Apache-2.0
"""The generated tree: it is what `make protos` makes, it imports without a warning, and it keeps presence."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import betterproto
import pytest

import acri.proto

REPOSITORY = Path(__file__).resolve().parents[3]
COMMITTED = REPOSITORY / "acri" / "proto"


def load_generator() -> ModuleType:
    pytest.importorskip("grpc_tools", reason="grpcio-tools (dev group) is not installed")
    spec = importlib.util.spec_from_file_location("acri_protos_generate", REPOSITORY / "protos" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*.py"))}


def modules() -> list[ModuleType]:
    names = [m.name for m in pkgutil.walk_packages(acri.proto.__path__, "acri.proto.")]
    return [importlib.import_module(name) for name in names]


def test_regenerating_gives_the_committed_tree(tmp_path: Path) -> None:
    load_generator().generate(tmp_path / "proto")
    made, kept = tree(tmp_path / "proto"), tree(COMMITTED)
    assert sorted(made) == sorted(kept), "run `make protos`"
    assert [name for name in made if made[name] != kept[name]] == [], "run `make protos`"


def test_every_message_has_metadata_and_absent_messages_are_none() -> None:
    count = 0
    for module in modules():
        for cls in vars(module).values():
            if not (
                isinstance(cls, type) and issubclass(cls, betterproto.Message) and cls.__module__ == module.__name__
            ):
                continue
            count += 1
            fresh = cls()
            for name, meta in cls._betterproto.meta_by_field_name.items():
                repeated = cls._betterproto.default_gen[name] is list
                if meta.proto_type == betterproto.TYPE_MESSAGE and not repeated and not meta.group:
                    assert getattr(fresh, name) is None, f"{cls.__module__}.{cls.__name__}.{name}"
    assert count > 250


def test_method_tables_cover_cri() -> None:
    methods = importlib.import_module("acri.proto.runtime.v1").METHODS
    assert sum(path.startswith("/runtime.v1.RuntimeService/") for path in methods) == 35
    assert sum(path.startswith("/runtime.v1.ImageService/") for path in methods) == 6
    assert {path.rpartition("/")[2] for path, m in methods.items() if m.server_streaming} == {
        "GetContainerEvents",
        "StreamContainerStats",
        "StreamContainers",
        "StreamImages",
        "StreamPodSandboxMetrics",
        "StreamPodSandboxStats",
        "StreamPodSandboxes",
    }
    assert not any(m.client_streaming for m in methods.values())


def test_generated_code_drags_no_service_layer_in() -> None:
    """Stubs and bases are trimmed, google's library is not asked for (beyond what betterproto itself imports)."""
    for name, text in tree(COMMITTED).items():
        assert "grpclib" not in text, name
        assert "betterproto.lib" not in text, name
        assert "ServiceStub" not in text, name
    code = "import acri.proto.runtime.v1, sys; print([m for m in sys.modules if m.startswith(('google', 'pydantic'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
