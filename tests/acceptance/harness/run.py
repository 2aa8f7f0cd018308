"""One run of the command against a simulator that several runs share, and the verdict on it."""

import json
from collections import Counter

from harness.command import COMMAND, environment
from harness.disks import ROOT
from harness.judge import judge, read_lines, read_results
from harness.lives import Lives
from harness.places import places
from harness.reconcile import reconcile, rows_by_body
from harness.rows import mixed, write

CONCURRENCY = 8


class Run:
    """A run that is begun and ended as often as a test wants, then judged.

    Args:
        folder: Where its files lie. Its name is in every prompt, so that no two runs send the same request.
        api: The simulator.
        rows: n rows of the input.
        found: Where the outputs lie; in the folder, as lines, if nothing is said.
        flags: More flags.
        checkpoint: Where the checkpoint is to lie, if not in the run directory.
        wire: What the run talks to the simulator through.
        kinds: Makes the rows.
        disks: Small disks that the run sees; the folder is then disks.ROOT to it.
        environ: More of its environment.
    """

    def __init__(
        self,
        folder,
        api,
        *,
        rows=60,
        found=None,
        flags=(),
        checkpoint=None,
        wire=None,
        kinds=mixed,
        disks=None,
        environ=(),
    ):
        folder.mkdir(exist_ok=True)
        self.folder, self.api, self.rows, self.disks = folder, api, rows, disks
        inside, self._enter = (folder, ()) if disks is None else (ROOT, disks.enter)
        self.places = found or places("lines", inside)
        self.source = folder / "in.jsonl"
        write(self.source, kinds(rows, f" of {folder.parent.name}/{folder.name}"))
        self.checkpoint = checkpoint or self.places.run_dir / "checkpoint.db"
        self._before = api.sums()
        base_url = api.base_url if wire is None else f"http://127.0.0.1:{wire.port}/v1"
        self.lives = Lives(
            (
                *self._enter, *COMMAND, "run", inside / "in.jsonl", *self.places.flags, "--checkpoint", self.checkpoint,
                "--base-url", base_url, "--concurrency", CONCURRENCY, "--poll-interval", "0.1", "--progress", "none",
                "--max-attempts", 1000, *flags,
            ),
            environ=environment(**dict(environ)),
            run_dir=self._seen(self.places.run_dir),
            log=folder / "said.log",
        )  # fmt: skip

    def _seen(self, path):
        """Return where this process sees a path of the run."""
        return path if self.disks is None else self.disks.seen(path)

    @property
    def posts(self):
        """How many POSTs the API has seen of this run; no other may be at work."""
        return self.api.sums()["posts"] - self._before["posts"]

    def after(self, posts):
        """Wait until the API has seen so many POSTs."""
        assert self.lives.wait_for(lambda: self.posts >= posts, look_s=0.01, within_s=30), self.lives.last_words()
        return self

    def end(self, *codes, end="drained"):
        """Wait for the end, demand one of these exit codes, and return what was said."""
        code = self.lives.await_end(end, within_s=60)
        assert code in codes, (code, self.lives.last_words())
        return self.lives.last_words()

    def goes_on(self):
        """Type the same command again: it must come to its end."""
        self.lives.begin()
        self.end(0)
        return self.judged()

    def judged(self):
        """Return the verdict on a run that has come to its end."""
        audit = json.loads(self.lives.ask("audit", self.checkpoint, "--json", enter=self._enter))
        output, errors, ledger = self._seen(self.places.output), self._seen(self.places.errors), self.ledger()
        verdict = judge(
            rows=self.rows,
            results=read_results(output),
            errors=read_lines(errors),
            base=self._seen(self.places.base),
            ledger=ledger,
            audit=audit,
            lives=self.lives.lived,
            concurrency=CONCURRENCY,
        )
        table = self.lives.ask("audit", self.checkpoint, "--csv", enter=self._enter)
        left = reconcile(self.source, output=output, errors=errors, audit=audit, table=table, ledger=ledger)
        assert verdict.wrong + left.wrong == [], (verdict, self.lives.last_words())
        assert self.lives.tracebacks() == [], self.lives.tracebacks()
        return verdict

    def ledger(self):
        """Return the simulator's ledger, as if there were no other runs."""
        ledger = self.api.ledger()
        ours = rows_by_body(self.source)
        requests = [entry for entry in ledger["requests"] if entry["marker"] in ours]
        once_only = Counter({entry["id"]: entry["delivered"] for entry in requests if entry["kind"] == "deferred"})
        return ledger | {
            "requests": requests,
            "accepted": len(requests),
            "billed": sum(entry["billed"] for entry in requests),
            "deliveries_max": max(once_only.values(), default=0),
        }
