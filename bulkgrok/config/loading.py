"""The merge: flags before the environment, the environment before TOML, TOML before the defaults.

Law: a setting that cannot be understood is a UsageError that names where it was made (the flag, the variable, or the
file and its key); none is ever accepted and ignored. The key is never a flag's value and appears in no message.
"""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bulkgrok.config import parsing
from bulkgrok.config.flags import FLAGS, Flag
from bulkgrok.config.values import DEFAULT_BASE_URL, RunConfig
from bulkgrok.core.errors import UsageError
from bulkgrok.core.secret import Secret

_BY_KEYWORD: Final[Mapping[str, Flag]] = {flag.keyword: flag for flag in FLAGS}
_BY_VARIABLE: Final[Mapping[str, Flag]] = {flag.variable: flag for flag in FLAGS}
_MAX_KEY_BYTES: Final = 8192
#: The simulator takes any key; a real one must not reach it.
_SIMULATOR_KEY: Final = "simulator"
_KEY_HINT: Final = "Name a text file that holds the key alone, or: export XAI_API_KEY=…"


def load(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str] | None = None,
    config_file: str | Path | None = None,
    api_key: Secret | None = None,
) -> RunConfig:
    """Merge everything a run is told into one value.

    Args:
        flags: Values by flag name, in kebab or snake case, `input` among them; None is "not given".
        environ: The environment; the process's own by default.
        config_file: A TOML file of flags, as `--config` names it.
        api_key: The key where the caller has it already (Airflow's connection); no other place is asked then.

    Raises:
        UsageError: A setting cannot be understood or used. Nothing was sent.
    """
    try:
        return _load(flags, os.environ if environ is None else environ, config_file, api_key, "--{}")
    except UsageError as error:
        raise _without_frames(error) from None


def from_keywords(input: str | Path, **keywords: object) -> RunConfig:  # noqa: A002 - the public name of the argument
    """Make the configuration of `bulkgrok.run(input, **keywords)`: every flag in snake case.

    Raises:
        UsageError: A keyword is no flag, or its value cannot be used.
    """
    try:
        return _load({**keywords, "input": input}, os.environ, None, None, "{}")
    except UsageError as error:
        raise _without_frames(error) from None


def only_flags_of(command: str, flags: Mapping[str, object], known: Iterable[Flag]) -> None:
    """Refuse a flag that a command does not have, though `run` may.

    Raises:
        UsageError: There is one.
    """
    names = {flag.keyword for flag in known}
    for name in flags:
        if name.replace("-", "_") not in names:
            close = difflib.get_close_matches(name.replace("-", "_"), names, n=3)
            msg = f"{name!r} is no flag of {command}. Nothing was sent."
            hint = f"Did you mean {' or '.join(close)}?" if close else f"`bulkgrok {command} --help` lists the flags."
            raise UsageError(msg, hint=hint)


def endpoint(
    api_key: str | None = None, base_url: str | None = None, *, environ: Mapping[str, str] | None = None
) -> tuple[Secret, str]:
    """Return key and base URL for single calls: as given, else from XAI_API_KEY and XAI_BASE_URL.

    Raises:
        UsageError: There is no key, or one of the two cannot be used.
    """
    try:
        return _endpoint(api_key, base_url, os.environ if environ is None else environ)
    except UsageError as error:
        api_key = None
        raise _without_frames(error) from None


def _endpoint(api_key: str | None, base_url: str | None, environ: Mapping[str, str]) -> tuple[Secret, str]:
    address = base_url or environ.get("XAI_BASE_URL") or DEFAULT_BASE_URL
    _, parsed = _parsed(_BY_KEYWORD["base_url"], address, "base_url" if base_url else "XAI_BASE_URL")
    return _key(None, environ if api_key is None else {"XAI_API_KEY": api_key}, []), str(parsed)


def _without_frames(error: UsageError) -> UsageError:
    """Return an error without the calls it came through: their variables hold the environment, and the key in it."""
    return error.with_traceback(None)


def _load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    config_file: str | Path | None,
    api_key: Secret | None,
    spelling: str,
) -> RunConfig:
    given = {name.replace("-", "_"): value for name, value in flags.items() if value is not None and value != ()}
    source = given.pop("input", None)
    for name in given:
        if name not in _BY_KEYWORD:
            problem = f"{name!r} is no flag of run"
            raise _unknown(problem, name)
    file = config_file or given.pop("config", None) or environ.get("BULKGROK_CONFIG") or None
    values: dict[str, Any] = {}
    for layer in (
        _from_file(file) if file else (),
        _from_environment(environ),
        _from_flags(given, spelling),
    ):
        for flag, value in layer:
            values[flag.field] = {**values.get(flag.field, {}), **value} if flag.many else value
    values.pop("config", None)
    values["input"] = _input(source)
    warnings = [*_strange_variables(environ)]
    key_file = values.pop("api_key_file", None)
    if values.get("simulate"):
        values["api_key"] = Secret(_SIMULATOR_KEY)
        if "base_url" in given:
            warnings.append("--base-url is not used: --simulate is an endpoint of its own.")
    elif api_key is not None:
        values["api_key"] = api_key
    elif not values.get("preview"):
        values["api_key"] = _key(key_file, environ, warnings)
    return RunConfig(warnings=tuple(warnings), **values)


def _unknown(problem: str, name: str) -> UsageError:
    """Say that a name is no flag, with the flags that look like it."""
    close = difflib.get_close_matches(name.replace("-", "_"), _BY_KEYWORD, n=3)
    return UsageError(
        f"{problem}. Nothing was sent.",
        hint=f"Did you mean {' or '.join(close)}?" if close else "`bulkgrok run --help` lists the flags.",
    )


def _parsed(flag: Flag, value: object, where: str) -> tuple[Flag, object]:
    try:
        parsed = flag.parse(value)
    except (ValueError, OSError) as error:
        msg = f"{where} {error}. Nothing was sent."
        raise UsageError(msg, hint="`bulkgrok run --help` explains every flag.") from None
    return flag, (not parsed if flag.negative else parsed)


def _with_folder(flag: Flag, value: object, where: str) -> Iterator[tuple[Flag, Any]]:
    """Parse one setting; an output also tells whether a slash ended it, which a path forgets."""
    yield _parsed(flag, value, where)
    if flag.field == "output":
        yield _FOLDER, str(value).endswith(("/", os.sep))


_FOLDER: Final = Flag(
    name="output-is-folder", field="output_is_folder", parse=parsing.switch, section="", help="never a flag of its own"
)


def _from_flags(given: Mapping[str, object], spelling: str) -> Iterator[tuple[Flag, Any]]:
    for name, value in given.items():
        flag = _BY_KEYWORD[name]
        yield from _with_folder(flag, value, spelling.format(flag.name if "-" in spelling else flag.keyword))


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[Flag, Any]]:
    if environ.get("XAI_BASE_URL"):
        yield _parsed(_BY_KEYWORD["base_url"], environ["XAI_BASE_URL"], "XAI_BASE_URL")
    for variable, flag in _BY_VARIABLE.items():
        if environ.get(variable):
            yield from _with_folder(flag, environ[variable], variable)


def _strange_variables(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in environ:
        if variable.startswith("BULKGROK_") and variable not in _BY_VARIABLE:
            close = difflib.get_close_matches(variable, _BY_VARIABLE, n=1)
            yield f"{variable} is set and means nothing" + (f"; did you mean {close[0]}?" if close else ".")


def _from_file(file: object) -> Iterator[tuple[Flag, Any]]:
    try:
        place = parsing.path(file)
        content = tomllib.loads(place.read_bytes().decode("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        msg = f"{file} is not TOML: {error}. Nothing was sent."
        raise UsageError(msg, hint='Mend it; a line is a flag and its value: model = "grok-4.3"') from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        msg = f"--config {file} cannot be read: {reason}. Nothing was sent."
        raise UsageError(msg, hint="Name a file of flags in TOML that you can read, or leave --config away.") from None
    for key, value in content.items():
        flag = _BY_KEYWORD.get(key.replace("-", "_"))
        if flag is None or flag.name == "config":
            problem = f"{place}: {key!r} is no flag of run"
            raise _unknown(problem, key)
        yield from _with_folder(flag, value, f"{place}: {key}")


def _input(source: object) -> str:
    if source == "-":
        return "-"
    try:
        return str(parsing.place(source))
    except ValueError as error:
        msg = f"The input {error}. Nothing was sent."
        raise UsageError(msg, hint="bulkgrok run inputs.jsonl") from None


def _key(file: Path | None, environ: Mapping[str, str], warnings: list[str]) -> Secret:
    where = str(file) if file else "XAI_API_KEY"
    raw = _key_from(file, warnings) if file else environ.get("XAI_API_KEY", "")
    key = raw.strip()
    if not key:
        missing = f"{where} is empty" if file or "XAI_API_KEY" in environ else "No API key: XAI_API_KEY is not set"
        msg = f"{missing}. Nothing was sent."
        raise UsageError(msg, hint="export XAI_API_KEY=… (from console.x.ai), or try it without one: --simulate")
    if not all("!" <= character <= "~" for character in key):
        msg = f"{where} holds a character that no key has (a space, a line break, one outside ASCII). Nothing was sent."
        raise UsageError(msg, hint="Copy the key again; it is one word.")
    return Secret(key)


def _key_from(file: Path, warnings: list[str]) -> str:
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            raw = stream.read(_MAX_KEY_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        msg = f"--api-key-file {file} cannot be read: {reason}. Nothing was sent."
        raise UsageError(msg, hint=_KEY_HINT) from None
    if len(raw) > _MAX_KEY_BYTES:
        msg = f"--api-key-file {file} is too large to be a key. Nothing was sent."
        raise UsageError(msg, hint=_KEY_HINT)
    if stat.S_ISREG(mode) and mode & 0o077:
        warnings.append(f"{file} can be read by other users: chmod 600 it.")
    return text


def color_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether the environment allows colours (no-color.org; a dumb terminal shows none)."""
    values = os.environ if environ is None else environ
    return not values.get("NO_COLOR") and values.get("TERM", "") != "dumb"
