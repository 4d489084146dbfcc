# SPDX-License-Identifier: Apache-2.0
"""Steps and tables on the terminal: by rich where it is installed (`pip install acri[cli]`), else as aligned text."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Report", "make"]

_NAME_WIDTH = 24


class Report(Protocol):
    """Where a command shows its progress."""

    def begin(self, name: str) -> None:
        """A step has begun; shown only where the line can be replaced later."""

    def end(self, name: str, detail: str, seconds: float, *, ok: bool) -> None:
        """It has ended."""

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """All columns but the first are flushed right."""

    def say(self, text: str) -> None: ...


def make() -> Report:
    """The best that this terminal and this installation can do."""
    return _Rich() if importlib.util.find_spec("rich") is not None else _Plain()


class _Plain:
    def begin(self, name: str) -> None:
        pass

    def end(self, name: str, detail: str, seconds: float, *, ok: bool) -> None:
        self.say(f"{'ok' if ok else 'FAILED':<6}  {seconds * 1000:7.1f} ms  {name:<{_NAME_WIDTH}}  {detail}")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        self.say(f"\n{title}")
        for row in (header, ["-" * width for width in widths], *rows):
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            self.say("  ".join(cells))

    def say(self, text: str) -> None:
        print(text, flush=True)


class _Rich:
    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        self._status: Any = None

    def begin(self, name: str) -> None:
        if self._console.is_terminal:
            self._status = self._console.status(f"{name} …")
            self._status.start()

    def end(self, name: str, detail: str, seconds: float, *, ok: bool) -> None:
        from rich.text import Text

        if self._status is not None:
            self._status.stop()
            self._status = None
        self._console.print(
            Text.assemble(
                (f"{'ok' if ok else 'FAILED':<6}", "green" if ok else "bold red"),
                (f"  {seconds * 1000:7.1f} ms  ", "dim"),
                (f"{name:<{_NAME_WIDTH}}", "bold"),
                f"  {detail}",
            )
        )

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)
