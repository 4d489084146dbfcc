# SPDX-License-Identifier: Apache-2.0
"""What a container finds inside: command, environment, user, mounts, devices, limits, security
(kubelet-cri.md 9; critest's Security Context and Container groups)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cri_client import Cri
from cri_lab import AcriProcess, command_of, sh
from cri_pods import BUSYBOX, FOREVER, TARGET, Pods, options, rejoin

from acri import errors
from acri.proto.runtime import v1 as m

STRICT = m.SupplementalGroupsPolicy.Strict
CONFIGURED = "docker.io/test/configured:1"
# CAP_* bits as in linux/capability.h.
NET_RAW, SYS_ADMIN, NET_ADMIN, CHOWN = 13, 21, 12, 0
DEFAULT_CAPABILITIES = 0xA80425FB
"""The fourteen that Docker, containerd and CRI-O have in common."""


def profile(kind: str, path: str = "") -> m.SecurityProfile:
    return m.SecurityProfile(profile_type=m.SecurityProfileProfileType.from_string(kind), localhost_ref=path)


@pytest.fixture
async def configured(cri: Cri) -> str:
    await cri.pull(CONFIGURED)
    return CONFIGURED


async def test_the_image_s_own_command(pods: Pods, configured: str) -> None:
    pod = await pods.run()
    output = await pod.output(image=configured)
    assert output == "from image\n/srv/work\n1000\nimage image\n"


async def test_configuration_over_image(pods: Pods, configured: str) -> None:
    """`command` replaces entrypoint and arguments of the image, `args` its arguments; environments are merged."""
    pod = await pods.run()
    envs = [
        m.KeyValue(key="BOTH", value=b"config"),
        m.KeyValue(key="EMPTY", value=b""),
        m.KeyValue(key="U", value="ü".encode()),
    ]
    assert await pod.output(image=configured, args=["echo $FROM $BOTH $U"], envs=envs) == "image config ü\n"
    assert await pod.output("echo", "$FROM", image=configured) == "$FROM\n"
    assert await pod.output("pwd", image=configured, working_dir="/new/dir") == "/new/dir\n"
    environment = (await pod.output("env", image=configured, envs=envs)).splitlines()
    assert {"EMPTY=", "BOTH=config", "FROM=image", f"HOSTNAME={pod.config.hostname}", "PATH=/bin"} <= set(environment)
    assert sum(line.startswith("BOTH=") for line in environment) == 1


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        ({}, "uid=0(root) gid=0(root) groups=0(root)"),
        ({"run_as_user": m.Int64Value(value=1001)}, "uid=1001 gid=0(root) groups=0(root)"),
        (
            {"run_as_user": m.Int64Value(value=1001), "run_as_group": m.Int64Value(value=1002)},
            "uid=1001 gid=1002 groups=1002",
        ),
        ({"run_as_username": "nobody"}, "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)"),
        ({"run_as_user": m.Int64Value(value=0)}, "uid=0(root) gid=0(root) groups=0(root)"),
        (
            {"run_as_user": m.Int64Value(value=1000), "supplemental_groups": [1234, 5678]},
            "uid=1000(app) gid=1000(app) groups=1000(app),1234,5678,50000(extra)",
        ),
        (
            {
                "run_as_user": m.Int64Value(value=1000),
                "supplemental_groups": [1234],
                "supplemental_groups_policy": STRICT,
            },
            "uid=1000(app) gid=1000(app) groups=1000(app),1234",
        ),
    ],
    ids=["root", "uid", "uid-gid", "name", "zero", "merge", "strict"],
)
async def test_users(cri: Cri, pods: Pods, security: dict, expected: str) -> None:
    """The same for the first process, for an exec, and in the status."""
    pod = await pods.run()
    container_id = await pod.start("sh", "-c", "id; exec sleep 1000", security=security)
    user = (await cri.container_status(container_id)).user.linux
    told = f"{user.uid} {user.gid} {sorted(set(user.supplemental_groups))}"
    assert (await pod.exec(container_id, "id")).strip() == expected
    numbers = [(await pod.exec(container_id, "id", flag)).split() for flag in ("-u", "-g", "-G")]
    assert told == f"{numbers[0][0]} {numbers[1][0]} {sorted(map(int, numbers[2]))}"
    status = await pod.exec(container_id, "cat", "/proc/1/status")
    groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
    assert set(map(int, groups)) | {int(numbers[1][0])} == set(map(int, numbers[2]))


async def test_an_image_s_user_by_name(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    await cri.pull("docker.io/test/user-name:1")
    assert (await pod.output(image="docker.io/test/user-name:1")).startswith("uid=33(www-data) gid=33(www-data)")


async def _status_bits(pod: object, container_id: str) -> dict[str, str]:
    text = await pod.exec(container_id, "cat", "/proc/self/status")  # type: ignore[attr-defined]
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.mark.parametrize(
    ("capability", "bounding"),
    [
        (None, DEFAULT_CAPABILITIES),
        (m.Capability(add_capabilities=["NET_ADMIN"]), DEFAULT_CAPABILITIES | 1 << NET_ADMIN),
        (m.Capability(add_capabilities=["CAP_SYS_ADMIN"], drop_capabilities=["NET_RAW"]), None),
        (m.Capability(drop_capabilities=["ALL"]), 0),
        (m.Capability(drop_capabilities=["ALL"], add_capabilities=["CHOWN"]), 1 << CHOWN),
    ],
    ids=["default", "add", "add-drop", "drop-all", "drop-all-add"],
)
async def test_capabilities(pods: Pods, capability: m.Capability | None, bounding: int | None) -> None:
    if bounding is None:
        bounding = DEFAULT_CAPABILITIES & ~(1 << NET_RAW) | 1 << SYS_ADMIN
    pod = await pods.run()
    container_id = await pod.start(*FOREVER, security={"capabilities": capability})
    for text in (
        await pod.exec(container_id, "cat", "/proc/1/status"),
        await pod.exec(container_id, "cat", "/proc/self/status"),
    ):
        sets = {line.split(":")[0]: int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Cap")}
        assert {name: hex(value) for name, value in sets.items()} == {
            "CapInh": hex(0),
            "CapPrm": hex(bounding),
            "CapEff": hex(bounding),
            "CapBnd": hex(bounding),
            "CapAmb": hex(0),
        }


async def test_all_capabilities(pods: Pods) -> None:
    """As many as this host lets acri have."""
    own = int(
        next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapBnd")).split()[1], 16
    )
    pod = await pods.run()
    container_id = await pod.start(*FOREVER, security={"capabilities": m.Capability(add_capabilities=["ALL"])})
    assert int((await _status_bits(pod, container_id))["CapBnd"], 16) == own


async def test_privileged(pods: Pods) -> None:
    pod = await pods.run(security={"privileged": True})
    container_id = await pod.start(*FOREVER, security={"privileged": True}, name="privileged")
    assert await pod.exec(container_id, "ip", "link", "add", "dummy7", "type", "bridge") == ""
    assert "dummy7" in await pod.exec(container_id, "ls", "/sys/class/net")
    mounts = {
        line.split()[1]: line.split()[3].split(",")
        for line in (await pod.exec(container_id, "cat", "/proc/mounts")).splitlines()
    }
    assert "rw" in mounts["/sys"]
    assert "/proc/kcore" not in mounts
    bits = await _status_bits(pod, container_id)
    assert bits["Seccomp"] == "0"
    devices = (await pod.exec(container_id, "ls", "/dev")).split()
    assert "kmsg" in devices or len(devices) > 20
    plain = await pod.start(*FOREVER, name="plain")
    mounts = {
        line.split()[1]: line.split()[3].split(",")
        for line in (await pod.exec(plain, "cat", "/proc/mounts")).splitlines()
    }
    assert "ro" in mounts["/sys"]


async def test_a_privileged_container_needs_a_privileged_pod(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    with pytest.raises(errors.InvalidArgument, match="privileged"):
        await pod.create("true", security={"privileged": True})


async def test_read_only_root(pods: Pods) -> None:
    pod = await pods.run()
    status, lines = await pod.run("touch", "/x", security={"readonly_rootfs": True})
    assert status.exit_code == 1
    assert rejoin(lines, "stderr") == b"touch: /x: Read-only file system\n"
    assert await pod.output("sh", "-c", "touch /dev/shm/x && echo ok", security={"readonly_rootfs": True}) == "ok\n"
    assert await pod.output("sh", "-c", "touch /x && echo ok") == "ok\n"


async def test_masked_and_read_only_paths(pods: Pods) -> None:
    pod = await pods.run()
    hidden = {"masked_paths": ["/etc/passwd", "/home"], "readonly_paths": ["/tmp"]}
    container_id = await pod.start(*FOREVER, security=hidden)
    assert await pod.exec(container_id, "cat", "/etc/passwd") == ""
    assert await pod.exec(container_id, "ls", "-A", "/home") == ""
    answer = await pod.cri.exec(container_id, "touch", "/tmp/x")
    assert answer.stderr == b"touch: /tmp/x: Read-only file system\n"


async def test_seccomp_profiles(pods: Pods) -> None:
    """RuntimeDefault forbids unshare(2) to who has no CAP_SYS_ADMIN; no profile at all means none (critest)."""
    pod = await pods.run()
    default = await pod.start(*FOREVER, name="default", security={"seccomp": profile("RuntimeDefault")})
    for name, security in (("none", {}), ("unconfined", {"seccomp": profile("Unconfined")})):
        container_id = await pod.start(*FOREVER, name=name, security=security)
        assert (await _status_bits(pod, container_id))["Seccomp"] == "0", name
    assert (await _status_bits(pod, default))["Seccomp"] == "2"
    refused = await pod.cri.exec(default, "unshare", "-U", "true")
    assert refused.exit_code == 1
    assert b"Operation not permitted" in refused.stderr
    assert await pod.exec(default, "sh", "-c", "echo x > /tmp/f && chmod 600 /tmp/f && ls /tmp") == "f\n"


async def test_localhost_seccomp_profile(pods: Pods, tmp_path: Path) -> None:
    path = tmp_path / "no-chmod.json"
    rule = {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    pod = await pods.run()
    status, lines = await pod.run("chmod", "600", "/etc/passwd", security={"seccomp": profile("Localhost", str(path))})
    assert status.exit_code == 1
    assert b"Operation not permitted" in rejoin(lines, "stderr")


@pytest.mark.parametrize("wanted", [False, True])
async def test_no_new_privileges(pods: Pods, wanted: bool) -> None:
    pod = await pods.run()
    container_id = await pod.start(*FOREVER, security={"no_new_privs": wanted})
    assert (await _status_bits(pod, container_id))["NoNewPrivs"] == str(int(wanted))


async def test_setuid_programs_are_not_disabled(pods: Pods) -> None:
    pod = await pods.run()
    root = next(line for line in (await pod.output("cat", "/proc/mounts")).splitlines() if line.split()[1] == "/")
    assert "nosuid" not in root.split()[3].split(",")


async def test_mounts(cri: Cri, pods: Pods, tmp_path: Path) -> None:
    """Bind mounts, of directories, files, and through symbolic links; status tells the kubelet's own, only."""
    source = tmp_path / "volume"
    source.mkdir()
    (source / "file").write_text("from the host\n")
    link = tmp_path / "link"
    link.symlink_to(source)
    mounts = [
        m.Mount(container_path="/rw", host_path=str(source)),
        m.Mount(container_path="/ro", host_path=str(link), readonly=True),
        m.Mount(container_path="/deep/er/file", host_path=str(source / "file"), readonly=True),
        m.Mount(container_path="/made", host_path=str(tmp_path / "not-there-yet")),
    ]
    pod = await pods.run()
    container_id = await pod.start(*FOREVER, mounts=mounts)
    for path in ("/rw/file", "/ro/file", "/deep/er/file"):
        assert await pod.exec(container_id, "cat", path) == "from the host\n"
    await pod.exec(container_id, "sh", "-c", "echo from inside > /rw/new")
    assert (source / "new").read_text() == "from inside\n"
    assert b"Read-only" in (await cri.exec(container_id, "touch", "/ro/x")).stderr
    assert b"Read-only" in (await cri.exec(container_id, "sh", "-c", "echo >> /deep/er/file")).stderr
    await pod.exec(container_id, "touch", "/made/x")
    assert (tmp_path / "not-there-yet" / "x").exists()
    assert (await cri.container_status(container_id)).mounts == mounts


async def test_a_mount_over_a_pod_file_wins(pods: Pods, tmp_path: Path) -> None:
    """A kubelet brings its own /etc/hosts."""
    (tmp_path / "hosts").write_text("# the kubelet's\n")
    pod = await pods.run()
    mount = m.Mount(container_path="/etc/hosts", host_path=str(tmp_path / "hosts"))
    assert await pod.output("cat", "/etc/hosts", mounts=[mount]) == "# the kubelet's\n"


async def test_mount_propagation(pods: Pods, tmp_path: Path) -> None:
    """What is mounted on the host later: seen with HOST_TO_CONTAINER, not with PRIVATE."""
    source = tmp_path / "shared"
    (source / "later").mkdir(parents=True)
    sh("mount", "--bind", str(source), str(source))
    try:
        sh("mount", "--make-rshared", str(source))
        pod = await pods.run()
        mounts = [
            m.Mount(container_path="/private", host_path=str(source)),
            m.Mount(
                container_path="/slave",
                host_path=str(source),
                propagation=m.MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
            ),
        ]
        container_id = await pod.start(*FOREVER, mounts=mounts)
        sh("mount", "-t", "tmpfs", "none", str(source / "later"))
        try:
            (source / "later" / "file").touch()
            assert await pod.exec(container_id, "ls", "/slave/later") == "file\n"
            assert await pod.exec(container_id, "ls", "/private/later") == ""
        finally:
            sh("umount", str(source / "later"))
    finally:
        sh("umount", "-l", str(source))


async def test_devices(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    device = m.Device(container_path="/dev/mine", host_path="/dev/null", permissions="rw")
    container_id = await pod.start(*FOREVER, devices=[device])
    assert await pod.exec(container_id, "stat", "-c", "%t:%T", "/dev/mine") == "1:3\n"
    await pod.exec(container_id, "sh", "-c", "echo x > /dev/mine")
    # What was not asked for cannot be opened, even where the node can be made.
    made = await cri.exec(container_id, "sh", "-c", "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg")
    assert b"Operation not permitted" in made.stderr
    assert set((await pod.exec(container_id, "ls", "/dev")).split()) >= {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "shm",
        "pts",
        "mqueue",
        "fd",
    }


async def test_limits_reach_the_cgroup(pods: Pods, acri: AcriProcess, cri: Cri) -> None:
    resources = m.LinuxContainerResources(
        cpu_period=100_000,
        cpu_quota=50_000,
        cpu_shares=512,
        memory_limit_in_bytes=64 << 20,
        memory_swap_limit_in_bytes=64 << 20,
        oom_score_adj=900,
        cpuset_cpus="0",
    )
    parent = f"{acri.cgroup_parent}/kubepods/pod-x"
    pod = await pods.run(cgroup_parent=parent)
    container_id = await pod.start(*FOREVER, resources=resources)
    expected = {
        "cpu/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "50000",
        "cpu/cpu.shares": "512",
        "memory/memory.limit_in_bytes": str(64 << 20),
        "cpuset/cpuset.cpus": "0",
    }
    if not Path("/sys/fs/cgroup/memory").exists():
        pytest.skip("the files that are read here are cgroup v1's")
    for name, value in expected.items():
        controller, file = name.split("/")
        path = Path("/sys/fs/cgroup", controller, parent.lstrip("/"), container_id, file)
        assert path.read_text().strip() == value, name
    assert await pod.exec(container_id, "cat", "/proc/1/oom_score_adj") == "900\n"
    assert (await cri.container_status(container_id)).resources.linux == resources


async def test_a_wish_for_less_oom_score_than_allowed_is_raised(pods: Pods) -> None:
    pod = await pods.run()
    lowest = int(Path("/proc/self/oom_score_adj").read_text())
    resources = m.LinuxContainerResources(oom_score_adj=-997)
    score = int(await pod.output("cat", "/proc/self/oom_score_adj", resources=resources))
    assert score in (-997, lowest)


async def test_a_container_ends_up_where_cadvisor_looks(pods: Pods, acri: AcriProcess) -> None:
    """The last element of the cgroup path is the container's id."""
    pod = await pods.run()
    container_id = await pod.start("sleep", "1000")
    (pid,) = [pid for pid in acri.processes() if "sleep" in command_of(pid)]
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = {line.split(":", 2)[2] for line in lines if ":memory:" in line or ":pids:" in line}
    assert {os.path.basename(path) for path in paths} == {container_id}
    assert all(path.startswith(f"{acri.cgroup_parent}/") for path in paths)


async def test_two_containers_do_not_share_their_root(pods: Pods) -> None:
    pod = await pods.run()
    one, two = await pod.start(name="one"), await pod.start(name="two")
    await pod.exec(one, "touch", "/only-here")
    assert (await pod.cri.exec(two, "ls", "/only-here")).exit_code == 1


async def test_ephemeral_container_joins_its_target(cri: Cri, pods: Pods) -> None:
    pod = await pods.run()
    target = await pod.start("sleep", "54321", name="target")
    joined = {"namespace_options": options(pid=TARGET, target=target)}
    assert (await pod.output("cat", "/proc/1/cmdline", security=joined)).startswith("sleep\0")
    await cri.stop(target)
    with pytest.raises(errors.FailedPrecondition):
        await pod.create("true", name="late", security=joined)


async def test_terminal(cri: Cri, pods: Pods) -> None:
    """A terminal's one output is stdout in the log; its line ends are the terminal's."""
    pod = await pods.run()
    _, lines = await pod.run("sh", "-c", "tty; echo err >&2", tty=True)
    assert {line.stream for line in lines} == {"stdout"}
    assert rejoin(lines, "stdout") == b"/dev/pts/0\r\nerr\r\n"


async def test_image_named_by_its_id(cri: Cri, pods: Pods) -> None:
    image = await cri.image(BUSYBOX)
    assert image is not None
    pod = await pods.run()
    for name in (image.id, image.id.removeprefix("sha256:")[:16], image.repo_digests[0]):
        status, _ = await pod.run("true", image=name)
        assert status.image_id == image.id
