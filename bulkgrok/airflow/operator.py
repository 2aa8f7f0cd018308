"""`BulkGrokOperator`: one run as a task.

Law: a try is a start of the run, and a retry types the same command again: it goes on with what was paid for. The run
is named by dag, task, dag run and map index, never by the try. XCom holds the summary, never rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar

from bulkgrok.airflow.compat import BaseOperator, conf, mask_secret
from bulkgrok.airflow.hook import XAIHook, connected
from bulkgrok.airflow.judging import failure, summary, warn_of_a_local_checkpoint
from bulkgrok.airflow.running import Running, run_id_of
from bulkgrok.airflow.tasklog import TaskLog
from bulkgrok.airflow.trigger import BulkGrokTrigger
from bulkgrok.config import RunConfig
from bulkgrok.core.databaseurl import DatabaseUrl, is_database
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.part import Part


class BulkGrokOperator(BaseOperator):
    """Answers every row of a file through the xAI API.

    Args:
        input: Path or URI of the rows (.jsonl, .parquet, .txt). Templated.
        output: Where the results go; beside the input if nothing is said. Templated: name the dag run in it
            ("out/{{ ds }}/"), for each dag run is a run of its own.
        checkpoint: A path, or postgresql://… where workers share no disk. Templated.
        xai_conn_id: A connection of type `xai`; None takes the key from XAI_API_KEY.
        options: Flags of `bulkgrok run` in snake case, above those of the connection. Templated; a template for rows
            is kept from Airflow with {% raw %}.
        deferrable: Give the worker's slot back while deferred results ripen.
        max_failed_fraction: So much of all rows may fail (0.01: one of a hundred) before the task does.
        **kwargs: Of BaseOperator; `outlets` are told when the task succeeds.
    """

    template_fields: ClassVar[Sequence[str]] = ("input", "output_to", "checkpoint", "xai_conn_id", "options")
    template_fields_renderers: ClassVar[dict[str, str]] = {"options": "json"}
    ui_color = "#e8e8e8"

    def __init__(  # noqa: PLR0913 - what a task is told
        self,
        *,
        input: str,  # noqa: A002 - the public name
        output: str | None = None,
        checkpoint: str | None = None,
        xai_conn_id: str | None = XAIHook.default_conn_name,
        options: Mapping[str, Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        max_failed_fraction: float = 0.0,
        **kwargs: Any,  # noqa: ANN401 - BaseOperator's
    ) -> None:
        super().__init__(**kwargs)
        self.input = input
        self.output_to = output  # BaseOperator.output is another thing, and read-only
        self.checkpoint = checkpoint
        self.xai_conn_id = xai_conn_id
        self.options = dict(options or {})
        self.deferrable = deferrable
        self.max_failed_fraction = max_failed_fraction
        self._running: Running | None = None

    def _do_render_template_fields(self, *args: Any, **named: Any) -> None:  # noqa: ANN401 - BaseOperator's
        """Render, and hide the database's password from what Airflow keeps and shows of it.

        Of a mapped task Airflow calls this method alone.
        """
        super()._do_render_template_fields(*args, **named)
        with suppress(ValueError):  # execute tells of it
            if isinstance(self.checkpoint, str) and is_database(self.checkpoint):
                for secret in DatabaseUrl(self.checkpoint).secrets:
                    mask_secret(secret.reveal())

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Run, or go on; return the summary."""
        return self._start(context)

    def resume(self, context: Mapping[str, Any], event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Go on after a trigger fired; what it tells is known."""
        del event
        return self._start(context)

    def on_kill(self) -> None:
        """Send nothing new, keep what arrives within 4 s, end within 5."""
        if self._running is not None:
            self._running.end()

    def _start(self, context: Mapping[str, Any]) -> dict[str, Any]:
        run_id = run_id_of(context)
        config: RunConfig | None = None
        try:
            config = connected(
                self.xai_conn_id,
                input=self.input,
                output=self.output_to,
                checkpoint=self.checkpoint,
                run_id=run_id,
                options=self.options,
            )
            warn_of_a_local_checkpoint(config, self.log, getattr(self, "executor", None))
            part = Part.ROUND if self.deferrable else Part.WHOLE
            self._running = running = Running(config, part, log=TaskLog(self.log, config.secrets))
            ended = running.run()
        except BulkgrokError as error:
            raise failure(error, config) from None
        if ended.next_at is not None and not running.ended:
            until = datetime.fromtimestamp(ended.next_at, UTC).isoformat(timespec="seconds")
            self.log.info("%d requests are outstanding; the next round is at %s", ended.report.outstanding, until)
            self.defer(trigger=BulkGrokTrigger(run_id=run_id, at=ended.next_at), method_name="resume")
        return summary(ended.report, config, max_failed_fraction=self.max_failed_fraction)
