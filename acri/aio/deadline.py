# SPDX-License-Identifier: Apache-2.0
"""The deadline of the request at hand, as a context variable.

The RPC layer sets it from `grpc-timeout`; whoever waits for a detached operation reads it, so that the caller gets an
error that says what the time was spent on, a moment before its own deadline passes. Operations themselves run without.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

__all__ = ["current", "remaining"]

current: ContextVar[float | None] = ContextVar("acri_deadline", default=None)
"""Deadline of the request at hand on `time.monotonic()`'s clock in seconds, None without one."""


def remaining() -> float | None:
    """Seconds that the request at hand may still take, never negative; None without a deadline."""
    deadline = current.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())
