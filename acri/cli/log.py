# SPDX-License-Identifier: Apache-2.0
"""acri's own log: structlog to stderr, one event per line, ids from the context of the request or operation at hand."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import structlog

__all__ = ["setup"]


def setup(level: str, style: str) -> None:
    """Configure structlog once.

    Args:
        level: debug, info, warning or error.
        style: console, json, or auto (console where stderr is a terminal).
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
        _drop_empty,
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    # grpclib, asyncio and aiohttp log through the standard library; what they say of errors is worth a line here too.
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def _drop_empty(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if value is not None}


def _dumps(value: Any, default: Any = None, **_: Any) -> bytes:
    return json.dumps(value, default=default).encode()
