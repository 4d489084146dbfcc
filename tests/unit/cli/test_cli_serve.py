# SPDX-License-Identifier: Apache-2.0
"""`acri serve`, as far as it gets without containerd: what it imports, what it makes of its options, how it ends."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from acri.cli import serve
from acri.errors import ConfigError

HEAVY = ("aiohttp", "cryptography", "jsonschema", "prometheus_client", "rich", "websockets", "zstandard")
"""What a daemon needs sometimes or never, and pays for with megabytes (DESIGN: imported inside functions)."""


def python(code: str, *, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter whose stderr is no terminal."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def test_the_daemon_imports_nothing_heavy() -> None:
    done = python(
        "import sys, json\n"
        "from acri.cli import log, main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "log.setup('info', 'auto')\n"
        "import uvloop, acri.daemon\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "acri.daemon" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_and_mistakes_import_neither_the_daemon_nor_the_log() -> None:
    done = python(
        "import sys\n"
        "from acri.cli import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('acri.daemon', 'structlog', 'grpclib', 'uvloop') if name in sys.modules])\n"
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_rich_can_still_be_imported_after_the_log_was_set_up() -> None:
    pytest.importorskip("rich")
    done = python("from acri.cli import log\nlog.setup('info', 'json')\nimport rich, rich.console\nprint('here')\n")
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


def test_the_json_log_has_one_line_per_event_and_tracebacks_in_it() -> None:
    done = python(
        "from acri.cli import log\n"
        "log.setup('info', 'auto')\n"
        "import structlog\n"
        "logger = structlog.get_logger('x')\n"
        "logger.debug('unheard')\n"
        "logger.info('heard', a=1, b=None)\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: logger.exception('failed')\n"
    )
    heard, failed = map(json.loads, done.stderr.splitlines())
    assert (heard["event"], heard["a"], "b" in heard, heard["level"]) == ("heard", 1, False, "info")
    assert "ZeroDivisionError" in failed["exception"]


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"config": None, "socket": None, "log_level": None, **given})


def test_a_relative_socket_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("[log]\nlevel = 'error'\n")
    settings = serve._settings(options(config=tmp_path / "c.toml", socket="run/../acri.sock", log_level="debug"))
    assert settings.socket == f"{tmp_path}/acri.sock"
    assert settings.log.level == "debug"
    with pytest.raises(ConfigError, match="--socket is empty"):
        serve._settings(options(config=tmp_path / "c.toml", socket=""))


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    done = python(
        "import sys, threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from acri.cli import serve\n"
        "pool = ThreadPoolExecutor(1)\n"
        "begun = threading.Event()\n"
        "pool.submit(lambda: (begun.set(), time.sleep(3600)))\n"
        "begun.wait()\n"
        "pool.shutdown(wait=False)\n"
        "sys.stdout.write('last words')\n"  # in the buffer
        "serve._leave(3)\n"
    )
    assert (done.returncode, done.stdout) == (3, "last words")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to get as far")
def test_a_daemon_that_cannot_start_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "c.toml").write_text(f"root_dir = '{tmp_path}/file/x'\n")
    done = subprocess.run(
        [sys.executable, "-m", "acri", "serve", "--config", str(tmp_path / "c.toml")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith(f"acri serve: {tmp_path}/file/x")
    assert line.endswith("Not a directory")
