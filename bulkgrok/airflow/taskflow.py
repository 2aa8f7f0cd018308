"""`run_bulkgrok`: one run inside of a @task function."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from bulkgrok.airflow.compat import get_current_context
from bulkgrok.airflow.hook import XAIHook, connected
from bulkgrok.airflow.judging import failure, summary, warn_of_a_local_checkpoint
from bulkgrok.airflow.running import Running, run_id_of
from bulkgrok.airflow.tasklog import TaskLog
from bulkgrok.config import RunConfig
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.part import Part

_LOG: Final = logging.getLogger(__name__)


def run_bulkgrok(  # noqa: PLR0913 - what a task is told
    input: str,  # noqa: A002 - the public name
    *,
    output: str | None = None,
    checkpoint: str | None = None,
    xai_conn_id: str | None = XAIHook.default_conn_name,
    options: Mapping[str, Any] | None = None,
    max_failed_fraction: float = 0.0,
) -> dict[str, Any]:
    """Answer every row of a file, inside of a task, and return the summary; a retry of the task goes on with the run.

    Args:
        input: As for BulkGrokOperator, and so are the others; nothing is templated here.
        output: Where the results go.
        checkpoint: A path, or postgresql://….
        xai_conn_id: A connection of type `xai`.
        options: Flags of `bulkgrok run` in snake case.
        max_failed_fraction: So much of all rows may fail.

    Raises:
        AirflowFailException: A retry would end in the same way.
        AirflowException: The next try goes on.
    """
    config: RunConfig | None = None
    try:
        config = connected(
            xai_conn_id,
            input=input,
            output=output,
            checkpoint=checkpoint,
            run_id=run_id_of(get_current_context()),
            options=options or {},
        )
        warn_of_a_local_checkpoint(config, _LOG)
        ended = Running(config, Part.WHOLE, log=TaskLog(_LOG, config.secrets)).run()
    except BulkgrokError as error:
        raise failure(error, config) from None
    return summary(ended.report, config, max_failed_fraction=max_failed_fraction)
