# SPDX-License-Identifier: Apache-2.0
"""Signals by number, by name ("SIGTERM", "TERM", "15", "RTMIN+3"), and by CRI's enum, whose numbers are its own.

The numbers are Linux's on every architecture but MIPS. Real-time signals are C libraries' user-visible ones: 34 to 64.

References:
    CRI, enum Signal; signal(7); OCI image-spec, config.md, "StopSignal".
"""

from __future__ import annotations

import re

from acri import errors

__all__ = ["SIGKILL", "SIGTERM", "from_cri", "parse", "stop_signal", "to_cri"]

SIGKILL = 9
SIGTERM = 15
_RTMIN = 34
_RTMAX = 64

# CRI's numbers are positions in this list, RUNTIME_DEFAULT being 0. The comment in each line is the first one's number.
_CRI_NAMES = (
    *("RUNTIME_DEFAULT", "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL"),  # 0
    *("INT", "IO", "IOT", "KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV"),  # 10
    *("STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1"),  # 20
    *("USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN"),  # 30
    *(f"RTMIN+{offset}" for offset in range(1, 16)),  # 36
    *(f"RTMAX-{offset}" for offset in range(14, 0, -1)),  # 51
    "RTMAX",  # 65
)

_NUMBERS = {
    "HUP": 1,
    "INT": 2,
    "QUIT": 3,
    "ILL": 4,
    "TRAP": 5,
    "ABRT": 6,
    "IOT": 6,
    "BUS": 7,
    "FPE": 8,
    "KILL": 9,
    "USR1": 10,
    "SEGV": 11,
    "USR2": 12,
    "PIPE": 13,
    "ALRM": 14,
    "TERM": 15,
    "STKFLT": 16,
    "CHLD": 17,
    "CLD": 17,
    "CONT": 18,
    "STOP": 19,
    "TSTP": 20,
    "TTIN": 21,
    "TTOU": 22,
    "URG": 23,
    "XCPU": 24,
    "XFSZ": 25,
    "VTALRM": 26,
    "PROF": 27,
    "WINCH": 28,
    "IO": 29,
    "POLL": 29,
    "PWR": 30,
    "SYS": 31,
    "RTMIN": _RTMIN,
    "RTMAX": _RTMAX,
}

_REAL_TIME = re.compile(r"RT(?:MIN\+|MINPLUS|MAX-|MAXMINUS)([0-9]{1,2})", re.ASCII)


def parse(text: str) -> int:
    """A signal's number from its name, with or without SIG, in any case, or from its number.

    Raises:
        InvalidArgument: no such signal.
    """
    name = text.strip().upper()
    if name.isascii() and name.isdigit() and len(name) <= 3:
        number = int(name)
        if 1 <= number <= _RTMAX:
            return number
    name = name.removeprefix("SIG")
    if name in _NUMBERS:
        return _NUMBERS[name]
    match = _REAL_TIME.fullmatch(name)
    if match:
        offset = int(match[1])
        number = _RTMIN + offset if name.startswith("RTMIN") else _RTMAX - offset
        if _RTMIN <= number <= _RTMAX:
            return number
    raise errors.InvalidArgument(f"unknown signal {text!r}")


def from_cri(value: int) -> int:
    """The number of a CRI signal; 0 (RUNTIME_DEFAULT) stays 0: nothing was asked for.

    Raises:
        InvalidArgument: a value that the enum does not have.
    """
    if value == 0:
        return 0
    if not 0 < value < len(_CRI_NAMES):
        raise errors.InvalidArgument(f"unknown stop signal {value}")
    return parse(_CRI_NAMES[value])


# Of two names for one signal CRI's first wins, as for containerd: ABRT before IOT, CHLD before CLD, IO before POLL.
_TO_CRI = {from_cri(value): value for value in reversed(range(1, len(_CRI_NAMES)))}


def to_cri(number: int) -> int:
    """The CRI signal of a number; 0 (RUNTIME_DEFAULT) for what the enum lacks."""
    return _TO_CRI.get(number, 0)


def stop_signal(cri: int, image: str) -> int:
    """What stops a container: the request's signal, else the image's StopSignal, else SIGTERM.

    A StopSignal that is no signal counts as none: an image must not be able to make its containers unstoppable.

    Raises:
        InvalidArgument: the request's is unknown.
    """
    wanted = from_cri(cri)
    if wanted:
        return wanted
    try:
        return parse(image) if image else SIGTERM
    except errors.InvalidArgument:
        return SIGTERM
