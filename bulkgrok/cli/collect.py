"""`bulkgrok collect RUN`: the second half of a run of deferred work."""

from __future__ import annotations

from bulkgrok.cli.run import command, execute
from bulkgrok.cli.shielding import shield
from bulkgrok.config import COLLECT_FLAGS
from bulkgrok.core.part import Part


def _callback(run: str, **flags: object) -> int:
    shield()
    from bulkgrok.engine.collecting import collecting  # noqa: PLC0415 - help must not wait for it

    config_file = flags.pop("config", None)
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    return execute(collecting(run, given, config_file=str(config_file) if config_file else None), Part.COLLECT)


collect = command(
    "collect",
    _callback,
    argument="RUN",
    flags=COLLECT_FLAGS,
    short_help="Poll and redeem what was submitted; submits nothing.",
    help="Ask for the answers of a run until none is outstanding, and write them; nothing is sent.\n\n"
    "RUN is a run directory, a checkpoint, or the input or output path it belongs to; the input itself is not needed. "
    "Exit code 0 says that every row succeeded, 3 that some failed or are still to be sent. "
    "The same command again continues where it stopped.",
)
