"""What the end of a run means for its task, and what should be known before it.

Law: what a retry cannot change fails the task at once (exit codes 2 and 5, a run of other input or settings, too many
failed rows); all else may be tried again, and the next try goes on with what was paid for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from bulkgrok.airflow.compat import AirflowException, AirflowFailException, conf
from bulkgrok.config import RunConfig, places
from bulkgrok.core.errors import BulkgrokError, RunLocked
from bulkgrok.core.report import Report
from bulkgrok.telemetry.redaction import Redaction

_FOR_GOOD: Final = frozenset({2, 5, 6})
_LOCAL: Final = frozenset({"SequentialExecutor", "LocalExecutor", "DebugExecutor", "InProcessExecutor"})
_GOES_ON: Final = "Nothing paid is lost: the next try goes on with this run."


def failure(error: BulkgrokError, config: RunConfig | None = None) -> Exception:
    """Return what to raise for an error of a run.

    Args:
        error: The error.
        config: The run's, for its secrets.
    """
    text = f"{error.message} Next: {error.hint}" if error.hint else error.message
    text = Redaction(config.secrets if config is not None else ())(text)
    if error.exit_code in _FOR_GOOD and not isinstance(error, RunLocked):
        failed: Exception = AirflowFailException(text)
        return failed
    again: Exception = AirflowException(f"{text} {_GOES_ON}")
    return again


def summary(report: Report, config: RunConfig, *, max_failed_fraction: float) -> dict[str, Any]:
    """Return a finished run's summary for XCom: counts, cost and places, never rows.

    Args:
        report: How it ended.
        config: The run's.
        max_failed_fraction: Of all rows, as many may have failed: 0.01 is one of a hundred.

    Raises:
        AirflowFailException: A retry would end in the same way.
        AirflowException: The next try may go on.
    """
    if isinstance(report.stopped, BulkgrokError):
        raise failure(report.stopped, config)
    if report.exit_code not in {0, 3} or report.outstanding or report.pending != 0:
        left = f"{report.outstanding} requests outstanding and {report.in_doubt} in doubt"
        msg = f"The run was ended with {left} (exit code {report.exit_code}). {_GOES_ON}"
        raise AirflowException(msg)
    rows = report.rows or 0
    if report.failed > max_failed_fraction * rows:
        codes = ", ".join(f"{count} {code}" for code, count in sorted(report.failed_by_code.items()))
        msg = (
            f"{report.failed} of {rows} rows failed ({codes}), and max_failed_fraction is {max_failed_fraction}. "
            f"Why stands in {report.errors}; clear the task with retry_failed in options to try them again."
        )
        raise (AirflowException if config.retry_failed else AirflowFailException)(msg)
    return report.as_json()


def warn_of_a_local_checkpoint(config: RunConfig, log: logging.Logger, executor: object = None) -> None:
    """Say clearly that the next try may not find the checkpoint, where it is a path and tasks run on several machines.

    Args:
        config: The run's.
        log: The task's.
        executor: The task's own, where it names one.
    """
    checkpoint, name = places(config).checkpoint, str(executor or conf.get("core", "executor", fallback=""))
    names = {one.rpartition(":")[2].rpartition(".")[2] for one in name.split(",")}
    if isinstance(checkpoint, Path) and not names <= _LOCAL:
        log.warning(
            "The checkpoint %s is a path of this worker. With %s the next try may run on another one, would not find "
            "it, and would pay again. Give checkpoint='postgresql://...', or a path that all workers share.",
            checkpoint,
            name,
        )
