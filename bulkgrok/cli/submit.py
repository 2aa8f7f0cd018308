"""`bulkgrok submit INPUT`: the first half of a run of deferred work."""

from __future__ import annotations

from bulkgrok.cli.run import command, execute, loaded
from bulkgrok.cli.shielding import shield
from bulkgrok.config import FLAGS
from bulkgrok.core.part import Part


def _callback(**flags: object) -> int:
    shield()
    return execute(loaded(flags), Part.SUBMIT)


submit = command(
    "submit",
    _callback,
    argument="INPUT",
    flags=FLAGS,
    short_help="Send all deferred work and end; `collect` fetches the answers, from anywhere.",
    help="Send every row of INPUT to the xAI API as deferred work, and ask for no answer.\n\n"
    "Rows are direct unless they, or --mode deferred, say otherwise; with a direct row nothing is sent (exit code 2). "
    "Exit code 0 says that all is accepted, 4 that no more may be outstanding before some is collected. "
    "The same command again continues where it stopped, and so does `bulkgrok run` with the same flags.",
)
