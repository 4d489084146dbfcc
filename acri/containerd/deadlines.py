# SPDX-License-Identifier: Apache-2.0
"""How long each kind of call to containerd may take: the one place where that is said.

Every call has a deadline but three: `Tasks.Wait` and `Events.Subscribe`, which answer when something happens, and the
transfer of content, which is as slow as a registry (its caller watches the progress). Figures are what a loaded node
with a slow disk still meets, not what is usual (0.5 ms a call).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deadlines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds, retries included."""

    version: float = 5.0
    """Also what tells a stuck containerd from a slow one."""
    read: float = 10.0
    """From containerd's database or memory."""
    list: float = 30.0
    write: float = 20.0
    """One transaction of its database."""
    collect: float = 300.0
    """A synchronous garbage collection: it removes snapshots and blobs, however many there are."""
    snapshot: float = 60.0
    """Prepare, commit, remove: file systems are made, renamed and unlinked."""
    apply: float = 1800.0
    """Unpacking one layer."""
    task_create: float = 120.0
    """Starts a shim and runs `runc create`, hooks included."""
    task: float = 60.0
    """What runs the OCI runtime once: start, exec, kill, delete, update."""
    task_read: float = 10.0
    checkpoint: float = 600.0
