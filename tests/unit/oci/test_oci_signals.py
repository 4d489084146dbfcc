# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acri import errors
from acri.oci import signals

PROTO = Path(__file__).parents[3] / "protos/runtime/v1/api.proto"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *[("SIGTERM", 15), ("TERM", 15), ("15", 15), ("sigint", 2), (" QUIT ", 3), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)],
        *[("SIGRTMIN", 34), ("SIGRTMAX", 64), ("SIGRTMINPLUS15", 49), ("SIGRTMAXMINUS14", 50), ("64", 64)],
    ],
)
def test_names(text: str, number: int) -> None:
    assert signals.parse(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "SIG", "SIGFOO", "RTMIN+31", "RTMAX-31", "٣", "9" * 5000, "1.5"])
def test_no_signals(text: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        signals.parse(text)
    assert signals.stop_signal(0, text) == signals.SIGTERM


def test_names_are_this_kernels() -> None:
    for known in signal.Signals:
        assert signals.parse(known.name) == known.value
        assert signals.parse(str(known.value)) == known.value


def test_every_value_of_cris_enum() -> None:
    body = PROTO.read_text().split("enum Signal {")[1].split("}")[0]
    values = {name: int(value) for name, value in re.findall(r"(\w+) = (\d+);", body)}
    assert values.pop("RUNTIME_DEFAULT") == 0
    assert len(values) == 65
    for name, value in values.items():
        assert signals.from_cri(value) == signals.parse(name)
        assert signals.from_cri(signals.to_cri(signals.parse(name))) == signals.parse(name)
    assert (signals.from_cri(0), signals.to_cri(0), signals.to_cri(999)) == (0, 0, 0)
    for bad in (-1, 66, 1 << 31):
        with pytest.raises(errors.InvalidArgument):
            signals.from_cri(bad)


def test_who_decides() -> None:
    assert signals.stop_signal(0, "") == 15
    assert signals.stop_signal(0, "SIGQUIT") == 3
    assert signals.stop_signal(10, "SIGQUIT") == 2
    with pytest.raises(errors.InvalidArgument):
        signals.stop_signal(99, "")


@given(st.text(max_size=12))
def test_any_text_is_a_signal_or_an_error(text: str) -> None:
    try:
        assert 1 <= signals.parse(text) <= 64
    except errors.InvalidArgument:
        pass
