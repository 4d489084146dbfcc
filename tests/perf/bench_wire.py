#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints what the wire costs: a CRI list of 200 containers, and building one message. Judges nothing.

    .venv/bin/python tests/perf/bench_wire.py [--repeat 30]

Targets on the reference machine: encode ≤ 2 ms, decode ≤ 3.5 ms, cached frames joined ≈ 0.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from acri.proto.runtime import v1 as cri
from acri.wire import decode, encode, frame, join, new, plan_of

CONTAINERS = 200


def container(i: int) -> cri.Container:
    """As a kubelet's container looks: 4 labels, 5 annotations."""
    return cri.Container(
        id=f"{i:064x}",
        pod_sandbox_id=f"{i + 1:064x}",
        metadata=cri.ContainerMetadata(name=f"container-{i}", attempt=1),
        image=cri.ImageSpec(image="registry.k8s.io/e2e-test-images/agnhost:2.45"),
        image_ref="sha256:" + "ab" * 32,
        image_id="sha256:" + "cd" * 32,
        state=cri.ContainerState.CONTAINER_RUNNING,
        created_at=1_700_000_000_123_456_789 + i,
        labels={
            "io.kubernetes.container.name": f"container-{i}",
            "io.kubernetes.pod.name": f"pod-{i}",
            "io.kubernetes.pod.namespace": "default",
            "io.kubernetes.pod.uid": f"{i:08x}-1234-1234-1234-123456789abc",
        },
        annotations={
            "io.kubernetes.container.hash": "8c5d2f3a",
            "io.kubernetes.container.restartCount": "0",
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "File",
            "io.kubernetes.pod.terminationGracePeriod": "30",
        },
    )


def times(repeat: int, work: Callable[[], Any]) -> tuple[float, float]:
    """(minimum, median) in milliseconds."""
    taken = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begin) * 1e3)
    taken.sort()
    return taken[0], taken[len(taken) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time acri.wire.")
    parser.add_argument("--repeat", type=int, default=30)
    repeat: int = parser.parse_args().repeat
    begin = time.perf_counter()
    for cls in (cri.ListContainersResponse, cri.Container, cri.ContainerMetadata, cri.ImageSpec):
        _ = plan_of(cls).encode, plan_of(cls).decode
    compiled = (time.perf_counter() - begin) * 1e3
    reply = cri.ListContainersResponse(containers=[container(i) for i in range(CONTAINERS)])
    data = encode(reply)
    frames = [frame(1, encode(c)) for c in reply.containers]
    fields = {"id": "a", "image_ref": "b", "created_at": 5, "labels": {}}
    print(f"{CONTAINERS} containers, {len(data)} bytes{'':21}min ms  median ms")
    for name, work in {
        "encode list": lambda: encode(reply),
        "decode list": lambda: decode(cri.ListContainersResponse, data),
        "join cached frames": lambda: join(frames),
        "encode list, betterproto": lambda: bytes(reply),
        "decode list, betterproto": lambda: cri.ListContainersResponse().parse(data),
        "build 1000 Containers, new": lambda: [new(cri.Container, **fields) for _ in range(1000)],
        "build 1000 Containers, betterproto": lambda: [cri.Container(**fields) for _ in range(1000)],
    }.items():
        few = 5 if "betterproto" in name else repeat
        least, median = times(few, work)
        print(f"{name:40} {least:10.4f} {median:10.4f}")
    print(f"{'compile 4 classes, both directions':40} {compiled:10.4f}")


if __name__ == "__main__":
    main()
