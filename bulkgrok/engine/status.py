"""`status.json`: what a run is doing, for those who look on. Replaced whole, never half written, never awaited for."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Final

import orjson

from bulkgrok.config import Places
from bulkgrok.core.model import Progress
from bulkgrok.core.report import Report

STATUS_NAME: Final = "status.json"


def write_status(places: Places, *, progress: Progress, report: Report | None, at: float) -> None:
    """Replace status.json. A disk that refuses it stops nothing: it is a courtesy, the checkpoint is the truth."""
    run_dir = places.run_dir
    value = {
        "pid": os.getpid(),
        "state": progress.state,
        "updated_at": at,
        "checkpoint": str(places.checkpoint),
        "run_id": places.run_id,
        "progress": dataclasses.asdict(progress),
        "report": report.as_json() if report is not None else None,
    }
    temporary = run_dir / f".{STATUS_NAME}.tmp"
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, orjson.dumps(value, default=str) + b"\n")
        finally:
            os.close(fd)
        temporary.replace(run_dir / STATUS_NAME)
