"""From the name of a run to the configuration that collects it.

Law: what is asked, of whom, and where its results go are told by the run; only what is free on a resume is a flag. The
input is neither looked for nor read: it may lie where only the submitting machine sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bulkgrok.config import COLLECT_FLAGS, RunConfig, load, only_flags_of
from bulkgrok.core.errors import UsageError
from bulkgrok.core.ports import Store
from bulkgrok.core.secret import Secret
from bulkgrok.engine.binding import SIMULATOR
from bulkgrok.engine.lookup import FoundRun, find_run, moved_along, moved_from, reading
from bulkgrok.engine.opening import PLACES
from bulkgrok.telemetry.wording import printable


def collecting(
    run: str | Path, flags: Mapping[str, object], *, config_file: str | None = None, api_key: Secret | None = None
) -> RunConfig:
    """Return the configuration that collects a run.

    Args:
        run: A run directory, a checkpoint, or the input or output path it belongs to.
        flags: Those of `collect`, in kebab or snake case; None is "not given".
        config_file: A TOML file of flags; what `collect` has no use for in it is not used.
        api_key: The key where the caller has it already.

    Raises:
        UsageError: There is no run there, or a flag cannot be used.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    only_flags_of("collect", given, COLLECT_FLAGS)
    found = find_run(str(run))
    with reading(found) as store:
        identity, told = store.identity(), _places(store, found)
    if identity is None:
        msg = f"There is no run in {printable(found.checkpoint, limit=4096)}: nothing was ever submitted."
        raise UsageError(msg, hint="bulkgrok submit INPUT --mode deferred")
    if "output" in given:
        told = {"run_dir": told["run_dir"]} if "run_dir" in told else {}
    fixed = {"simulate": identity.simulated}
    config = load({"input": "-", **told, **given, **fixed}, config_file=config_file, api_key=api_key)
    return replace(
        config,
        **identity.settings,  # type: ignore[arg-type]
        checkpoint=found.checkpoint,
        run_id=found.run_id or None,
        input=config.input if config.output is None else identity.input_name,
        base_url=config.base_url if identity.endpoint == SIMULATOR else identity.endpoint,
        limit=None,
        strict=False,
        preview=None,
        retry_failed=False,
        budget=None,
        max_at_risk=None,
    )


def _places(store: Store, found: FoundRun) -> dict[str, object]:
    """Return where the files of a run lie, as flags: where it says; where its directory moved, they moved with it."""
    noted, report, identity = store.recall(PLACES), store.recall("report"), store.identity()
    if not isinstance(noted, dict):  # a version that did not note it began the run
        output = report.get("output") if isinstance(report, dict) else None
        return {"output": output or (identity.run_id if identity else None), "run_dir": found.run_dir}
    place: dict[str, object] = {"output_format": noted["format"]}
    name = "output" if "output" in noted else "input"
    named, run_dir = str(noted[name]), Path(str(noted["run_dir"]))
    was, here = moved_from(found, str(run_dir)), found.run_dir
    if was is not None and here is not None:
        named, run_dir = moved_along(named, was, here), here
    if here is not None or run_dir.is_dir():  # a database may be read where nothing of the run lies
        place["run_dir"] = run_dir
    return place | {name: named}
