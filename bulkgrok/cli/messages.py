"""How the command line speaks: where text goes, how errors and crashes read.

Law: an error says what happened and where, what was not lost, and the next command to type. Text that came from rows,
the API or file names passes `printable`. A reader that hangs up (`| head`) is no error.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TextIO

from bulkgrok.core.errors import BulkgrokError
from bulkgrok.telemetry.redaction import Redaction
from bulkgrok.telemetry.wording import printable


def write_out(text: str) -> None:
    """Write lines to standard output as UTF-8, whatever the locale says; a reader that hung up is no error."""
    if sys.stdout is None:
        return
    try:
        stream = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(text + "\n")
        else:
            sys.stdout.flush()
            stream.write(text.encode("utf-8", "backslashreplace") + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:
        broken_pipe()
    except OSError as error:
        say(f"Standard output could not be written: {error.strerror or error}")
        broken_pipe()


def broken_pipe() -> None:
    """Point standard output to nowhere, so that the interpreter's own flush at the end says nothing."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    except OSError:
        sys.stdout = None


def error_stream() -> TextIO:
    """Return standard error, or nowhere when it is closed."""
    return sys.stderr if sys.stderr is not None else Path(os.devnull).open("w", encoding="utf-8")


def say(text: str) -> None:
    """Write a message to standard error; one that nobody can read stops nothing."""
    stream = error_stream()
    try:
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode() + "\n")
        stream.flush()
    except (OSError, ValueError):
        return


def error_text(error: BulkgrokError, redact: Redaction | None = None) -> str:
    """Return what an error says: its message, then what to do next."""
    hide = redact or Redaction()
    lines = [f"bulkgrok: {printable(hide(error.message), limit=2000, lines=True)}"]
    if error.hint:
        lines.append(f"  next: {printable(hide(error.hint), limit=1000, lines=True)}")
    return "\n".join(lines)


def say_error(error: BulkgrokError, redact: Redaction | None = None) -> None:
    """Write an error to standard error."""
    say(error_text(error, redact))


def unwrap(error: BaseException) -> BaseException:
    """Return the BulkgrokError inside nested exception groups, or the error itself where there is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            found = unwrap(inner)
            if isinstance(found, BulkgrokError):
                return found
    return error


def say_crash(error: BaseException, *, log: Path | None, redact: Redaction | None = None) -> None:
    """Tell of an unexpected error: what, where its traceback is, and that nothing received is lost.

    Args:
        error: The error.
        log: The log that holds its traceback; None keeps it in a file of its own.
        redact: What takes secrets out of the text.
    """
    hide = redact or Redaction()
    where = log or _spill(hide("".join(traceback.format_exception(error))))
    what = printable(hide(f"{type(error).__name__}: {error}"), limit=300)
    scarce = isinstance(error, MemoryError) or "can't start new thread" in str(error)
    kind = (
        "this process gets no more memory or threads" if scarce else "an unexpected error, which is a bug of bulkgrok"
    )
    say(f"bulkgrok: {kind}: {what}")
    if where is not None:
        say(f"  details: {printable(where)}")
    say("  Answers that were received are in the checkpoint; none is lost or paid again.")
    say(f"  next: {again()}   (a run continues where it stopped)")


def _spill(trace: str) -> Path | None:
    """Keep a traceback that has no log to go to."""
    try:
        handle, name = tempfile.mkstemp(prefix="bulkgrok-crash-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)
    except OSError:
        return None
    return Path(name)


def again(*more: str) -> str:
    """Return the command as it was typed, with more flags, ready to be pasted."""
    typed = [argument for argument in sys.argv[1:] if argument not in more]
    return printable(shlex.join(["bulkgrok", *typed, *more]), limit=2000)
