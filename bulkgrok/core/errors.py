"""Errors answer one question: what does this stop?

    BulkgrokError                        carries `exit_code` and `hint`, the next thing to type
    |- stops the run before anything is sent
    |   |- UsageError (2)                flags, configuration, output places
    |   |- InputError (2)                the input cannot be read as what it claims to be
    |   |- RunLocked (6)                 another runner holds the run
    |   `- RunMismatch (6)               the checkpoint belongs to other input, settings, endpoint or key
    |- stops the run, resumable
    |   |- LimitReached (4)              `--budget` or `--max-at-risk` covers no further request
    |   |- StoppedByApi (5)              key, permission, credit, or the first rows all rejected alike
    |   |- ApiUnavailable (7)            an outage longer than `--max-outage`
    |   `- StorageFailed (8)             checkpoint or output could not be written
    |       `- RunTakenOver (6)          because the checkpoint belongs to another runner by now
    |- stops one row
    |   `- InvalidRow                    never leaves the stage that meets it: it becomes a BadRow
    `- of the small client
        |- ApiError                      the API's refusal, with status and text
        `- DeferredTimeout               also a TimeoutError; carries `request_id`: the result can still be redeemed

What stops nothing (a refusal, a dropped connection) is no exception but a value: see `verdict`.
aiohttp's, SQLite's, PostgreSQL's and pyarrow's exceptions are mapped to these at their seam and never travel further.
"""

from __future__ import annotations


class BulkgrokError(Exception):
    """Any error that bulkgrok raises on purpose.

    Args:
        message: What happened and where (file, row, line), and what was not lost.
        hint: The next command to type or thing to do, or None.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BulkgrokError):
    """Flags, configuration or output places that cannot be used. Nothing was sent."""

    exit_code = 2


class InputError(BulkgrokError):
    """The input as a whole cannot be read. Nothing more was sent."""

    exit_code = 2


class RunLocked(BulkgrokError):
    """Another runner holds this run. Nothing was sent."""

    exit_code = 6


class RunMismatch(BulkgrokError):
    """The checkpoint belongs to another input, other fixed settings, another endpoint or key. Nothing was sent."""

    exit_code = 6


class LimitReached(BulkgrokError):
    """`--budget` or `--max-at-risk` covers no further request. Rows stay pending; nothing on its way was given up."""

    exit_code = 4


class StoppedByApi(BulkgrokError):
    """The API will not serve this key or these requests. Rows stay pending."""

    exit_code = 5


class ApiUnavailable(BulkgrokError):
    """The API was out of reach for longer than `--max-outage`. Rows stay pending."""

    exit_code = 7


class StorageFailed(BulkgrokError):
    """The checkpoint or an output could not be written. What was durable stays durable."""

    exit_code = 8


class RunTakenOver(StorageFailed):
    """Another runner owns the checkpoint by now: nothing more may be sent or written."""

    exit_code = 6


class InvalidRow(BulkgrokError):
    """One row that cannot be sent; `template` tells that a template of the user's failed on it."""

    exit_code = 3

    def __init__(self, message: str, *, template: bool = False) -> None:
        super().__init__(message)
        self.template = template


class ApiError(BulkgrokError):
    """The API refused a call of the small client.

    Args:
        status: HTTP status, or None when no usable reply came.
        message: The API's own words.
    """

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class DeferredTimeout(BulkgrokError, TimeoutError):
    """A deferred result was not ready in time; `request_id` can still be redeemed within its 24 h."""

    def __init__(self, message: str, *, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id
