"""One-line sabotages of the product, each of which the suite must find within a minute.

Law: a mutant names the promise it breaks, the text it replaces (which must be there exactly once) and who is to find it.
The simulation finds what it can; what lies below it (threads, sockets) is for the tests that are named.
"""

from __future__ import annotations

from dataclasses import dataclass

SIMULATION = ()
"""The histories, from a seed of their own each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A sabotage."""

    name: str
    breaks: str
    """What can no longer be relied on."""
    file: str
    """Below bulkgrok/."""
    old: str
    new: str
    found_by: tuple[str, ...] = SIMULATION
    """Arguments for pytest; none for the simulation."""


MUTANTS = (
    Mutant(
        name="intent-after-request",
        breaks="an intent is durable before the first byte leaves",
        file="dispatch/post.py",
        old="""        await self._checkpoint.commit(Submit(item=item, attempt=work.posts + 1, at=submitted_at))
        work.posts += 1
        self._intended(work)
        failpoints.hit("post.intended")
        self._progress.requests += 1
        direct = item.mode is Mode.DIRECT
        exchange = await self._transport.post(
            kind.submit_path,
            item.body,
            timeout_s=self._timeout_s if direct else _LONGEST_SUBMISSION_S,
            idle_s=None if direct else _IDLE_S,
            keep=name_of(item.row),
        )
""",
        new="""        direct = item.mode is Mode.DIRECT
        exchange = await self._transport.post(
            kind.submit_path,
            item.body,
            timeout_s=self._timeout_s if direct else _LONGEST_SUBMISSION_S,
            idle_s=None if direct else _IDLE_S,
            keep=name_of(item.row),
        )
        await self._checkpoint.commit(Submit(item=item, attempt=work.posts + 1, at=submitted_at))
        work.posts += 1
        self._intended(work)
        failpoints.hit("post.intended")
        self._progress.requests += 1
""",
    ),
    Mutant(
        name="synchronous-normal",
        breaks="what was acknowledged survives a power cut",
        file="checkpoint/connecting.py",
        old='("synchronous", "FULL", 2)',
        new='("synchronous", "NORMAL", 1)',
    ),
    Mutant(
        name="synchronous-off",
        breaks="what was acknowledged survives a power cut",
        file="checkpoint/connecting.py",
        old='("synchronous", "FULL", 2)',
        new='("synchronous", "OFF", 0)',
    ),
    Mutant(
        name="log-not-written-anew",
        breaks="a flush that failed dooms nothing that is acknowledged later",
        file="checkpoint/connecting.py",
        old='            _write_anew(path.with_name(path.name + "-wal"))\n',
        new="            pass\n",
        found_by=("tests/simulation/test_disk.py",),
    ),
    Mutant(
        name="log-not-flushed",
        breaks="what was acknowledged is on the disk",
        file="checkpoint/flushing.py",
        old="            os.fdatasync(fd)\n",
        new="            pass\n",
        found_by=("tests/unit/checkpoint/test_flushing.py",),
    ),
    Mutant(
        name="locks-let-go",
        breaks="a reader that ends lets go of no lock of the runner's",
        file="checkpoint/flushing.py",
        old="            if shared.users:\n                return\n",
        new="",
        found_by=("tests/unit/checkpoint/test_flushing.py",),
    ),
    Mutant(
        name="output-not-flushed",
        breaks="a finished run's output survives a power cut",
        file="sinks/jsonl.py",
        old="                os.fdatasync(self._fd)\n",
        new="                pass\n",
    ),
    Mutant(
        name="draft-not-flushed",
        breaks="a part, a table, an errors file is whole or absent",
        file="sinks/files.py",
        old="        os.fsync(self._fd)\n        found = os.fstat(self._fd)\n",
        new="        found = os.fstat(self._fd)\n",
    ),
    Mutant(
        name="folder-not-flushed",
        breaks="a name that was reported survives a power cut",
        file="sinks/files.py",
        old="        self._temporary.rename(self.path)\n        sync_folder(self.path.parent)\n",
        new="        self._temporary.rename(self.path)\n",
    ),
    Mutant(
        name="new-folders-not-flushed",
        breaks="a new run directory survives a power cut with what is in it",
        file="engine/folders.py",
        old="        os.fsync(fd)\n",
        new="        pass\n",
    ),
    Mutant(
        name="video-not-flushed",
        breaks="a video that a result names survives a power cut",
        file="dispatch/placing.py",
        old="            os.fsync(self._file.fileno())\n",
        new="            pass\n",
    ),
    Mutant(
        name="output-not-cut",
        breaks="what lies behind the stored position is discarded",
        file="sinks/jsonl.py",
        old="                os.ftruncate(self._fd, self._offset)\n            os.lseek(self._fd, self._offset, os.SEEK_SET)\n            os.fsync",
        new="                pass\n            os.lseek(self._fd, 0, os.SEEK_END)\n            os.fsync",
    ),
    Mutant(
        name="outbox-replayed-from-the-start",
        breaks="each row is in the output once",
        file="engine/projector.py",
        old="        self._cursor = restored.seq\n",
        new="        self._cursor = 0\n",
    ),
    Mutant(
        name="refused-group-remembered",
        breaks="only what was committed is in the output",
        file="checkpoint/writing.py",
        old="        self.answered = []\n        self._begun.clear()\n",
        new="        self._begun.clear()\n",
        found_by=("tests/unit/checkpoint/test_sqlite_file.py",),
    ),
    Mutant(
        name="gap-in-what-is-remembered",
        breaks="each row is in the output",
        file="checkpoint/recent.py",
        old="            if kept and kept[-1].seq + 1 != outcome.seq:\n",
        new="            if not kept and outcome.seq < 0:\n",
        found_by=("tests/unit/checkpoint/test_sqlite_file.py",),
    ),
    Mutant(
        name="outbox-position-ahead",
        breaks="each row is in the output",
        file="engine/projector.py",
        old="        self._cursor = batch[-1].seq\n",
        new="        self._cursor = batch[-1].seq + 1\n",
    ),
    Mutant(
        name="errors-file-forgotten",
        breaks="each row is in one of the two files",
        file="engine/run.py",
        old="        return opened.errors.replace(opened.store.failures(), lambda position: opened.store.advance(_ERRORS, position))\n",
        new="        return True\n",
    ),
    Mutant(
        name="part-seen-before-it-is-planned",
        breaks="which rows a part holds is stored before anybody can see it",
        file="sinks/parts.py",
        old="            while self._told:\n",
        new="            while self._sealed:\n",
        found_by=("tests/unit/sinks",),
    ),
    Mutant(
        name="parts-made-again-with-other-rows",
        breaks="writing a part again writes the same",
        file="sinks/parts.py",
        old="            self._fixed = deque(listed[len(self._parts) :])\n",
        new="            self._fixed = deque()\n",
        found_by=("tests/unit/sinks",),
    ),
    Mutant(
        name="object-put-over-a-strangers",
        breaks="what this run did not write is not replaced",
        file="sinks/remote.py",
        old="            self.refuse_stranger(name, {})\n",
        new="            pass\n",
        found_by=("tests/unit/sinks",),
    ),
    Mutant(
        name="write-carried-out-after-it-was-given-up",
        breaks="each row is in the output once",
        file="engine/projector.py",
        old="                if self._ticket is not ticket:\n",
        new="                if False:\n",
        found_by=("tests/unit/test_projector.py",),
    ),
    Mutant(
        name="sink-not-taken-back-after-a-failure",
        breaks="each row is in the output once",
        file="engine/projector.py",
        old="            self._torn = True\n",
        new="            pass\n",
        found_by=("tests/unit/test_projector.py",),
    ),
    Mutant(
        name="asked-again-after-200",
        breaks="nothing is asked for after a complete 200",
        file="dispatch/deferred.py",
        old="        return Feedback(sign=Sign.GOOD, tokens=await self._settler.received(job, redeem))\n",
        new="""        tokens = await self._settler.received(job, redeem)
        await self._transport.get(self._kinds[job.kind].result_path(job.request_id))
        return Feedback(sign=Sign.GOOD, tokens=tokens)
""",
    ),
    Mutant(
        name="doubt-without-ledger",
        breaks="every request that may have been billed is explained",
        file="dispatch/post.py",
        old="        doubt = Doubt(row=item.row, at=self._clock.wall(), reason=reason)\n",
        new="        doubt = TakeBack(row=item.row)\n",
    ),
    Mutant(
        name="server-error-without-ledger",
        breaks="a 5xx behind which the request was accepted is explained",
        file="dispatch/post.py",
        old="        entry = Entry.IN_DOUBT if refused.doubt else None\n",
        new="        entry = None\n",
    ),
    Mutant(
        name="killed-without-ledger",
        breaks="what was in flight at a crash is explained",
        file="engine/recovery.py",
        old="        changes: list[Change] = [Doubt(row=row, at=entry.at, reason=entry.reason)]\n",
        new="""        from bulkgrok.core.lifecycle import Unsent

        changes: list[Change] = [Unsent(row=row)]
""",
    ),
    Mutant(
        name="recovery-skipped",
        breaks="every row that is not at its end has a rule",
        file="engine/recovery.py",
        old="    found = await checkpoint.call(store.pending_doubts)\n",
        new="    found = (await checkpoint.call(store.pending_doubts))[:0]\n",
    ),
    Mutant(
        name="loss-without-ledger",
        breaks="a result that was handed out and lost is explained",
        file="checkpoint/writing.py",
        old="        self._close_job(change, Entry.LOST, losses=1)\n",
        new='        self._move(change, change.row, "close_job", (1, 0, 0))\n',
    ),
    Mutant(
        name="own-clock-decides",
        breaks="the server decides what has expired, not this machine's clock",
        file="dispatch/deferred.py",
        old="        asked_at = self._clock.wall()\n        self._progress.requests += 1\n",
        new="""        asked_at = self._clock.wall()
        if asked_at >= job.deadline_at:
            return await self._expire(job, "its time is over")
        self._progress.requests += 1
""",
    ),
    Mutant(
        name="slept-through-a-deadline",
        breaks="a result is fetched before its deadline",
        file="scheduler/scheduler.py",
        old="            self._jobs.hurry(ahead_s - before_s, now=now)\n",
        new="",
        found_by=("tests/unit/scheduler/test_scheduler.py",),
    ),
    Mutant(
        name="waits-for-a-row-that-was-set-aside",
        breaks="a run comes to its end",
        file="scheduler/scheduler.py",
        old="            return self._over, None, at\n",
        new="            return False, None, at\n",
        found_by=("tests/unit/scheduler/test_scheduler.py",),
    ),
    Mutant(
        name="this-machines-calendar",
        breaks="nothing is given up before its time is over by the API's clock",
        file="dispatch/post.py",
        old="            self._health.told(reply.date_at, self._clock.monotonic())\n",
        new="",
        found_by=("tests/simulation/test_histories.py",),
    ),
    Mutant(
        name="never-asked-in-time",
        breaks="a result is fetched before its deadline",
        file="scheduler/polling.py",
        old="            if last_call > 0.0:\n                return last_call\n        return left\n",
        new="        return max(delay, left + 1.0)\n",
        found_by=("tests/unit/scheduler/test_scheduler.py",),
    ),
    Mutant(
        name="lock-not-taken",
        breaks="two runners are never both at work",
        file="engine/lock.py",
        old="            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        new="            pass\n",
    ),
    Mutant(
        name="lock-given-back-early",
        breaks="the lock is held for life",
        file="engine/opening.py",
        old="        self._stack.callback(lock.release)\n",
        new="        lock.release()\n",
    ),
    Mutant(
        name="drain-gives-up",
        breaks="a stop in order loses nothing that is in flight",
        file="engine/run.py",
        old='        self.progress.state = "draining"\n        self._halt()\n',
        new='        self.progress.state = "draining"\n        self.abort()\n',
    ),
    Mutant(
        name="outage-ends-in-a-crash",
        breaks="an outage of any length is waited for",
        file="core/retry.py",
        old="2.0 ** min(self._probes, 10)",
        new="2.0**self._probes",
    ),
    Mutant(
        name="storm-ends-in-a-standstill",
        breaks="a storm of 429s of any length is waited for",
        file="scheduler/governor.py",
        old="2.0 ** min(self._pauses, 10)",
        new="2.0**self._pauses",
        found_by=("tests/unit/scheduler/test_governor.py",),
    ),
    Mutant(
        name="deadlines-by-own-clock",
        breaks="a wrong clock of this machine makes nothing expire at a resume",
        file="engine/stages.py",
        old="            stages.scheduler.watch(job, delay_s=0.0)\n",
        new="""            job.deadline_at = job.submitted_at + self._config.deferred_ttl
            stages.scheduler.watch(job, delay_s=0.0)
""",
        found_by=("tests/simulation/test_clocks.py",),
    ),
    Mutant(
        name="budget-not-reserved",
        breaks="no more is spent than the budget",
        file="core/money.py",
        old="        if any(limit is not None and least + self.on_its_way > limit for limit, least in limits):\n",
        new="        if any(limit is not None and least > limit for limit, least in limits):\n",
        found_by=("tests/simulation/test_purse.py",),
    ),
    Mutant(
        name="doubt-not-counted",
        breaks="no more is at risk than the limit",
        file="core/money.py",
        old="            (self._max_at_risk, in_doubt + most),\n",
        new="            (self._max_at_risk, most),\n",
        found_by=("tests/simulation/test_purse.py",),
    ),
    Mutant(
        name="spill-not-entered",
        breaks="what a full disk could not take is entered by the next run",
        file="checkpoint/rescue.py",
        old="            self._spill.recover(self._store)\n",
        new="            pass\n",
        found_by=("tests/unit/checkpoint/test_committer.py",),
    ),
    Mutant(
        name="concurrency-unheeded",
        breaks="no more requests are in flight than were allowed",
        file="engine/stages.py",
        old="        self._free = concurrency\n",
        new="        self._free = 2 * concurrency\n",
        found_by=("tests/unit/test_gate.py",),
    ),
    Mutant(
        name="acknowledged-before-commit",
        breaks="what `commit` returned from is durable",
        file="checkpoint/committer.py",
        old="""            money = self._carry_out(group)
            assert self._loop is not None  # noqa: S101 - set before the thread starts
            with suppress(RuntimeError):  # the loop is gone, and with it everybody who waited
                self._loop.call_soon_threadsafe(self._carried_out, group, money)
""",
        new="""            assert self._loop is not None  # noqa: S101 - set before the thread starts
            with suppress(RuntimeError):  # the loop is gone, and with it everybody who waited
                self._loop.call_soon_threadsafe(self._carried_out, group, None)
            self._carry_out(group)
""",
        found_by=("tests/unit/checkpoint/test_committer.py",),
    ),
    Mutant(
        name="request-repeated-by-the-library",
        breaks="a GET for a once-only result is sent once",
        file="transport/api.py",
        old="            return await (self._origin or self._opened()).ask(path, body, wait)\n",
        new="""            try:
                return await (self._origin or self._opened()).ask(path, body, wait)
            except aiohttp.ServerDisconnectedError:
                return await (self._origin or self._opened()).ask(path, body, wait)
""",
        found_by=("tests/integration/test_transport_hostile.py",),
    ),
    Mutant(
        name="farewell-not-looked-for",
        breaks="a POST on a connection that the server has closed is known not to have been sent",
        file="transport/receiving.py",
        old=" or self._arrived(_SPOKEN if kept else _CLOSED))\n",
        new=")\n",
        found_by=("tests/integration/test_transport_hostile.py",),
    ),
    Mutant(
        name="talk-on-a-kept-connection-not-looked-for",
        breaks="no row is given a reply that nobody asked for",
        file="transport/receiving.py",
        old="self._arrived(_SPOKEN if kept else _CLOSED)",
        new="self._arrived(_CLOSED)",
        found_by=("tests/integration/test_transport_hostile.py",),
    ),
    Mutant(
        name="id-of-another-row-believed",
        breaks="no row is given another row's answer",
        file="checkpoint/schema.sql",
        old="CREATE UNIQUE INDEX item_receipt",
        new="CREATE INDEX item_receipt",
        found_by=("tests/contract/test_store_contract.py", "-k", "not postgres"),
    ),
    Mutant(
        name="changed-input-taken",
        breaks="a changed input is refused before anything is sent",
        file="engine/binding.py",
        old="    if found.input == wanted.fingerprint:\n        return\n",
        new="    return\n",
        found_by=("tests/acceptance/test_refusals.py",),
    ),
    Mutant(
        name="large-answer-removed-too-soon",
        breaks="a large answer leaves its file only for the checkpoint",
        file="dispatch/large.py",
        old="            yield found\n        if not isinstance(found, TooLarge):\n            await self._offload(body.discard)\n",
        new="            if not isinstance(found, TooLarge):\n                await self._offload(body.discard)\n            yield found\n",
        found_by=("tests/unit/dispatch/test_handshakes.py",),
    ),
    Mutant(
        name="large-body-to-nowhere",
        breaks="what is too large to be an answer stays in its file",
        file="dispatch/large.py",
        old="        path = body.keep()\n",
        new="        path = body.keep\n        body.discard()\n",
        found_by=("tests/unit/dispatch/test_handshakes.py",),
    ),
    Mutant(
        name="kept-file-not-flushed",
        breaks="a file is durable before a row's failure names it",
        file="transport/spilling.py",
        old="            _sync(self.path)\n            self.path.rename(final)",
        new="            self.path.rename(final)",
        found_by=("tests/integration/test_transport_hostile.py", "-k", "flushed"),
    ),
    Mutant(
        name="bodies-in-memory",
        breaks="memory is bounded whatever a server sends",
        file="transport/reading.py",
        old="    return min(_MOST_BYTES, max(_LEAST_BYTES, _TOGETHER_BYTES // concurrency))\n",
        new="    return _TOGETHER_BYTES * concurrency\n",
        found_by=("tests/integration/test_transport_hostile.py", "-k", "large_body"),
    ),
    Mutant(
        name="interim-replies-queued",
        breaks="memory is bounded whatever a server sends",
        file="transport/receiving.py",
        old="            if self._interim > _MOST_INTERIM:\n",
        new="            if self._interim < 0:\n",
        found_by=("tests/integration/test_transport_hostile.py", "-k", "interim"),
    ),
    Mutant(
        name="cookies-sent-back",
        breaks="nothing of one reply is told to another server, or again",
        file="transport/opening.py",
        old="        cookie_jar=aiohttp.DummyCookieJar(),\n",
        new="",
        found_by=("tests/integration/test_transport_hostile.py", "-k", "cookies"),
    ),
    Mutant(
        name="redirects-of-files-followed-blindly",
        breaks="no private address is asked",
        file="transport/downloads.py",
        old="allow_redirects=False",
        new="allow_redirects=True",
        found_by=("tests/integration/test_assets.py",),
    ),
    Mutant(
        name="private-addresses-connected-to",
        breaks="no private address is asked",
        file="transport/addresses.py",
        old='        kept = [entry for entry in found if allowed(entry["host"], loopback=self._loopback)]\n',
        new="        kept = found\n",
        found_by=("tests/integration/test_assets.py", "tests/unit/test_transport_addresses.py"),
    ),
    Mutant(
        name="redirect-believed-about-the-key",
        breaks="a result is lost only when the API is known to be well",
        file="dispatch/account.py",
        old="not (200 <= reply.status < 300 or 400 <= reply.status < 500)",
        new="reply.status >= 500",
        found_by=("tests/integration/test_hostile_api.py",),
    ),
    Mutant(
        name="submit-asks-for-results",
        breaks="a start that only submits asks for no result",
        file="scheduler/scheduler.py",
        old="        if self._part.asks:\n            self._sleep(job, delay_s)\n",
        new="        self._sleep(job, delay_s)\n",
        found_by=("tests/integration/test_submit_and_collect.py",),
    ),
    Mutant(
        name="direct-rows-submitted",
        breaks="submit refuses a direct row before anything is sent",
        file="engine/opening.py",
        old=" or encoded.mode is Mode.DEFERRED or raw.row in taken:",
        new=" or encoded.mode in Mode:",
        found_by=("tests/integration/test_submit_and_collect.py",),
    ),
    Mutant(
        name="round-after-the-deadline",
        breaks="a round comes back before the first result expires",
        file="scheduler/scheduler.py",
        old="        return wall + min(first_s, max(last_s, min(LONGEST_S, self._polling.shortest_rest_s)))\n",
        new="        return wall + first_s\n",
        found_by=("tests/integration/test_submit_and_collect.py",),
    ),
    Mutant(
        name="epoch-unverified",
        breaks="a runner that was taken over writes nothing",
        file="checkpoint/postgres_session.py",
        old="        if epoch != self.tenure.epoch:\n",
        new="        if epoch < self.tenure.epoch:\n",
        found_by=("tests/integration/test_postgres_store.py", "-k", "taken_over or hangs or in_hand"),
    ),
    Mutant(
        name="commit-done-twice",
        breaks="a commit whose reply was lost is done once",
        file="checkpoint/postgres_session.py",
        old="        if applied == self._applied:\n",
        new="        if applied >= self._applied:\n",
        found_by=("tests/integration/test_postgres_store.py", "-k", "reply_is_lost"),
    ),
    Mutant(
        name="fenced-and-sending",
        breaks="a runner that was taken over sends nothing",
        file="engine/owning.py",
        old="""            if self._lease.lost or self._over():
                return False
""",
        new="""            if self._lease.lost or self._over():
                return True
""",
        found_by=("tests/unit/test_owning.py",),
    ),
)
