"""From a configuration to an open run: files found, lock held, checkpoint bound, outputs known to be ours.

Law: everything that can be refused is refused here, before anything is sent, and leaves the disk as it was found.
"""

from __future__ import annotations

import contextlib
import glob
import shlex
import sys
from collections.abc import AsyncIterable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bulkgrok import kinds, readers
from bulkgrok.checkpoint import Committer, open_store, read_store
from bulkgrok.config import Places, RunConfig, places
from bulkgrok.core.address import Address, is_address
from bulkgrok.core.address import parse as parse_address
from bulkgrok.core.errors import BulkgrokError, InputError, RunMismatch, UsageError
from bulkgrok.core.model import BadRow, Fingerprint, Mode, RowSet
from bulkgrok.core.part import Part
from bulkgrok.core.ports import Encoder, Sink, Store
from bulkgrok.engine import openfiles
from bulkgrok.engine.binding import Wanted, bind, compare, is_replaced
from bulkgrok.engine.folders import make_private
from bulkgrok.engine.leftovers import REPLIES, set_aside
from bulkgrok.engine.lock import RunLock
from bulkgrok.engine.preview import encoder_of, prices_of
from bulkgrok.engine.recovery import owned_by
from bulkgrok.engine.source import FileSource, NoSource, ObjectSource, RowsSource
from bulkgrok.engine.surroundings import Surroundings
from bulkgrok.kinds.prices import Prices
from bulkgrok.sinks import open_sink, place_of
from bulkgrok.sinks.errors import ErrorsFile
from bulkgrok.sinks.line import row_of, speaks_of
from bulkgrok.sinks.places import Place
from bulkgrok.telemetry.wording import noun, printable

_ERRORS: Final = "errors"
#: The folder, in the run directory, of what is on its way to an object store. Nothing in it is needed by a later start.
SCRATCH: Final = "scratch"
_SAMPLED: Final = 20
_ONLY_DEFERRED: Final = "only_deferred"
#: The note of where the results of a run go.
PLACES: Final = "places"


@dataclass(slots=True, kw_only=True)
class OpenRun:
    """A run that may begin."""

    places: Places
    store: Store
    committer: Committer
    source: FileSource | ObjectSource | NoSource | RowsSource
    encoder: Encoder
    prices: Prices
    sink: Sink
    errors: ErrorsFile
    rebound: bool
    asset_base: Path | Address
    """What the asset paths in the checkpoint are relative to: where the run's first output lay."""


class Opening:
    """Opens runs.

    Args:
        config: What is asked.
        stack: Closes what was opened, in reverse order.
        surroundings: The outside.
        say: Tells the user something in words.
        rows: Rows from the caller instead of a file.
        sink: Where outcomes go instead of files, for such rows.
        part: What is done of the run: a start that sends nothing looks at no input, `submit` takes deferred rows alone.
    """

    def __init__(  # noqa: PLR0913 - the composition root names each
        self,
        *,
        config: RunConfig,
        stack: AsyncExitStack,
        surroundings: Surroundings,
        say: Callable[[str], None],
        rows: AsyncIterable[Mapping[str, object]] | None = None,
        sink: Sink | None = None,
        part: Part = Part.WHOLE,
    ) -> None:
        self._config = config
        self._part = part
        self._stack = stack
        self._outside = surroundings
        self._offload = surroundings.offload
        self._clock = surroundings.clock
        self._say = say
        self._rows = rows
        self._places = places(config)
        self._prices = prices_of(config)
        self._encoder = encoder_of(config)
        self._sink = sink or self._file_sink()
        self._errors = self._errors_file()

    def _place_of(self, output: Path | Address) -> Place:
        return place_of(output, scratch=self._places.run_dir / SCRATCH, stores=self._outside.stores)

    def _errors_file(self) -> ErrorsFile:
        found = self._places
        place = self._place_of(found.errors.parent)
        return ErrorsFile(found.errors, simulated=self._config.simulate, place=place)

    def _file_sink(self) -> Sink:
        return open_sink(
            scratch=self._places.run_dir / SCRATCH,
            stores=self._outside.stores,
            output=self._places.output,
            folder=self._places.folder,
            output_format=self._places.output_format,
            simulated=self._config.simulate,
            summarise=lambda kind, body: kinds.get(kind).decode(body),
        )

    async def open(self) -> OpenRun:
        """Open the run.

        Raises:
            UsageError, InputError: Exit 2.
            RunLocked, RunMismatch: Exit 6.
            StorageFailed: Exit 8.
        """
        openfiles.verify(self._config)
        found = self._places
        new = isinstance(found.checkpoint, Path) and not found.checkpoint.exists()
        if self._part.sends and self._rows is None and self._config.input != "-":
            await self._offload(self._look_at_input)
        if new:
            self._check_outputs(None)
        read = new and self._part.sends and self._rows is None and self._config.input != "-"
        if read:
            await self._offload(self._read_for_refusals)
        await self._offload(self._make_run_dir)
        lock = RunLock(found.run_dir, found.checkpoint if isinstance(found.checkpoint, Path) else None)
        self._stack.callback(lock.release)
        source, fingerprint = await self._find_input()
        wanted = Wanted(
            config=self._config,
            places=found,
            input_name=source.name,
            fingerprint=fingerprint,
            at=self._clock.wall(),
            reads_input=self._part.sends,
        )
        store, committer = await self._open_checkpoint(wanted)
        rebound = await committer.call(self._compared, bind, store, wanted)
        if isinstance(source, FileSource | ObjectSource):
            await self._refuse_input(source.path, wanted, store, committer, read=read)
        await committer.call(self._note_places, store)
        await committer.call(self._check_outputs, store)
        if (left := await self._offload(set_aside, found.run_dir)) is not None:
            self._say(f"note: {left}")
        if new and fingerprint is not None:
            await self._offload(self._mention_others, wanted)
        return OpenRun(
            places=found,
            store=store,
            committer=committer,
            source=source,
            encoder=self._encoder,
            prices=self._prices,
            sink=self._sink,
            errors=self._errors,
            rebound=rebound,
            asset_base=await committer.call(self._asset_base, store),
        )

    # The input

    def _look_at_input(self) -> None:
        """Refuse an input that is none before anything is made on disk."""
        readers.open_reader(self._input(), columns=self._columns())

    def _input(self) -> readers.Place:
        name = self._config.input
        if is_address(name):
            return readers.ObjectInput(address=parse_address(name), stores=self._outside.stores)
        return Path(name)

    def _columns(self) -> frozenset[str] | None:
        return getattr(self._encoder, "columns", None)

    async def _find_input(self) -> tuple[FileSource | ObjectSource | NoSource | RowsSource, Fingerprint | None]:
        if not self._part.sends:
            return NoSource(self._config.input), None
        if self._rows is not None:
            return RowsSource(rows=self._rows, run_dir=self._places.run_dir, offload=self._offload), None
        name, path = self._config.input, self._input()
        if isinstance(path, readers.ObjectInput):
            remote = ObjectSource(
                path=path,
                open_reader=lambda pinned: readers.open_reader(pinned, columns=self._columns()),
                offload=self._offload,
            )
            return remote, await remote.identify()
        if name == "-":
            path = await self._offload(
                readers.spool_stdin, sys.stdin.buffer if sys.stdin else None, self._places.run_dir
            )
            name = "standard input"
        file = path
        source = FileSource(
            path=file,
            name=name,
            open_reader=lambda: readers.open_reader(file, columns=self._columns()),
            offload=self._offload,
        )
        return source, await source.identify()

    def _refuse_bad_rows(self, path: readers.Place) -> None:
        """Read the whole input once and refuse it if any row is bad (`--strict`)."""
        bad: list[BadRow] = []
        for chunk in readers.open_reader(path, columns=self._columns()).chunks():
            for raw in chunk:
                if self._config.limit is not None and raw.row >= self._config.limit:
                    break
                encoded = self._encoder.encode(raw)
                if isinstance(encoded, BadRow):
                    bad.append(encoded)
            if len(bad) >= _SAMPLED:
                break
        if not bad:
            return
        shown = "\n".join(
            f"  {'line ' + str(row.line) if row.line else 'row ' + str(row.row)}: {printable(row.message)}"
            for row in bad[:_SAMPLED]
        )
        msg = f"{path} has bad rows, and --strict refuses it. Nothing was sent.\n{shown}"
        raise InputError(msg, hint="Mend these rows, or leave --strict away: they then go to the errors file.")

    def _read_for_refusals(self) -> None:
        """Refuse a new run's input for what is in it before anything is made on disk."""
        path = self._input()
        readers.verify(path)
        if self._config.strict:
            self._refuse_bad_rows(path)
        if self._part is Part.SUBMIT:
            self._refuse_direct_rows(path, RowSet())

    async def _refuse_input(
        self, path: readers.Place, wanted: Wanted, store: Store, committer: Committer, *, read: bool
    ) -> None:
        """Refuse an input for what is in it, unless it was read for that: some of it only once, not at every start."""
        if not await committer.call(store.recall, "verified"):
            if not read:
                await self._offload(readers.verify, path)
            await committer.call(store.note, "verified", True)
        if self._config.strict and not read:
            await self._offload(self._refuse_bad_rows, path)
        if self._part is not Part.SUBMIT:
            return
        seen = {"settings": wanted.settings, "limit": self._config.limit}
        if await committer.call(store.recall, _ONLY_DEFERRED) != seen:
            if not read:
                await self._offload(self._refuse_direct_rows, path, await committer.call(store.taken))
            await committer.call(store.note, _ONLY_DEFERRED, seen)

    def _refuse_direct_rows(self, path: readers.Place, taken: RowSet) -> None:
        for chunk in readers.open_reader(path, columns=self._columns()).chunks():
            for raw in chunk:
                if self._config.limit is not None and raw.row >= self._config.limit:
                    return
                encoded = self._encoder.encode(raw)
                if isinstance(encoded, BadRow) or encoded.mode is Mode.DEFERRED or raw.row in taken:
                    continue
                where = f"line {raw.line}" if raw.line is not None else f"row {raw.row}"
                msg = f"{path}, {where}: this row is direct, and `submit` takes deferred work only. Nothing was sent."
                raise UsageError(msg, hint="Add --mode deferred, or answer direct rows too with: bulkgrok run")

    # The run directory and the checkpoint

    def _make_run_dir(self) -> None:
        make_private(self._places.run_dir, flag="--run-dir")
        checkpoint = self._places.checkpoint
        if isinstance(checkpoint, Path) and checkpoint.parent != self._places.run_dir:
            make_private(checkpoint.parent, flag="--checkpoint")

    async def _open_checkpoint(self, wanted: Wanted) -> tuple[Store, Committer]:
        await self._offload(self._refuse_before_upgrade, wanted)
        store, committer = await self._start()
        if await committer.call(is_replaced, store, wanted):
            assets = await committer.call(self._asset_paths, store)
            await committer.call(store.retire)
            await committer.close()
            self._say(f"The simulated run in {self._places.run_dir} held nothing paid; this run replaces it.")
            await self._offload(self._remove_simulated, assets)
            store, committer = await self._start()
        self._stack.push_async_callback(committer.close)
        for warning in store.warnings:
            self._say(f"note: {warning}")
        return store, committer

    async def _start(self) -> tuple[Store, Committer]:
        found = self._places
        store = open_store(found.checkpoint, run_id=found.run_id, scratch=found.run_dir)
        committer = self._outside.committer(store)
        await committer.start()
        return store, committer

    def _refuse_before_upgrade(self, wanted: Wanted) -> None:
        """Leave a checkpoint of an older version as it is where the run would be refused after it was brought up."""
        checkpoint = self._places.checkpoint
        if not isinstance(checkpoint, Path) or not checkpoint.is_file():
            return
        try:
            older = read_store(checkpoint)
        except (BulkgrokError, OSError):  # whoever opens it to write tells of it
            return
        try:
            if older.outdated and not is_replaced(older, wanted):
                self._compared(compare, older, wanted)
        finally:
            older.close()

    def _compared(self, compared: Callable[[Store, Wanted], bool], store: Store, wanted: Wanted) -> bool:
        try:
            return compared(store, wanted)
        except RunMismatch as error:
            found = store.identity()
            if (
                found is not None
                and wanted.reads_input
                and wanted.fingerprint != found.input
                and wanted.input_name == found.input_name
            ):
                error.message += self._first_difference(store, self._input())
                error.args = (error.message,)
            raise

    def _asset_base(self, store: Store) -> Path | Address:
        """Return where the run's first output lay, unless all of it was moved together."""
        here, noted = self._places.asset_base, store.recall("asset_base")
        if isinstance(noted, str) and noted != str(here):
            if is_address(noted):
                return parse_address(noted)
            if Path(noted).is_dir():
                return Path(noted)
        if noted != str(here):
            store.note("asset_base", str(here))
        return here

    def _first_difference(self, store: Store, path: readers.Place) -> str:
        """Name the first row that is not the one that was begun."""
        with contextlib.suppress(BulkgrokError):
            for chunk in readers.open_reader(path, columns=self._columns()).chunks():
                for raw in chunk:
                    try:
                        counts = store.counts(raw.row)
                    except KeyError:
                        continue
                    if counts.digest != self._encoder.encode(raw).digest:
                        where = f"line {raw.line}" if raw.line is not None else f"row {raw.row}"
                        return f" The first row that differs: {where}."
        return ""

    def _asset_paths(self, store: Store) -> list[Path]:
        base, after, found = self._places.asset_base, 0, list[Path]()
        while isinstance(base, Path) and (batch := store.outbox(after, 1_000)):
            after = batch[-1].seq
            found += [base / asset.path for settled in batch for asset in settled.assets if asset.path]
        return found

    def _remove_simulated(self, assets: list[Path]) -> None:
        found = self._places
        run_dir, checkpoint = found.run_dir, found.checkpoint
        doomed = [run_dir / "simulator.jsonl", run_dir / "status.json", *assets]
        doomed += (run_dir / REPLIES).glob("*")
        if isinstance(checkpoint, Path):
            name = checkpoint.name
            doomed += (checkpoint.with_name(name + suffix) for suffix in ("", "-wal", "-shm", "-journal", "-mark"))
            doomed += checkpoint.parent.glob(f"{glob.escape(name)}.v*.backup*")
        if isinstance(found.errors, Path):
            doomed.append(found.errors)
        if isinstance(found.output, Address):
            self._remove_objects()
        elif found.folder and found.output.is_dir():
            doomed += [*found.output.glob("part-*"), found.output / "_manifest.json"]
        elif not found.folder:
            doomed.append(found.output)
        for path in doomed:
            path.unlink(missing_ok=True)

    def _remove_objects(self) -> None:
        """Remove what a simulated run put in an object store; of its media only what is its own is ever replaced."""
        found = self._places
        output = self._place_of(found.output if found.folder else found.output.parent)
        errors = self._place_of(found.errors.parent)
        names = [found.output.name]
        if found.folder:
            names = [name for name in output.names() if name.startswith("part-") or name == "_manifest.json"]
        with output.storing(), errors.storing():
            for name in names:
                output.remove(name)
            errors.remove(found.errors.name)

    # The outputs

    def _note_places(self, store: Store) -> None:
        """Keep where the results go, and what they are called after, for those who are told only of the checkpoint."""
        found = self._places
        here = {"format": found.output_format, "run_dir": str(found.run_dir)}
        if self._config.output is None:
            here["input"] = self._config.input
        else:
            here["output"] = f"{found.output}{'/' * found.folder}"
        if store.recall(PLACES) != here:
            store.note(PLACES, here)

    def _check_outputs(self, store: Store | None) -> None:
        """Refuse places that hold what this run did not write."""
        if store is None:
            self._sink.check(None, lambda _: False)
            self._errors.check(None, lambda _: False)
            return

        owned = owned_by(store, speaks_of, row_of)
        self._sink.check(store.position(self._sink.name), owned)
        self._errors.check(store.position(_ERRORS), owned)
        self._errors.probe()

    def _mention_others(self, wanted: Wanted) -> None:
        """Tell of a run beside this one that holds answers to the same requests; of one, and only what is sure."""
        found = wanted.places
        if self._config.input == "-":
            return
        for run_dir in sorted(found.run_dir.parent.glob("*.bulkgrok"))[:100]:
            answers = 0
            with contextlib.suppress(BulkgrokError, OSError):
                if run_dir != found.run_dir and (run_dir / "checkpoint.db").exists():
                    answers = self._answers_in(run_dir / "checkpoint.db", wanted)
            if answers:
                self._say(
                    f"note: {run_dir} already holds {noun(answers, 'answer')} to these requests: the same command with "
                    f"--run-dir {shlex.quote(str(run_dir))} writes them to this output at no cost."
                )
                return

    def _answers_in(self, checkpoint: Path, wanted: Wanted) -> int:
        """Return how many rows of the same requests another run has answered."""
        other = read_store(checkpoint)
        try:
            found, totals = other.identity(), other.totals()
        finally:
            other.close()
        same = found is not None and (found.input, found.settings) == (wanted.fingerprint, wanted.settings)
        return totals.succeeded if same and found is not None and found.endpoint == wanted.endpoint else 0
