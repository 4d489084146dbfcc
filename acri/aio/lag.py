# SPDX-License-Identifier: Apache-2.0
"""How late the event loop is: a heartbeat that notices what blocked it.

Everything that acri answers waits for one loop, so a callback that takes long is a fault even where nothing fails. With
the log at debug, asyncio names the callback itself (`slow_callback_duration`); without, this says at least that it
happened.
"""

from __future__ import annotations

import asyncio

import structlog

__all__ = ["watch"]

log = structlog.get_logger(__name__)

BEAT_S = 0.25
LATE_S = 0.05


async def watch(beat_s: float = BEAT_S, late_s: float = LATE_S) -> None:
    """Log every heartbeat that came more than `late_s` seconds late, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + beat_s
        await asyncio.sleep(beat_s)
        late = loop.time() - due
        if late > late_s:
            log.warning("the event loop was held up", milliseconds=round(late * 1000))
