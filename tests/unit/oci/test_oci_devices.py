# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from acri import errors
from acri.model.config import Device
from acri.oci.devices import DeviceInputs, HostDevice, ResolvedDevice, build

FUSE = HostDevice("/dev/fuse", "c", 10, 229, 0o20666, 0, 0)
DISK = HostDevice("/dev/sda", "b", 8, 0, 0o660, 0, 6)
DENY = {"allow": False, "access": "rwm"}
ALL = {"allow": True, "access": "rwm"}


def test_nothing_asked_for() -> None:
    made = build(DeviceInputs(host_devices=(FUSE,)))
    assert (made.nodes, made.rules) == ([], [DENY])


def test_one_device_under_another_name() -> None:
    wish = ResolvedDevice(Device("/dev/f", "/dev/fuse-link", "rw"), "/dev/fuse", (FUSE,))
    made = build(DeviceInputs((wish,)))
    assert made.nodes == [
        {"path": "/dev/f", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0, "gid": 0}
    ]
    assert made.rules == [DENY, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]


def test_defaults_of_path_and_permissions() -> None:
    made = build(DeviceInputs((ResolvedDevice(Device("", "/dev/fuse", ""), "/dev/fuse", (FUSE,)),)))
    assert made.nodes[0]["path"] == "/dev/fuse"
    assert made.rules[1]["access"] == "rwm"


def test_a_directory_is_all_devices_below() -> None:
    below = (replace(FUSE, path="/dev/real/a"), replace(DISK, path="/dev/real/sub/b"))
    made = build(DeviceInputs((ResolvedDevice(Device("/dev/x/", "/dev/link", "r"), "/dev/real", below),)))
    assert [node["path"] for node in made.nodes] == ["/dev/x/a", "/dev/x/sub/b"]
    assert len(made.rules) == 3


def test_privileged_has_them_all_unless_the_handler_says_otherwise() -> None:
    wish = ResolvedDevice(Device("/dev/sda", "/dev/fuse", "r"), "/dev/fuse", (FUSE,))
    inputs = DeviceInputs((wish,), privileged=True, host_devices=(FUSE, DISK))
    made = build(inputs)
    assert [(node["path"], node["major"]) for node in made.nodes] == [("/dev/sda", 10), ("/dev/fuse", 10)]
    assert made.rules[0] == DENY
    assert made.rules[-1] == ALL
    without = build(replace(inputs, privileged_without_host_devices=True))
    assert [node["path"] for node in without.nodes] == ["/dev/sda"]
    assert ALL not in without.rules


def test_owner_from_the_security_context() -> None:
    made = build(DeviceInputs((ResolvedDevice(Device("", "/dev/sda", ""), "/dev/sda", (DISK,)),), owner=(1000, 0)))
    assert (made.nodes[0]["uid"], made.nodes[0]["gid"]) == (1000, 6)


@pytest.mark.parametrize(
    "device",
    [
        Device("/dev/x", "/dev/x", "rwx"),
        Device("/dev/x", "/dev/x", "rr"),
        Device("/dev/x", "", "r"),
        Device("/dev/x", "dev/x", "r"),
        Device("/dev/../x", "/dev/x", "r"),
        Device("x", "/dev/x", "r"),
    ],
)
def test_bad_devices(device: Device) -> None:
    with pytest.raises(errors.InvalidArgument):
        build(DeviceInputs((ResolvedDevice(device, device.host_path, (FUSE,)),)))


def test_no_device_there() -> None:
    with pytest.raises(errors.InvalidArgument, match="/dev/none"):
        build(DeviceInputs((ResolvedDevice(Device("", "/dev/none", ""), "/dev/none", ()),)))
