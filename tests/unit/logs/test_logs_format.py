# SPDX-License-Identifier: Apache-2.0
"""CRI log lines: the block formatter against a slow one that goes byte by byte, and the strict reader."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acri.logs.format import (
    EMPTY_TAIL,
    MAX_PIECE,
    LogFormatError,
    Record,
    Stream,
    format_block,
    format_tail,
    format_time,
    parse_line,
    parse_records,
    rejoin,
)

T0 = 1_700_000_000_000_000_001


def reference(data: bytes, limit: int) -> list[tuple[bool, bytes]]:
    """(partial, content) of a whole stream, the obvious way."""
    records, line = [], b""
    for i in range(len(data)):
        byte = data[i : i + 1]
        if byte == b"\n":
            records.append((False, line))
            line = b""
            continue
        if len(line) == limit:
            records.append((True, line))
            line = b""
        line += byte
    if line:
        records.append((True, line))
    return records


def run(blocks: list[bytes], limit: int, stream: Stream = "stdout") -> bytes:
    out, tail = b"", EMPTY_TAIL
    for number, block in enumerate(blocks):
        pieces, tail = format_block(stream, T0 + number, block, tail, limit)
        out += b"".join(pieces)
        assert not out or out.endswith(b"\n")
        assert len(tail.rest) <= limit
        assert not tail.open or tail.rest
        last = list(parse_records(out))[-1:]
        assert tail.open == bool(last and last[0].partial)
    return out + format_tail(stream, T0 + len(blocks), tail)


chunk = st.one_of(
    st.binary(max_size=40),
    st.text("ab\n", max_size=60).map(str.encode),
    st.tuples(st.sampled_from([b"x", b"\n", b"\0", b"\r\n", b"\xff"]), st.integers(0, 50)).map(lambda t: t[0] * t[1]),
)


@given(st.lists(chunk, max_size=8), st.integers(1, 24))
@settings(max_examples=600)
def test_any_split_of_any_bytes_equals_the_slow_reference(blocks: list[bytes], limit: int) -> None:
    blocks = [block for block in blocks if block]
    data = b"".join(blocks)
    records = list(parse_records(run(blocks, limit), limit))
    assert [(r.partial, r.content) for r in records] == reference(data, limit)
    assert rejoin(records)["stdout"] == data
    assert [r.time_ns for r in records] == sorted(r.time_ns for r in records)


@pytest.mark.parametrize("length", [0, 1, MAX_PIECE - 1, MAX_PIECE, MAX_PIECE + 1, 2 * MAX_PIECE, 2 * MAX_PIECE + 1])
@pytest.mark.parametrize("cut", [1, MAX_PIECE, MAX_PIECE + 1, 10**6])
def test_lines_around_the_limit(length: int, cut: int) -> None:
    data = b"x" * length + b"\nnext\n"
    blocks = [data[i : i + cut] for i in range(0, len(data), cut)]
    if len(blocks) > 100:
        blocks = [data[:1], data[1:]]
    assert [(r.partial, r.content) for r in parse_records(run(blocks, MAX_PIECE))] == reference(data, MAX_PIECE)


def test_the_exact_bytes() -> None:
    pieces, tail = format_block("stderr", 1_700_000_000_000_000_007, b"a\n\nb \r\nrest")
    prefix = b"2023-11-14T22:13:20.000000007Z stderr F "
    assert b"".join(pieces) == prefix + b"a\n" + prefix + b"\n" + prefix + b"b \r\n"
    assert tail.rest == b"rest"
    assert format_tail("stderr", 0, tail) == b"1970-01-01T00:00:00.000000000Z stderr P rest\n"
    assert format_tail("stderr", 0, EMPTY_TAIL) == b""


@given(st.integers(0, 253402300799999999999), st.sampled_from(["stdout", "stderr"]), st.booleans(), st.binary())
def test_what_is_written_is_read(time_ns: int, stream: Stream, partial: bool, content: bytes) -> None:
    content = content.replace(b"\n", b"")
    line = b"%s %s %s %s\n" % (format_time(time_ns), stream.encode(), b"P" if partial else b"F", content)
    assert parse_line(line) == Record(time_ns, stream, partial, content)
    written = datetime.datetime.fromisoformat(line[:19].decode() + "+00:00")
    assert int(written.timestamp()) == time_ns // 10**9


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("2020-02-29T00:00:00Z", 1582934400 * 10**9),
        ("2020-02-29T01:30:00.5+01:30", 1582934400 * 10**9 + 500_000_000),
        ("2020-02-28T22:00:00.000000001-02:00", 1582934400 * 10**9 + 1),
    ],
)
def test_other_writers_times(text: str, time_ns: int) -> None:
    assert parse_line(f"{text} stdout F:extra x\n".encode()) == Record(time_ns, "stdout", False, b"x")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"2020-02-29T00:00:00Z stdout F x",
        b"2020-02-29T00:00:00Z stdout F\n",
        b"2020-02-29T00:00:00Z stdout X x\n",
        b"2020-02-29T00:00:00Z stdin F x\n",
        b"2020-02-29 00:00:00Z stdout F x\n",
        b"2020-02-29T00:00:00 stdout F x\n",
        b"2021-02-29T00:00:00Z stdout F x\n",
        b"2020-13-01T00:00:00Z stdout F x\n",
        b"2020-02-29T24:00:00Z stdout F x\n",
        b"2020-02-29T00:00:00+99:00 stdout F x\n",
        b"2020-02-29T00:00:00.0123456789Z stdout F x\n",
        b"0000-02-29T00:00:00Z stdout F x\n",
        b" 2020-02-29T00:00:00Z stdout F x\n",
        b"2020-02-29T00:00:00Z stdout F x\ny\n",
    ],
)
def test_what_is_refused(line: bytes) -> None:
    with pytest.raises(LogFormatError):
        parse_line(line)


def test_limit_and_torn_file() -> None:
    line = b"2020-02-29T00:00:00Z stdout F 12345\n"
    assert parse_line(line, 5).content == b"12345"
    with pytest.raises(LogFormatError):
        parse_line(line, 4)
    with pytest.raises(LogFormatError):
        list(parse_records(line + line[:-1]))


@given(st.binary(max_size=80))
def test_the_reader_only_raises_its_own_error(data: bytes) -> None:
    try:
        list(parse_records(data))
    except LogFormatError:
        pass
