# SPDX-License-Identifier: Apache-2.0
"""critest, the conformance suite of kubernetes-sigs/cri-tools, against `acri serve`.

It runs where `critest` is on PATH, root, and its images can be pulled: from the internet, or from a registry that
`ACRI_CRITEST_CERTS_DIR` names (a certs.d directory whose `_default` is a mirror of registry.k8s.io and gcr.io). No spec
may fail but those in `known_failures.txt`, and those have to.
"""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cri_lab import AcriProcess

pytestmark = pytest.mark.integration

TIMEOUT_S = 900.0
KNOWN = Path(__file__).with_name("known_failures.txt")


def test_critest(endpoint: AcriProcess, tmp_path: Path) -> None:
    if shutil.which("critest") is None:
        pytest.skip("critest (kubernetes-sigs/cri-tools) is not on PATH")
    report = tmp_path / "critest.xml"
    command = [
        "critest",
        f"--runtime-endpoint=unix://{endpoint.socket}",
        "--ginkgo.no-color",
        "--ginkgo.seed=1",
        f"--ginkgo.timeout={TIMEOUT_S:g}s",
        f"--ginkgo.junit-report={report}",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S + 60, cwd=tmp_path, check=False)
    assert report.exists(), run.stdout[-3000:] + run.stderr[-3000:]
    results = dict(_results(report))
    print(Counter(status for status, _ in results.values()))
    known = _known()
    failed = {name: text for name, (status, text) in results.items() if status in ("failed", "timedout", "panicked")}
    unexpected = {name: text for name, text in failed.items() if not any(part in name for part in known)}
    fixed = [part for part, sure in known.items() if sure and not any(part in name for name in failed)]
    assert not unexpected, "\n".join(f"{name}: {text}" for name, text in unexpected.items())
    assert not fixed, f"these pass now, take them out of {KNOWN.name}: {fixed}"


def _results(report: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Spec name → status and what went wrong."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = case.get("name", "")
        if name.startswith("[It]"):
            failure = case.find("failure")
            text = "" if failure is None else _gist(failure.get("message") or "")
            yield name.removeprefix("[It] "), (case.get("status", ""), text)


def _gist(message: str) -> str:
    """What a failed expectation says, without the dump of Go values below it."""
    lines = [line.strip() for line in message.splitlines()]
    return " | ".join([*lines[:1], *(line for line in lines if line.startswith(("rpc error", "<nil>", "to contain")))])


def _known() -> dict[str, bool]:
    """Part of a spec's name → whether it has to fail."""
    lines = [line for line in KNOWN.read_text().splitlines() if line and not line.startswith("#")]
    return {line.partition(" # ")[0].removeprefix("? "): not line.startswith("? ") for line in lines}
