# SPDX-License-Identifier: Apache-2.0
"""Rules that the CNI plugins `bridge` and `portmap` leave in iptables when a pod could not be taken down in order.

Both plugins comment their rules with `name: "NETWORK" id: "CONTAINER"` and keep what a rule does in a chain of its own,
`CNI-…`. So the rules of a network are those with its name in the comment, and the chains are those that they jump to,
and those that these jump to.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

__all__ = ["remove", "rules"]

_TABLES = ("nat", "filter")
_TIMEOUT_S = 30.0
_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def rules(network: str) -> list[str]:
    """The rules of a network as `TABLE RULE`, by iptables-save; none where there is no iptables."""
    return [f"{table} {rule}" for table in _TABLES for rule in _mine(_saved(table), network)]


def _mine(saved: list[str], network: str) -> list[str]:
    """Those of the saved lines that carry the network's name in a comment."""
    named = re.compile(rf'name: \\"{re.escape(network)}\\"')
    return [line for line in saved if line.startswith("-A ") and named.search(line)]


def remove(network: str) -> None:
    """Remove the rules of a network, and then their chains. What cannot be removed is found by `rules` afterwards."""
    for table in _TABLES:
        saved = _saved(table)
        mine = _mine(saved, network)
        chains = _chains(saved, mine)
        for line in mine:
            words = shlex.split(line)
            if words[1] not in chains:  # what is in a chain of the network's goes with it
                _iptables("-t", table, "-D", *words[1:])
        for chain in chains:
            _iptables("-t", table, "-F", chain)
        for chain in chains:
            _iptables("-t", table, "-X", chain)


def _chains(saved: list[str], mine: list[str]) -> list[str]:
    """The chains that belong to the rules `mine` alone: those named `CNI-HASH`, `CNI-DN-HASH`, `CNI-SN-HASH`."""
    own = re.compile(r"CNI-(?:DN-|SN-)?[0-9a-f]{16,}")
    found: list[str] = []
    for line in mine:
        words = shlex.split(line)
        chain = words[1]
        target = words[words.index("-j") + 1] if "-j" in words else ""
        found += [name for name in (chain, target) if own.fullmatch(name) and name not in found]
    declared = {line[1:].split(" ")[0] for line in saved if line.startswith(":")}
    return [name for name in found if name in declared]


def _saved(table: str) -> list[str]:
    return _run("iptables-save", "-t", table).splitlines()


def _iptables(*arguments: str) -> None:
    _run("iptables", "-w", "10", *arguments)


def _run(program: str, *arguments: str) -> str:
    path = shutil.which(program, path=_SEARCH)
    if path is None:
        return ""
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    return done.stdout
