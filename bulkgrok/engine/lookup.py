"""Finding a run and reading it without disturbing it: its status file, its lock and its checkpoint.

Law: changes nothing, takes no lock that a runner could miss, and works on a run that is going on, was killed, or is
finished. What the runner itself last said (status.json) is believed only about what the checkpoint does not hold.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard
from urllib.parse import unquote

from bulkgrok.checkpoint import list_runs
from bulkgrok.config import RUN_SUFFIX, RunConfig, find_run_dirs, places
from bulkgrok.core.address import is_address
from bulkgrok.core.address import parse as parse_address
from bulkgrok.core.databaseurl import DatabaseUrl, is_database, split_run
from bulkgrok.core.errors import BulkgrokError, UsageError
from bulkgrok.core.report import Limits
from bulkgrok.telemetry.wording import printable

if TYPE_CHECKING:
    from bulkgrok.core.ports import Store

#: A status file older than this comes from a runner that is gone, or as good as gone.
FRESH_S: Final = 15.0
CHECKPOINT: Final = "checkpoint.db"
#: n bytes of a status file that are read.
STATUS_BYTES: Final = 1 << 20
#: n run directories around a path that are asked whether it is theirs.
SEARCHED: Final = 200
#: n runs of a database that are named when one must be chosen.
LISTED: Final = 50


#: What is used of a status file, and of which type it is.
PROGRESS: Final[Mapping[str, type]] = {
    "state": str, "note": str, "started_at": float,
    "succeeded": int, "failed": int, "done_before": int, "in_flight": int,
}  # fmt: skip
REPORT: Final[Mapping[str, type]] = {
    "exit_code": int, "rows": int, "output": str, "errors": str, "run_dir": str, "duration_s": float,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run: on this disk, or in a database."""

    run_dir: Path | None
    """None where only the database is known."""
    checkpoint: Path | DatabaseUrl
    run_id: str = ""
    """Its name in a database."""
    status: Mapping[str, Any]
    """What the runner last said; empty when it never did."""
    pid: int | None
    """The runner's process where it is alive on this machine, else None."""
    owner: str | None = None
    """Who the database says is at work on it, wherever that is; None for nobody."""

    @property
    def running(self) -> bool:
        """Whether somebody is at work on it."""
        return self.pid is not None or self.owner is not None

    @property
    def live(self) -> Mapping[str, Any] | None:
        """The runner's own counters while it is alive and speaks, else None."""
        fresh = self.pid is not None and time.time() - _number(self.status.get("updated_at")) < FRESH_S
        return _typed(self.status.get("progress"), PROGRESS) if fresh else None

    @property
    def report(self) -> Mapping[str, Any]:
        """The summary of the run's last end, empty when it never came to one."""
        return {} if self.running else (_typed(self.status.get("report"), REPORT) or {})


def find_run(run: str) -> FoundRun:
    """Find the run that a run directory, a checkpoint, an input or an output names.

    Raises:
        UsageError: There is no run there.
        StorageFailed: The database that it is in cannot be reached.
    """
    if is_database(run):
        return _in_database(run)
    if is_address(run):
        return _of_address(run)
    if "://" in run:
        msg = f"{run.partition('://')[0]}:// is no address of a checkpoint."
        raise UsageError(msg, hint="Name the run directory (….bulkgrok), the input, the output, or postgresql://…#RUN.")
    path = Path(os.path.abspath(run))  # noqa: PTH100 - as the run itself names its files
    try:
        found = _by_name(path)
    except PermissionError as error:
        msg = f"{printable(error.filename or path)} may not be read by this user."
        raise UsageError(msg, hint="Ask its owner, or name a run of your own.") from None
    folders = [] if found is not None else list(_by_identity(path))
    if len(folders) > 1:
        shown = "\n".join(f"  {printable(folder, limit=4096)}" for folder in folders)
        msg = f"{printable(path)} belongs to {len(folders)} runs:\n{shown}"
        raise UsageError(msg, hint="Name one of these run directories.")
    found = _found(folders[0], folders[0] / CHECKPOINT) if folders else found
    if found is None:
        msg = f"There is no run at {printable(path)}: no checkpoint in it, beside it, or named after it."
        raise UsageError(msg, hint="Name the run directory (….bulkgrok), the input, or the output.")
    return found


def _in_database(run: str) -> FoundRun:
    """Return the run that an address names, or the only one that a database holds."""
    try:
        url, run_id = split_run(run)
    except ValueError as error:
        msg = f"RUN {error}."
        raise UsageError(
            msg, hint="postgresql://user@host/database#RUN, the password in PGPASSWORD or ~/.pgpass"
        ) from None
    names = dict(list_runs(url))
    if run_id is not None and run_id not in names and unquote(run_id) in names:
        run_id = unquote(run_id)
    if run_id is None and len(names) == 1:
        run_id = next(iter(names))
    if run_id is None or run_id not in names:
        what = f"There is no run {printable(run_id)} in {url}" if run_id else f"{url} holds {len(names)} runs"
        shown = "".join(f"\n  {printable(name, limit=4096)}" for name in islice(names, LISTED))
        more = f"\n  and {len(names) - LISTED} more" if len(names) > LISTED else ""
        msg = f"{what}{':' if shown else '.'}{shown}{more}"
        raise UsageError(msg, hint=f"Name one of them: {shlex.quote(f'{url}#RUN')}")
    return FoundRun(run_dir=None, checkpoint=url, run_id=run_id, status={}, pid=None, owner=names[run_id])


def _of_address(run: str) -> FoundRun:
    """Return the run that reads or writes in an object store at an address; its directory is looked for here."""
    try:
        address = parse_address(run)
    except ValueError as error:
        msg = f"RUN {error}."
        raise UsageError(msg, hint="s3://bucket/name, as the run itself was told.") from None
    names = {str(address), str(address.parent), f"{address}/"}
    found = []
    for folder in islice(sorted(Path.cwd().glob(f"*{RUN_SUFFIX}")), SEARCHED):
        with suppress(BulkgrokError, OSError):
            one = _found(folder, folder / CHECKPOINT)
            with reading(one) as store:
                if _said(store) & names:
                    found.append(one)
    if len(found) > 1:
        shown = "\n".join(f"  {printable(one.run_dir, limit=4096)}" for one in found)
        msg = f"{printable(address, limit=4096)} belongs to {len(found)} runs:\n{shown}"
        raise UsageError(msg, hint="Name one of these run directories.")
    if not found:
        msg = f"No run directory here, in {printable(Path.cwd())}, is of a run of {printable(address, limit=4096)}."
        raise UsageError(msg, hint="Name the run directory (….bulkgrok), or the checkpoint: postgresql://…#RUN")
    return found[0]


def _said(store: Store) -> set[str]:
    """Return where a run says that it reads and writes."""
    identity, report = store.identity(), store.recall("report")
    last = report if isinstance(report, dict) else {}
    noted = store.recall("places")
    begun = noted.get("output") if isinstance(noted, dict) else None
    who = (identity.run_id, identity.input_name) if identity is not None else ()
    named = (begun, last.get("output"), last.get("errors"), *who)
    return {name for name in named if isinstance(name, str)}


def _by_name(path: Path) -> FoundRun | None:
    """Return the run that a path is, or that lies where such a path puts its run."""
    if path.is_file() and _is_sqlite(path):
        return _found(path.parent, path)
    for folder in find_run_dirs(path):
        if (folder / CHECKPOINT).is_file() or (folder / "status.json").is_file():
            return _found(folder, folder / CHECKPOINT)
    return None


def _by_identity(path: Path) -> Iterator[Path]:
    """Yield the run directories around a path whose checkpoint names it: for `-o` and `--run-dir`."""
    from bulkgrok.checkpoint import read_store  # noqa: PLC0415 - help must not wait for it

    around = ((path.parent, "*.bulkgrok"), (path.parent.parent, "*.bulkgrok"), (path.parent, "*/*.bulkgrok"))
    candidates = chain.from_iterable(sorted(folder.glob(pattern)) for folder, pattern in around)
    for folder in islice(dict.fromkeys(candidates), SEARCHED):
        with suppress(BulkgrokError, OSError):
            if not (folder / CHECKPOINT).is_file():
                continue
            store = read_store(folder / CHECKPOINT)
            try:
                named = _names(store, path)
            finally:
                store.close()
            if named:
                yield folder


def _names(store: Store, path: Path) -> bool:
    """Tell whether a run reads or writes a path; an input typed as a relative path must have the same size."""
    identity, report = store.identity(), store.recall("report")
    if identity is None:
        return False
    last = report if isinstance(report, dict) else {}
    typed = Path(identity.input_name)
    if path in {Path(str(name)) for name in (identity.run_id, last.get("output"), last.get("errors"), typed)}:
        return True
    if typed.is_absolute() or identity.input is None or not path.is_file():
        return False
    tail = [part for part in typed.parts if part != ".."]
    return bool(tail) and list(path.parts[-len(tail) :]) == tail and path.stat().st_size == identity.input.size


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


def _found(run_dir: Path, checkpoint: Path) -> FoundRun:
    status = _read_status(run_dir / "status.json")
    named = status.get("checkpoint")
    if isinstance(named, str) and is_database(named) and not checkpoint.is_file():
        return _of_status(run_dir, named, status)
    if not checkpoint.is_file() and isinstance(named, str) and Path(named).is_file():
        checkpoint = Path(named)
    return FoundRun(run_dir=run_dir, checkpoint=checkpoint, status=status, pid=_runner(run_dir, status))


def _of_status(run_dir: Path, address: str, status: Mapping[str, Any]) -> FoundRun:
    """Return the run in a database that a run directory belongs to."""
    try:
        found = _in_database(f"{address}#{status.get('run_id', '')}")
    except UsageError as error:
        error.message = f"{run_dir} belongs to a run in a database. {error.message}"
        error.args = (error.message,)
        raise
    return replace(found, run_dir=run_dir, status=status, pid=_runner(run_dir, status))


def _read_status(file: Path) -> Mapping[str, Any]:
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return {}
            loaded = json.loads(stream.read(STATUS_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _typed(value: object, types: Mapping[str, type]) -> Mapping[str, Any] | None:
    """Return what is used of an object of a status file, as far as it is of its type; None where there is no object."""
    if not isinstance(value, dict):
        return None
    found: dict[str, Any] = {}
    for name, kind in types.items():
        one = value.get(name)
        if kind is str and isinstance(one, str):
            found[name] = one
        elif kind is not str and _is_number(one):
            found[name] = float(one) if kind is float else int(one)
    return found


def _number(value: object) -> float:
    """Return a number that a file holds, 0.0 for anything else: it may be damaged, or another program's."""
    return float(value) if _is_number(value) else 0.0


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 53


def _runner(run_dir: Path, status: Mapping[str, Any]) -> int | None:
    """Return the process that holds the run, if one does.

    The lock is only touched while that process exists: then it is held, and the touch fails at once. A free lock is
    never taken, not even for an instant, from a runner that is about to start.
    """
    pid = status.get("pid")
    if not isinstance(pid, int) or pid <= 0 or not _exists(pid):
        return None
    try:
        handle = os.open(run_dir / "run.lock", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return pid
    else:
        return None
    finally:
        os.close(handle)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


@contextmanager
def reading(found: FoundRun) -> Iterator[Store]:
    """Open a run's checkpoint to read.

    Raises:
        BulkgrokError: It is not there or cannot be read.
    """
    from bulkgrok.checkpoint import read_store  # noqa: PLC0415 - help must not wait for it

    if isinstance(found.checkpoint, Path) and not found.checkpoint.is_file():
        msg = f"The checkpoint {found.checkpoint} is not there."
        raise UsageError(msg, hint="If --checkpoint named another place, name that file.")
    store = read_store(found.checkpoint, run_id=found.run_id)
    try:
        yield store
    finally:
        store.close()


def summary(found: FoundRun, store: Store) -> dict[str, Any]:
    """Return the run's summary object as the checkpoint tells it: the same keys as `run --json`."""
    totals = store.totals()
    report = last_end(found, store)
    rows = covered(report, store)
    outstanding = totals.accepted + totals.redeemed
    pending = None if rows is None else max(rows - totals.succeeded - totals.failed - outstanding, 0)
    doubts = 0 if found.running else len(store.pending_doubts())
    identity = store.identity()
    run_id = identity.run_id if identity is not None else str(report.get("output", ""))
    output, errors = _files(found, store, report, run_id)
    return {
        "run_id": run_id,
        "rows": rows,
        "succeeded": totals.succeeded,
        "failed": totals.failed,
        "pending": pending,
        "outstanding": outstanding,
        "failed_by_code": dict(totals.failed_by_code),
        "in_doubt": totals.in_doubt + doubts,
        "lost": totals.lost,
        "cost_usd": totals.cost_usd,
        "tokens": dict(totals.tokens),
        "output": output,
        "errors": errors,
        "run_dir": str(found.run_dir or report.get("run_dir", "")),
        "duration_s": _duration(found, report),
        "exit_code": _exit_code(report, pending, outstanding, totals.failed) if not found.running else None,
    }


def input_of(found: FoundRun, store: Store) -> str:
    """Return what the run calls its input: where that is now, as far as it can be told."""
    identity = store.identity()
    return "" if identity is None else _now(found, _was(found, store), identity.input_name)


def _files(found: FoundRun, store: Store, report: Mapping[str, Any], run_id: str) -> tuple[str, str]:
    """Return where the results and the errors of a run are now, as far as that can be told."""
    identity, was = store.identity(), _was(found, store)
    bound = (identity.extra.get("output") if identity is not None else None) or run_id
    output = _now(found, was, str(report.get("output") or _noted_output(_noted(store)) or bound))
    return output, _now(found, was, str(report.get("errors") or "")) or _errors_of(output)


def _noted(store: Store) -> Mapping[str, Any]:
    """Return what the last start noted of its places, nothing where an earlier version began the run."""
    noted = store.recall("places")
    return noted if isinstance(noted, dict) else {}


def _was(found: FoundRun, store: Store) -> Path | None:
    """Return where the run directory was when its last start noted it, if it lies elsewhere now."""
    return moved_from(found, _noted(store).get("run_dir") or last_end(found, store).get("run_dir"))


def _noted_output(noted: Mapping[str, Any]) -> str | None:
    """Return the output that the last start noted; without -o the input names it. None where it noted none."""
    if "output" in noted:
        return str(noted["output"]).rstrip("/")
    if "input" not in noted:
        return None
    with suppress(BulkgrokError, ValueError):
        return str(places(RunConfig(input=str(noted["input"]), output_format=noted.get("format"))).output)
    return None


def _now(found: FoundRun, was: Path | None, named: str) -> str:
    """Return where a file of a run is: where its directory moved it moved along, unless it is seen where it was."""
    if was is None or found.run_dir is None or not os.path.isabs(named):  # noqa: PTH117 - it is text
        return named
    along = moved_along(named, was, found.run_dir)
    return named if Path(named).exists() and not Path(along).exists() else along


def moved_from(found: FoundRun, noted: object) -> Path | None:
    """Return where a run's directory was, by what the run noted, if it and the checkpoint in it lie elsewhere now."""
    here = found.run_dir
    if here is None or found.checkpoint != here / CHECKPOINT or not isinstance(noted, str) or not noted:
        return None
    return None if Path(noted) == here else Path(noted)


def moved_along(named: str, was: Path, here: Path) -> str:
    """Return where a file of a run lies whose directory moved, if it moved with it; an address stays what it is.

    Args:
        named: Where it was; a folder's name may end with a slash.
        was: Where the run directory was.
        here: Where that is.
    """
    if "://" in named:
        return named
    return os.path.normpath(here / os.path.relpath(named, was)) + "/" * named.endswith("/")


def limits_of(store: Store) -> Limits | None:
    """Return what the last start limited money to, and how far that is taken; None where it did not."""
    noted = store.recall("limits")
    limits = noted if isinstance(noted, dict) else {}
    return Limits.of(limits.get("budget"), limits.get("max_at_risk"), store.money())


def last_end(found: FoundRun, store: Store) -> Mapping[str, Any]:
    """Return the report of the last start, or nothing while it goes on or when it never came to an end."""
    if found.status:
        return found.report
    return {} if found.running else (_typed(store.recall("report"), REPORT) or {})


def covered(report: Mapping[str, Any], store: Store) -> int | None:
    """Return how many rows the run has: of one that finished under `--limit`, those; None when not yet counted."""
    rows, last = store.recall("rows"), report.get("rows")
    if report.get("exit_code") in {0, 3} and isinstance(last, int):
        return last
    return rows if isinstance(rows, int) else None


def last_covered(store: Store) -> int | None:
    """Return how many rows the run has, by what its last start told; None when they were not yet counted."""
    return covered(_typed(store.recall("report"), REPORT) or {}, store)


def _duration(found: FoundRun, report: Mapping[str, Any]) -> float:
    if found.live is not None:
        return max(time.time() - _number(found.live.get("started_at")), 0.0)
    return _number(report.get("duration_s"))


def _exit_code(report: Mapping[str, Any], pending: int | None, outstanding: int, failed: int) -> int | None:
    """Return the code of the last end; of a run that was killed, what it would end with now; else None."""
    code = report.get("exit_code")
    if isinstance(code, int):
        return code
    if pending == 0 and outstanding == 0:
        return 3 if failed else 0
    return None


def _errors_of(output: str) -> str:
    if not output:
        return ""
    try:
        if is_address(output):
            return str(places(RunConfig(input="-", output=parse_address(output))).errors)
        path = Path(output)
        if path.name.endswith((".results.jsonl", ".results.parquet")):
            return str(path.with_name(f"{path.name.rpartition('.results.')[0]}.errors.jsonl"))
        return str(places(RunConfig(input="-", output=path)).errors)
    except (BulkgrokError, ValueError):
        return ""
