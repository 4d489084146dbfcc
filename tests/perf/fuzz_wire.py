#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fuzzes acri.wire with changed messages of every CRI, containerd and test class; a longer run of test_wire_hostile.py.

    .venv/bin/python tests/perf/fuzz_wire.py [--count 100000] [--seed N]

Every outcome must be a message (which encodes, and decodes to the same bytes again) or a WireError. Exit code 1 and the
bytes in hex at the first one that is neither.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit" / "wire")]

from wire_oracle import Pair, build, describe, fill, oracle_classes, pairs  # noqa: E402

from acri.wire import WireError, decode, encode  # noqa: E402


def classes(tmp: Path) -> list[Pair]:
    protos = ROOT / "protos"
    files = sorted(p.relative_to(protos).as_posix() for p in protos.rglob("*.proto"))
    described = describe(files, protos, out=tmp / "protos.pb")
    return [
        *build(ROOT / "tests/unit/wire/wiretest.proto", tmp),
        *pairs(oracle_classes(described), "acri.proto."),
    ]


def change(rng: random.Random, data: bytes) -> bytes:
    """One to four of: a byte replaced, a bit flipped, bytes cut out, doubled or put in."""
    bad = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(bad) or 1)
        match rng.randrange(5):
            case 0:
                bad[at : at + 1] = bytes((rng.randrange(256),))
            case 1 if bad:
                bad[at] ^= 1 << rng.randrange(8)
            case 2:
                del bad[at : at + rng.randrange(1, 9)]
            case 3:
                bad[at:at] = bad[at : at + rng.randrange(1, 33)]
            case _:
                bad[at:at] = rng.randbytes(rng.randrange(1, 6))
    return bytes(bad)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz acri.wire.")
    parser.add_argument("--count", type=int, default=100_000, help="changed messages in all")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    rng, refused, begin = random.Random(options.seed), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as tmp:
        targets = classes(Path(tmp))
        for i in range(options.count):
            if i % 20 == 0:
                pair = rng.choice(targets)
                data = fill(rng, pair.theirs(), depth=3, chance=rng.choice((0.3, 0.5, 1.0))).SerializeToString()[:4000]
            bad, keep = change(rng, data), rng.random() < 0.5
            try:
                message = decode(pair.ours, bad, keep_unknown=keep)
                again = encode(message)
                if encode(decode(pair.ours, again, keep_unknown=True)) != again:
                    raise AssertionError("encodes differently the second time")
            except WireError:
                refused += 1
            except Exception as error:
                print(f"seed {options.seed}, {pair.name}, {type(error).__name__}: {error}\n{bad.hex()}")
                return 1
    took = time.perf_counter() - begin
    print(f"{options.count} messages of {len(targets)} classes in {took:.1f} s, seed {options.seed}:", end=" ")
    print(f"{refused} refused, no other error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
