# SPDX-License-Identifier: Apache-2.0
"""crictl (kubernetes-sigs/cri-tools) against `acri serve`: a pod's life as an administrator sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cri_lab import AcriProcess

pytestmark = pytest.mark.integration
Crictl = Callable[..., str]


@pytest.fixture
def crictl(endpoint: AcriProcess, tmp_path: Path) -> Crictl:
    if shutil.which("crictl") is None:
        pytest.skip("crictl (kubernetes-sigs/cri-tools) is not on PATH")
    config = tmp_path / "crictl.yaml"
    config.write_text(f"runtime-endpoint: unix://{endpoint.socket}\n")

    def run(*arguments: str) -> str:
        command = ["crictl", "--config", str(config), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.strip()

    return run


def test_a_pod_s_life(crictl: Crictl, image: str, tmp_path: Path) -> None:
    assert "RuntimeName:  acri" in crictl("version")
    conditions = {item["type"]: item["status"] for item in json.loads(crictl("info"))["status"]["conditions"]}
    assert conditions == {"RuntimeReady": True, "NetworkReady": True}
    crictl("pull", image)
    assert image.partition(":")[0] in crictl("images")
    assert json.loads(crictl("inspecti", image))["status"]["repoTags"] == [image]

    pod, container = tmp_path / "pod.json", tmp_path / "container.json"
    metadata = {"name": "pod", "namespace": "ns", "uid": "u1", "attempt": 1}
    pod.write_text(json.dumps({"metadata": metadata, "log_directory": str(tmp_path / "logs"), "linux": {}}))
    command = ["sh", "-c", "echo hello; sleep 1000"]
    container.write_text(
        json.dumps({"metadata": {"name": "c"}, "image": {"image": image}, "command": command, "log_path": "c.log"})
    )
    pod_id = crictl("runp", str(pod))
    assert json.loads(crictl("inspectp", pod_id))["status"]["state"] == "SANDBOX_READY"
    assert crictl("pods", "-q") == pod_id
    container_id = crictl("create", pod_id, str(container), str(pod))
    crictl("start", container_id)
    assert crictl("ps", "-q") == container_id
    assert json.loads(crictl("inspect", container_id))["status"]["state"] == "CONTAINER_RUNNING"
    assert crictl("exec", "-s", container_id, "echo", "from exec") == "from exec"
    assert crictl("logs", container_id) == "hello"
    crictl("stop", "-t", "1", container_id)
    assert crictl("ps", "-q", "--state", "Exited") == container_id
    crictl("rm", container_id)
    crictl("stopp", pod_id)
    crictl("rmp", pod_id)
    assert crictl("pods", "-q") == ""
    crictl("rmi", image)
    assert crictl("images", "-q") == ""
