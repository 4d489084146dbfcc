# SPDX-License-Identifier: Apache-2.0
"""acri's own log: structlog to stderr, one event per line, ids from the context of the request or operation at hand.

`setup` comes before the first import of a module that logs, so that it is the one who imports structlog: structlog
imports rich wherever that is installed, which costs a daemon 5 MiB for colours that JSON has not.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["setup"]


def setup(level: str, style: str) -> None:
    """Configure structlog once.

    Args:
        level: debug, info, warning or error.
        style: console, json, or auto (console where stderr is a terminal).
    """
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    if console:
        import structlog
    else:
        with _without_rich():
            import structlog
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


@contextmanager
def _without_rich() -> Iterator[None]:
    """Inside, `import rich` fails as if it were not installed, which structlog is prepared for.

    None in `sys.modules` is how Python says that a module must not be imported. It is taken out again: who wants rich
    later (`acri demo`) gets it.
    """
    if "rich" in sys.modules:  # imported already: nothing is left to save
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["rich"]


def _drop_empty(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in event.items() if value is not None}


def _dumps(value: Any, default: Any = None, **_: Any) -> bytes:
    return json.dumps(value, default=default).encode()
