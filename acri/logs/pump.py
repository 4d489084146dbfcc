# SPDX-License-Identifier: Apache-2.0
"""The log of one container, on the event loop: when to copy, and what to do when the log does not take it.

    attach(stream) ──▶ WATCHED ◀──────────── step: EMPTY ─────────────┐
                          │ the FIFO is readable, or its writers left │
                          ▼                                           │
                        READY ──turn: one step in a log thread────────┤
                          ▲                                           ├─ MORE ──▶ READY
                          │                                           ├─ STALLED ─▶ READY after a pause
                          └── drain: everybody is ready ──────────────┴─ EOF ──▶ ENDED

All streams of a container share one turn: a single task that exists only while some stream is ready, and takes one
step at a time. So one block of the container is in flight, the two streams cannot race for the end of the file, and an
idle container costs its descriptors and nothing else. A stalled log (disk full, input/output error, directory gone)
leaves the bytes in the FIFO, where they hold up their writer and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from acri import errors
from acri.aio.tasks import TaskOwner
from acri.logs.copier import Copier, Status, Step
from acri.logs.file import open_error
from acri.logs.format import Stream
from acri.logs.scratch import ScratchPool, Tee

__all__ = ["ContainerLog", "LogKit", "RunInThread", "Subscriber"]

log = structlog.get_logger(__name__)

# How long a rotation waits for the end of a line that is in the file as P already (ReopenContainerLog is to be quick).
LINE_END_WAIT_S = 0.1
# How long a stream waits for the other one to finish such a line, so that the pieces of a line stand together.
HOLD_S = 0.25
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
# What a last step may take after a drain's time is over, if its disk hangs.
LAST_STEP_S = 2.0

Subscriber = Callable[[Stream, bytes], None]


class RunInThread(Protocol):
    """`fn(*args, **kwargs)` in a log thread: `functools.partial(threads.run, Kind.LOG)`."""

    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class LogKit:
    """What all container logs of a daemon share. `close` it after the last of them."""

    run_in_thread: RunInThread
    tee: Tee
    tasks: TaskOwner
    scratch: ScratchPool = field(default_factory=ScratchPool)

    def close(self) -> None:
        self.scratch.close()


class ContainerLog:
    """Copies a container's stdout and stderr to its log file, and to whoever attaches."""

    def __init__(self, kit: LogKit, container_id: str, *, log_path: str | None, mark_path: str | None) -> None:
        """`log_path` absolute, its directory made by the caller; None consumes and discards.

        `mark_path` is a file of this container on a tmpfs, removed by the caller with the container; None forgets at a
        restart.
        """
        self.container_id = container_id
        self.log_path = log_path
        self._kit = kit
        self._log = log.bind(container_id=container_id)
        self._copier = Copier(container_id, log_path, mark_path, kit.tee, kit.scratch)
        self._fds: dict[Stream, int] = {}
        self._live: set[Stream] = set()
        self._ready: list[Stream] = []
        self._final: set[Stream] = set()
        self._running = False  # open() was called
        self._draining = False
        self._closed = False
        self._turn: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause_s = 0.0  # the pause before the next try; 0 while all is well
        self._holder: tuple[Stream, float] | None = None  # whose line is open in the file, and until when others wait
        self._ended = asyncio.Event()
        self._subscribers: list[Subscriber] = []

    # ------------------------------------------------------------------------------------------------ life

    async def attach(self, stream: Stream, fifo_path: str) -> None:
        """Open the FIFO of a stream for reading, before the shim opens it for writing.

        On recovery, before `open`. Raises FailedPrecondition if there is no such FIFO, ResourceExhausted when the
        host is out of something.
        """
        try:
            fd = await self._kit.run_in_thread(self._copier.attach, stream, fifo_path)
        except OSError as error:
            raise open_error(error, error.filename or fifo_path) from error
        self._fds[stream] = fd
        self._live.add(stream)
        self._ended.clear()
        if self._running:
            self._make_ready(stream)

    async def open(self, *, recovering: bool = False) -> None:
        """Open (make, if missing) the log file and begin to copy.

        Raises what `open_error` says: FailedPrecondition, PermissionDenied, ResourceExhausted, UnknownError. With
        `recovering` an error is only logged, and tried again: a running container is worth more than its log.
        """
        try:
            await self._kit.run_in_thread(self._copier.open)
        except OSError as error:
            if not recovering:
                raise open_error(error, self.log_path or "") from error
        self._running = True
        for stream in self._fds:
            self._make_ready(stream)

    def fifo_fd(self, stream: Stream) -> int:
        """The read end, for systemd's fd store: a second holder keeps the FIFO's content while acri is away."""
        return self._fds[stream]

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber(stream, data)` on the loop with everything copied from now on; returns the way out.

        `data` is raw output, already in the log; empty once at the end of the stream. The subscriber must not block;
        it bounds its own queue.
        """
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    async def reopen(self) -> None:
        """ReopenContainerLog: go over to a (new) file at the log path.

        On return the file exists, and nothing more is written to the one that was there before. The change falls on a
        line's end; a line over 16 KiB that does not end within 0.1 s goes on in the new file. Works as often as it is
        called, also after the streams have ended. On an error, raised as from `open`, the old file stays in use.
        """
        if self._closed or not self._running:
            raise errors.FailedPrecondition(f"container {self.container_id} has no open log")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LINE_END_WAIT_S
        try:
            while True:
                if await self._kit.run_in_thread(self._copier.reopen, at_line_end=loop.time() < deadline):
                    break
                await asyncio.sleep(0.005)
        except OSError as error:
            raise open_error(error, self.log_path or "") from error
        self._retry_now()

    async def drain(self, timeout_s: float) -> bool:
        """After the process has exited: wait until all output is in the log; True if it ended by itself.

        After `timeout_s` (a background child holds the FIFO, or the log is stalled) what is there is taken, and the
        streams count as ended.
        """
        self._draining = True
        if not self._live or not self._running:
            return True
        self._retry_now()
        if await self._all_ended(timeout_s):
            return True
        self._final.update(self._live)
        self._retry_now()
        if not await self._all_ended(LAST_STEP_S):
            self._log.warning("log output lost", reason="the log took no more until the drain was over")
            for stream in list(self._live):
                self._end(stream)
        return False

    async def _all_ended(self, timeout_s: float) -> bool:
        for stream in list(self._live):
            self._make_ready(stream)
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return not self._live
        return True

    async def close(self) -> None:
        """Stop copying and give back all descriptors. What is in the FIFOs and in the mark stays for a successor."""
        if self._closed:
            return
        self._closed = True
        for stream in list(self._live):
            asyncio.get_running_loop().remove_reader(self._fds[stream])
        self._ready.clear()
        self._cancel_timer()
        if self._turn is not None:
            _, hanging = await asyncio.wait([self._turn], timeout=LAST_STEP_S)
            if hanging:  # in a system call on a dead disk: its descriptors cannot be closed under it
                self._log.warning("log thread hangs, its descriptors stay open", path=self.log_path)
                return
        await self._kit.run_in_thread(self._copier.close)

    # ------------------------------------------------------------------------------------------------ readiness

    def _watch(self, stream: Stream) -> None:
        asyncio.get_running_loop().add_reader(self._fds[stream], self._make_ready, stream)

    def _make_ready(self, stream: Stream) -> None:
        if self._closed or stream not in self._live:
            return
        # The FIFO stays readable until the step is over: without this the loop would spin meanwhile.
        asyncio.get_running_loop().remove_reader(self._fds[stream])
        if stream not in self._ready:
            self._ready.append(stream)
        self._wake()

    def _wake(self) -> None:
        if self._closed or self._timer is not None:
            return
        if self._turn is None or self._turn.done():
            self._turn = self._kit.tasks.spawn(self._take_turns(), name=f"log {self.container_id[:12]}")

    def _wake_after(self, pause_s: float) -> None:
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._retry_now)

    def _retry_now(self) -> None:
        self._cancel_timer()
        if self._ready:
            self._wake()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ------------------------------------------------------------------------------------------------ turns

    async def _take_turns(self) -> None:
        while self._ready and self._timer is None and not self._closed:
            stream = self._choose()
            if stream is None:
                self._wake_after(0.01)
                return
            self._ready.remove(stream)
            self._settle(stream, await self._step(stream))

    async def _step(self, stream: Stream) -> Step:
        try:
            step: Step = await self._kit.run_in_thread(
                self._copier.step,
                stream,
                ending=self._draining,
                final=stream in self._final,
                want_chunks=bool(self._subscribers),
            )
        except Exception as error:  # a bug must not leave the container blocked on a full FIFO for ever
            self._log.exception("log step failed", stream=stream)
            return Step(Status.STALLED, error=OSError(str(error)))
        return step

    def _choose(self) -> Stream | None:
        """The next stream: who has a line open in the file goes first; the other waits for it, but not for ever."""
        if self._holder is not None:
            holder, until = self._holder
            if holder in self._ready:
                if asyncio.get_running_loop().time() < until:
                    return holder
            elif holder in self._live and asyncio.get_running_loop().time() < until:
                return None
        return self._ready[0]

    def _settle(self, stream: Stream, step: Step) -> None:
        for name, data in step.chunks:
            self._publish(name, data)
        if step.line_open and step.status is not Status.EOF:
            if self._holder is None or self._holder[0] != stream:
                self._holder = (stream, asyncio.get_running_loop().time() + HOLD_S)
        elif self._holder is not None and self._holder[0] == stream:
            self._holder = None
        if step.status is not Status.STALLED and self._pause_s:
            self._pause_s = 0.0
            self._log.info("log is written again")
        if self._closed or stream not in self._live:
            return
        match step.status:
            case Status.MORE:
                self._make_ready(stream)
            case Status.EMPTY if stream in self._final:
                self._make_ready(stream)  # the drain's time was over while this step ran
            case Status.EMPTY:
                self._watch(stream)
            case Status.EOF:
                self._end(stream)
            case Status.STALLED:
                self._stall(stream, step.error)

    def _stall(self, stream: Stream, error: OSError | None) -> None:
        if stream not in self._ready:
            self._ready.append(stream)
        if not self._pause_s:
            self._log.warning("log is not written, output waits in the fifo", path=self.log_path, error=str(error))
        self._pause_s = min(max(self._pause_s * 2, RETRY_FIRST_S), RETRY_MOST_S)
        self._wake_after(self._pause_s)

    def _end(self, stream: Stream) -> None:
        asyncio.get_running_loop().remove_reader(self._fds[stream])
        self._live.discard(stream)
        if stream in self._ready:
            self._ready.remove(stream)
        self._publish(stream, b"")
        if not self._live:
            self._ended.set()

    def _publish(self, stream: Stream, data: bytes) -> None:
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(stream, data)
            except Exception:
                self._log.exception("log subscriber failed")
                self._subscribers.remove(subscriber)
