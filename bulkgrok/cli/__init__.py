"""The command line: one module a command, imported when it is asked for.

Law: commands return an exit code; what goes wrong on purpose is a BulkgrokError and is told in words; a traceback is
never shown. Standard output carries only what was asked for, everything else goes to standard error.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

import rich_click as click

from bulkgrok.cli.messages import broken_pipe, say_crash, say_error, unwrap
from bulkgrok.core.errors import BulkgrokError, UsageError

#: name -> the module below bulkgrok.cli that holds a command of that name.
COMMANDS: Final = {name: name for name in ("run", "submit", "collect", "status", "audit", "simulator")}

CONTEXT: Final = {"help_option_names": ["-h", "--help"]}


class LazyGroup(click.RichGroup):
    """A group that imports a command when it is named: `--version` must not wait for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of a run's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"bulkgrok.cli.{COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - for the type checker
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first argument names; suggest the nearest where there is none."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 - only for a slip

            near = get_close_matches(name, COMMANDS, n=1)
            msg = f"There is no command '{name}'." + (f" Did you mean '{near[0]}'?" if near else "")
            raise click.UsageError(msg, ctx=ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        from importlib.metadata import version  # noqa: PLC0415 - costs 20 ms and is asked for by nothing else

        click.echo(f"bulkgrok {version('bulkgrok')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings=CONTEXT, no_args_is_help=False, invoke_without_command=True)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.pass_context
def bulkgrok(ctx: click.Context) -> int:
    """Push files of prompts and video jobs through the xAI API, losing no paid answer.

    `bulkgrok run inputs.jsonl` runs, or resumes: the same command again continues where it stopped.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = bulkgrok.main(args=arguments, prog_name="bulkgrok", standalone_mode=False)
    except click.ClickException as error:
        _say_usage_error(error)
        return 2
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        broken_pipe()
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost boundary: told in words, never as a traceback
        return _tell(error)
    return code if isinstance(code, int) else 0


def _tell(error: Exception) -> int:
    known = unwrap(error)
    if isinstance(known, BulkgrokError):
        say_error(known)
        return known.exit_code
    say_crash(error, log=None)
    return 1


def _say_usage_error(error: click.ClickException) -> None:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bulkgrok"
    message = error.format_message()
    message = message if message.endswith(("?", "?)", ".")) else f"{message}."
    say_error(UsageError(f"{message} Nothing was sent.", hint=f"{command} --help"))
