# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oci_samples import container

from acri import errors
from acri.model.config import KeyValue
from acri.model.image import ImageConfig
from acri.oci import process


@pytest.mark.parametrize(
    ("command", "args", "entrypoint", "cmd", "expected"),
    [
        ((), (), ("e",), ("c",), ["e", "c"]),
        ((), ("a",), ("e",), ("c",), ["e", "a"]),
        (("x",), (), ("e",), ("c",), ["x"]),
        (("x",), ("a",), ("e",), ("c",), ["x", "a"]),
        ((), (), (), ("c",), ["c"]),
        ((), (), ("",), ("c",), ["c"]),
        ((), ("a",), (), (), ["a"]),
    ],
)
def test_command_and_args(
    command: tuple[str, ...],
    args: tuple[str, ...],
    entrypoint: tuple[str, ...],
    cmd: tuple[str, ...],
    expected: list[str],
) -> None:
    config = container(command=command, args=args)
    assert process.arguments(config, ImageConfig(entrypoint=entrypoint, cmd=cmd)) == expected


@pytest.mark.parametrize("entrypoint", [(), ("",)])
def test_nothing_to_run(entrypoint: tuple[str, ...]) -> None:
    with pytest.raises(errors.InvalidArgument, match="no command specified"):
        process.arguments(container(), ImageConfig(entrypoint=entrypoint))


def test_environment_order_and_precedence() -> None:
    image = ImageConfig(env=("PATH=/img", "A=1", "B=2", "=bad", "GONE=1", "GONE"))
    config = container(tty=True, envs=(KeyValue("B", "3"), KeyValue("C", "x=y"), KeyValue("A", "")))
    assert process.environment(config, image, "host") == [
        *("PATH=/img", "TERM=xterm", "HOSTNAME=host", "A=", "B=3", "C=x=y"),
    ]
    assert process.environment(container(), ImageConfig(), "") == [f"PATH={process.DEFAULT_PATH}"]


@pytest.mark.parametrize("pair", [KeyValue("", "x"), KeyValue("A=B", "x"), KeyValue("A", "\0"), KeyValue("A\0", "")])
def test_bad_environment(pair: KeyValue) -> None:
    with pytest.raises(errors.InvalidArgument):
        process.environment(container(envs=(pair,)), ImageConfig(), "")


names = st.sampled_from(["A", "B", "C", "PATH", "HOSTNAME", "TERM"])
values = st.text(st.characters(exclude_characters="\0"), max_size=5)


@given(st.lists(st.tuples(names, values)), st.lists(st.tuples(names, values)))
def test_environment_is_a_merge_in_which_the_last_wins(
    of_image: list[tuple[str, str]], of_config: list[tuple[str, str]]
) -> None:
    image = ImageConfig(env=tuple(f"{name}={value}" for name, value in of_image))
    merged = process.environment(container(envs=tuple(KeyValue(*pair) for pair in of_config)), image, "h")
    pairs = [tuple(entry.split("=", 1)) for entry in merged]
    assert len({name for name, _ in pairs}) == len(pairs)
    assert dict(pairs) == {"PATH": process.DEFAULT_PATH, "HOSTNAME": "h", **dict(of_image), **dict(of_config)}


@pytest.mark.parametrize(
    ("of_config", "of_image", "expected"),
    [
        *[("", "", "/"), ("", "/img", "/img"), ("/cfg", "/img", "/cfg"), ("", "rel/dir", "/rel/dir")],
        *[
            ("/a//b/../c/", "", "/a/c"),
            ("//x", "", "/x"),
            ("/proc", "", "/proc"),
            ("/proc/selfish", "", "/proc/selfish"),
        ],
    ],
)
def test_working_dir(of_config: str, of_image: str, expected: str) -> None:
    assert process.working_dir(container(working_dir=of_config), ImageConfig(working_dir=of_image)) == expected


@pytest.mark.parametrize(
    "path",
    [
        "rel",
        "/proc/self/fd/7",
        "//proc/self/fd/7",
        "/x/../proc/thread-self/fd/3",
        "/proc/1/root",
        "/proc/self",
        "/a\0b",
    ],
)
def test_bad_working_dir(path: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        process.working_dir(container(working_dir=path), ImageConfig())
    if path.startswith("/"):
        with pytest.raises(errors.InvalidArgument):
            process.working_dir(container(), ImageConfig(working_dir=path))


def test_oom_score_is_raised_to_what_the_host_allows() -> None:
    assert process.oom_score_adj(-997, -1000) == process.OOMScore(-997, False)
    assert process.oom_score_adj(-997, 0) == process.OOMScore(0, True)
    assert process.oom_score_adj(0, 0) == process.OOMScore(0, False)
    for wanted in (-1001, 1001):
        with pytest.raises(errors.InvalidArgument):
            process.oom_score_adj(wanted, -1000)


def test_exec_keeps_the_privileges_of_the_container() -> None:
    own = {"args": ["a"], "env": ["PATH=/bin"], "user": {"uid": 5}, "capabilities": {"bounding": []}, "terminal": False}
    assert process.exec_process(own, ("ls", "-l"), terminal=False) == {**own, "args": ["ls", "-l"]}
    with_terminal = process.exec_process(own, ("sh",), terminal=True)
    assert with_terminal["env"] == ["PATH=/bin", "TERM=xterm"]
    assert own["env"] == ["PATH=/bin"]
    with pytest.raises(errors.InvalidArgument):
        process.exec_process(own, (), terminal=False)
