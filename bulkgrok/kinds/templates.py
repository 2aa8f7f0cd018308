"""`--prompt` and `--system`: the user's template, filled with one row.

Law: a column the row lacks is an error, never an empty place in a paid prompt; a column that is null is empty text.
The templates are the user's own; the sandbox keeps what a *row* holds from doing anything.
jinja2 is imported only where there is a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from bulkgrok.core.errors import InvalidRow, UsageError

if TYPE_CHECKING:
    import jinja2

#: The whole row under one name, for columns whose names are no identifiers: {{ row["odd key"] }}.
WHOLE_ROW: Final = "row"
_LISTED_COLUMNS: Final = 40
_HINT: Final = "Mend it; columns stand in double braces: --prompt 'Q: {{ question }}'"


class PromptTemplate:
    """A compiled template.

    Args:
        text: Its source (jinja2).
        flag: The flag it came with, for messages.

    Raises:
        UsageError: It is not a template.
    """

    def __init__(self, text: str, *, flag: str) -> None:
        import jinja2  # noqa: PLC0415 - costs 50 ms, and most runs have no template
        import jinja2.meta  # noqa: PLC0415
        import jinja2.sandbox  # noqa: PLC0415
        from jinja2.nodes import Output, TemplateData  # noqa: PLC0415

        environment = jinja2.sandbox.SandboxedEnvironment(
            undefined=jinja2.StrictUndefined, autoescape=False, finalize=_null_is_empty, cache_size=0
        )
        # Without globals, a column that is called like one of them ("range", "dict") counts as a column too.
        bare = jinja2.Environment(autoescape=False)  # noqa: S701 - parses only, renders nothing; and prompts are no HTML
        bare.globals.clear()
        try:
            text.encode()
            self._template: jinja2.Template = environment.from_string(text)
            parsed = bare.parse(text)
            names = jinja2.meta.find_undeclared_variables(parsed)
        except jinja2.TemplateSyntaxError as error:
            reason = f"line {error.lineno}: {error.message}".rstrip(".")
            msg = f"the template of {flag} is malformed: {reason}. Nothing was sent."
            raise UsageError(msg, hint=_HINT) from error
        except UnicodeEncodeError as error:
            msg = f"the template of {flag} is not UTF-8 text. Nothing was sent."
            raise UsageError(msg, hint=_HINT) from error
        except (ValueError, RecursionError, jinja2.TemplateError, SyntaxError) as error:
            msg = f"the template of {flag} cannot be used: {str(error).rstrip('.')}. Nothing was sent."
            raise UsageError(msg, hint=_HINT) from error
        self._flag = flag
        self._undefined = jinja2.UndefinedError
        parts = (part for node in parsed.body for part in (node.nodes if isinstance(node, Output) else [node]))
        self._text = self._template.render() if all(isinstance(part, TemplateData) for part in parts) else None
        """What it says of every row, where it is text alone; rendered for each, that would be half of the encoding."""
        self.columns: Final[frozenset[str] | None] = None if WHOLE_ROW in names else frozenset(names)
        """The columns it refers to; None when it may refer to any."""

    def render(self, columns: Mapping[str, object]) -> str:
        """Return the text for one row.

        Raises:
            InvalidRow: The template failed on it; `template` is set.
        """
        if self._text is not None:
            return self._text
        try:
            return self._template.render({WHOLE_ROW: columns, **columns})
        except self._undefined as error:
            msg = f"the template of {self._flag} failed: {error.message}; the row has {_listed(columns)}"
            raise InvalidRow(msg, template=True) from error
        except Exception as error:
            msg = f"the template of {self._flag} failed: {type(error).__name__}: {str(error)[:300]}"
            raise InvalidRow(msg, template=True) from error


def _null_is_empty(value: object) -> object:
    return "" if value is None else value


def _listed(columns: Mapping[str, object]) -> str:
    names = [str(name)[:60] for name in columns][:_LISTED_COLUMNS]
    more = len(columns) - len(names)
    return (", ".join(names) or "no columns") + (f" and {more} more" if more > 0 else "")
