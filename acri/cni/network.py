# SPDX-License-Identifier: Apache-2.0
"""The networks of this host: is there one, attach a sandbox, detach it.

An attachment (sandbox id, interface name) goes through these states; what is on disk says which:

    absent ──setup──▶ intent ──every plugin's ADD──▶ attached ──teardown──▶ absent
                        │                                │
                        └─ a plugin fails, hangs, or the └─ a DEL fails: stays attached, the caller tries again
                           runtime dies: DEL for the whole chain ──▶ absent

Rules (CNI spec 1.1.0, section 3, and what runtimes learnt since: containerd#5768, #12931):

* One thing at a time for one attachment, no lock across attachments (`turns`).
* An operation outlives whoever waits for it. If the waiter leaves, ADD stops after the plugin at work and is undone;
  a teardown that comes meanwhile waits for that, so DEL never overtakes ADD.
* DEL uses the configuration, arguments and result that ADD had, from the result cache; the current configuration only
  where the cache has nothing. A DEL of what is not there is a success.
* DEL runs in reverse and halts at the first failure, as the spec has it, while the sandbox's namespace lives and ADD
  was complete. Otherwise there is no order left to protect: it goes through the whole chain and frees what it can.
* A failure to undo an ADD that never finished is logged, not raised, and its entry is kept: a sandbox that never had a
  network must not become one that cannot be stopped. `collect` tries once more and then gives up.

Speed: an ADD costs its plugins plus two hops to a thread. A DEL's time is the kernel's (removing the veth pair waits
for a grace period) and iptables' (a transaction each for the masquerade rule, its chain's rules and the chain). All of
it is inside the plugins: dropping the namespace first would let the kernel work in the background, but then the bridge
plugin no longer learns which masquerade rules were the pod's and leaves them. Callers can overlap it with other work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import structlog

from acri import errors
from acri.aio.tasks import TaskOwner
from acri.cni import attachment as cni_attachment
from acri.cni import config as cni_config
from acri.cni import result as cni_result
from acri.cni.attachment import Attachment
from acri.cni.cache import Cache, Entry
from acri.cni.chain import Chain, Chains, living_netns
from acri.cni.confdir import ConfDir, Loaded
from acri.cni.plugin import Plugins, Run
from acri.cni.result import Interface, Result
from acri.cni.turns import Turns

__all__ = ["NetworkResult", "NetworkStatus", "Networks", "RunInThread"]

T = TypeVar("T")
log = structlog.get_logger(__name__)

NOT_READY = "NetworkPluginNotReady"
"""The reason that kubelets and dashboards know."""


class RunInThread(Protocol):
    """Runs a blocking function off the loop."""

    async def __call__(self, fn: Callable[..., T], /, *args: Any) -> T: ...


@dataclass(frozen=True, slots=True)
class NetworkStatus:
    """NetworkReady. `complaints` are about files that were passed over, and may be there while it is ready."""

    ready: bool
    reason: str = ""
    message: str = ""
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """What a sandbox got: its addresses, primary first, at least one; `raw` is the last plugin's result object."""

    network: str
    ips: tuple[str, ...]
    interfaces: tuple[Interface, ...]
    raw: dict[str, Any]


@dataclass(slots=True)
class _Setup:
    """A setup under way, what it has reached, and whether somebody still wants it."""

    attachment: Attachment
    result: Result | None = None
    abandoned: bool = False

    def reached(self, result: Result) -> None:
        self.result = result


class Networks:
    """The network of `conf_dir`, with the plugins of `bin_dirs`, and results cached below `cache_dir`.

    Args:
        run: runs a program (`acri.aio.process.Processes.run`).
        run_in_thread: runs a blocking function (files only).
        timeout: seconds for the ADD of a whole chain.
        del_timeout: seconds for each plugin's DEL.
        prefer: family of the primary address: "ipv4", "ipv6", or "cni" for the plugins' order.
        owner: marks this runtime's entries in the result cache, which is shared with others; only those are collected.
    """

    def __init__(
        self,
        conf_dir: str,
        bin_dirs: Sequence[str],
        cache_dir: str,
        *,
        run: Run,
        run_in_thread: RunInThread,
        timeout: float,
        del_timeout: float = 60.0,
        prefer: str = "ipv4",
        owner: str = "acri",
    ) -> None:
        self._confs = ConfDir(conf_dir)
        self._chains = Chains(Plugins(bin_dirs, run=run), add_timeout=timeout, del_timeout=del_timeout)
        self._cache = Cache(cache_dir)
        self._in_thread = run_in_thread
        self._prefer = prefer
        self._owner = owner
        self._tasks = TaskOwner()
        self._turns = Turns()
        self._probe: asyncio.Task[NetworkStatus] | None = None
        self.last_status = NetworkStatus(False, NOT_READY, "the network configuration has not been read yet")
        """What `status` last said: for those who must not wait."""

    async def close(self) -> None:
        """Cancel what runs. A plugin at work ends by itself; what was begun is in the result cache."""
        await self._tasks.close()

    async def status(self) -> NetworkStatus:
        """Whether a pod could get a network now: a usable configuration, its plugins installed, and, where the
        network speaks spec 1.1.0, every plugin's own STATUS (10 s each at most). Running ADDs do not hold it up."""
        if self._probe is None or self._probe.done():
            self._probe = self._tasks.spawn(self._status(), name="cni status", quiet=True)
        return await asyncio.shield(self._probe)

    async def setup(self, attachment: Attachment) -> NetworkResult:
        """Attach a sandbox: ADD of every plugin. On failure everything is undone before the error is raised.

        Raises:
            errors.InvalidArgument: a field of `attachment` is wrong.
            errors.Unavailable: there is no usable network now (the text of `status`), or the cache cannot be written.
            errors.FailedPrecondition: a plugin is not installed or cannot be started.
            errors.DeadlineExceeded: a plugin did not end in time; it is named.
            PluginError: a plugin failed; it is named, with its own words.
        """
        cni_attachment.validate(attachment)
        job = _Setup(attachment)
        try:
            return await self._detached(self._setup(job), f"cni add {attachment.sandbox_id}")
        except asyncio.CancelledError:
            job.abandoned = True
            raise

    async def teardown(self, attachment: Attachment, *, attached: bool = False) -> None:
        """Detach a sandbox: DEL of every plugin. Idempotent; the namespace may be gone, the files may have changed.

        `attached` says that the caller knows of a completed ADD, should the cache have been lost meanwhile.

        Raises:
            errors.AcriError: an attachment that had been complete could not be undone; call again. Kinds as `setup`.
        """
        try:
            cni_attachment.validate(attachment)
        except errors.InvalidArgument:  # setup refused it for the same reason: nothing is there but perhaps its name
            attachment = Attachment(attachment.sandbox_id, attachment.netns_path, ifname=attachment.ifname)
            cni_attachment.validate(attachment)
        await self._detached(self._teardown(attachment, attached), f"cni del {attachment.sandbox_id}")

    async def attached(self, attachment: Attachment) -> NetworkResult | None:
        """What a completed ADD gave this sandbox, from the result cache; None if there is none."""
        for entry in await self._in_thread(self._cache.find, attachment.sandbox_id, attachment.ifname):
            result = _cached_result(entry)
            if result is not None:
                return self._picked(entry.network, result, attachment.ifname)
        return None

    async def collect(self, sandbox_ids: Iterable[str]) -> tuple[str, ...]:
        """Detach what belongs to no sandbox of `sandbox_ids` (all that exist), then let the plugins collect (GC).

        For start-up. ADD and DEL wait while the plugins collect, which is left out if one is running. Other runtimes'
        entries are never detached, and count as living for GC. Returns what went wrong, a sentence each.
        """
        living = frozenset(sandbox_ids)
        complaints: list[str] = []
        for entry in await self._in_thread(self._cache.all):
            if entry.owner == self._owner and entry.sandbox_id not in living:
                gone = Attachment(entry.sandbox_id, entry.netns, ifname=entry.ifname)
                try:
                    given_up = await self._detached(self._teardown(gone, False), f"cni del {entry.sandbox_id}")
                    if given_up:
                        # Tried when it failed, when it was stopped, and now: entries must not pile up for ever.
                        complaints += given_up
                        await self._in_thread(self._forget, gone)
                except errors.AcriError as error:
                    complaints.append(error.message)
        if self._turns.idle:
            with self._turns.alone():
                complaints += await self._collect_plugins(living)
        return tuple(complaints)

    async def _collect_plugins(self, living: frozenset[str]) -> list[str]:
        _, chain = await self._in_thread(self._look)
        if chain is None or not cni_config.at_least(chain.config.versions[0], "1.1.0"):
            return []
        entries = await self._in_thread(self._cache.all)
        valid = {(entry.sandbox_id, entry.ifname) for entry in entries if entry.network == chain.config.name}
        # A living sandbox counts even if its entry was lost.
        valid |= {(sandbox_id, cni_attachment.IFNAME) for sandbox_id in living}
        return [failure.message for failure in await self._chains.collect(chain, sorted(valid))]

    async def _detached(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run `work` as a task of its own: whoever waits may leave, a plugin's process cannot."""
        return await asyncio.shield(self._tasks.spawn(work, name=name, quiet=True))

    async def _status(self) -> NetworkStatus:
        loaded, chain = await self._in_thread(self._look)
        before, self.last_status = self.last_status, await self._judge(loaded, chain)
        if self.last_status != before:
            log.info(
                "cni status", ready=self.last_status.ready, message=self.last_status.message, passed=loaded.complaints
            )
        return self.last_status

    async def _judge(self, loaded: Loaded, chain: Chain | None) -> NetworkStatus:
        if chain is None:
            return NetworkStatus(False, NOT_READY, _no_network(loaded), loaded.complaints)
        missing = chain.missing()
        if missing is not None:
            return NetworkStatus(False, NOT_READY, f"{chain.config.source}: {missing.message}", loaded.complaints)
        try:
            await self._chains.status(chain)
        except errors.AcriError as error:
            return NetworkStatus(False, NOT_READY, error.message, loaded.complaints)
        return NetworkStatus(True, complaints=loaded.complaints)

    def _look(self) -> tuple[Loaded, Chain | None]:
        """The network to use now and its executables. Blocking."""
        loaded = self._confs.poll()
        return loaded, None if loaded.config is None else self._chains.of(loaded.config)

    # -- ADD

    async def _setup(self, job: _Setup) -> NetworkResult:
        attachment = job.attachment
        async with self._turns.take((attachment.sandbox_id, attachment.ifname)):
            chain, entry = await self._in_thread(self._plan_add, attachment)
            try:
                result = await self._chains.add(chain, lambda: job.abandoned, job.reached)
                got = self._picked(chain.config.name, result, attachment.ifname)
                if not got.ips:
                    raise errors.FailedPrecondition(
                        f'network "{got.network}" gave {attachment.ifname} no address: its plugins returned none'
                    )
                await self._in_thread(self._put, replace(entry, result=result.raw))
                if job.abandoned:
                    raise errors.Aborted(f'attaching to network "{got.network}" was given up')
            except errors.AcriError as error:
                await self._roll_back(chain, job, error)
                raise
        return got

    def _plan_add(self, attachment: Attachment) -> tuple[Chain, Entry]:
        """Find the network and its executables, and write down what is about to be done. Blocking, one hop."""
        loaded, chain = self._look()
        if chain is None:
            raise errors.Unavailable(_no_network(loaded))
        missing = chain.missing()
        if missing is not None:
            raise missing
        entry = self._entry(attachment, chain)
        self._put(entry)
        return chain.for_entry(entry, attachment.netns_path), entry

    def _entry(self, attachment: Attachment, chain: Chain) -> Entry:
        return Entry(
            network=chain.config.name,
            sandbox_id=attachment.sandbox_id,
            ifname=attachment.ifname,
            netns=attachment.netns_path,
            config=chain.config.raw,
            cni_args=cni_attachment.cni_args(attachment),
            capability_args=cni_attachment.capability_args(attachment),
            owner=self._owner,
        )

    def _put(self, entry: Entry) -> None:
        with _cache_errors():
            self._cache.put(entry)

    def _picked(self, network: str, result: Result, ifname: str) -> NetworkResult:
        ips = cni_result.order_ips(result.ips_of(ifname), self._prefer)
        return NetworkResult(network, ips, result.interfaces, dict(result.raw))

    async def _roll_back(self, chain: Chain, job: _Setup, why: errors.AcriError) -> None:
        texts = [failure.message for failure in await self._chains.delete(chain, job.result, keep_going=True)]
        try:
            if not texts:
                await self._in_thread(self._forget, job.attachment)
        except errors.AcriError as error:
            texts.append(error.message)
        if texts:
            log.warning("cni rollback failed", sandbox_id=job.attachment.sandbox_id, failed=texts, after=why.message)

    # -- DEL

    async def _teardown(self, attachment: Attachment, attached: bool) -> list[str]:
        """Returns what failed of the undo of an unfinished ADD; its entry is kept then."""
        async with self._turns.take((attachment.sandbox_id, attachment.ifname)):
            failures: list[errors.AcriError] = []
            incomplete: list[str] = []
            for chain, result in await self._in_thread(self._plan_del, attachment):
                keep_going = result is None or not chain.parameters.netns
                failed = await self._chains.delete(chain, result, keep_going=keep_going)
                if result is None and not attached:
                    incomplete += [failure.message for failure in failed]
                else:
                    failures += failed
            if incomplete:
                log.warning("cni undo of an unfinished add failed", sandbox_id=attachment.sandbox_id, failed=incomplete)
            if failures:
                raise failures[0] if len(failures) == 1 else errors.UnknownError("; ".join(f.message for f in failures))
            if not incomplete:
                await self._in_thread(self._forget, attachment)
            return incomplete

    def _plan_del(self, attachment: Attachment) -> list[tuple[Chain, Result | None]]:
        """What has to be undone, and with which result. Blocking.

        Without an entry there was no ADD, or the cache was lost. Then the current configuration, if there is one, is
        as good as any, and a plugin that has nothing to undo says so by succeeding.
        """
        netns = living_netns(attachment.netns_path)
        _, current = self._look()
        plans: list[tuple[Chain, Result | None]] = []
        for entry in self._cache.find(attachment.sandbox_id, attachment.ifname):
            try:
                chain = self._chains.of(cni_config.parse(entry.config, f"(cached) {entry.filename}"))
            except errors.FailedPrecondition as error:
                log.warning("cni cache entry without a usable configuration", entry=entry.filename, error=error.message)
                if current is None:
                    continue
                chain = current
            plans.append((chain.for_entry(entry, netns), _cached_result(entry)))
        if not plans and current is not None:
            plans.append((current.for_entry(self._entry(attachment, current), netns), None))
        return plans

    def _forget(self, attachment: Attachment) -> None:
        with _cache_errors():
            self._cache.remove(attachment.sandbox_id, attachment.ifname)


@contextmanager
def _cache_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.Unavailable(f"CNI result cache: {error.filename}: {error.strerror}") from error


def _cached_result(entry: Entry) -> Result | None:
    """ADD's result; None for an unfinished ADD, and for one that cannot be read (DEL does without, says the spec)."""
    try:
        return None if entry.result is None else cni_result.parse(entry.result, cni_config.VERSIONS[0])
    except cni_result.Malformed:
        return None


def _no_network(loaded: Loaded) -> str:
    """Why there is no network and what to do, in one line."""
    return f"{'; '.join(loaded.complaints)} (install the cluster's network add-on, or a CNI configuration list)"
