"""Everything a run is told, in one frozen value.

Law: the only reader of `os.environ`. Flags, environment, TOML and defaults are merged here, in that order of
precedence; the engine takes the value apart and hands plain arguments down.

    values      RunConfig, Places
    parsing     one value as typed -> one value as used, or a ValueError that says what is wrong with it
    flags       the one table of flags: the command line, the environment, TOML and keywords are all read from it
    loading     the merge
    locating    where the files of a run lie
"""

from bulkgrok.config.flags import COLLECT_FLAGS, FLAGS, Flag
from bulkgrok.config.loading import color_wanted, endpoint, from_keywords, load, only_flags_of
from bulkgrok.config.locating import RUN_SUFFIX, find_run_dirs, places
from bulkgrok.config.parsing import parse_duration
from bulkgrok.config.values import DEFAULT_BASE_URL, Places, RunConfig
from bulkgrok.core.secret import Secret

__all__ = [
    "COLLECT_FLAGS",
    "DEFAULT_BASE_URL",
    "FLAGS",
    "RUN_SUFFIX",
    "Flag",
    "Places",
    "RunConfig",
    "Secret",
    "color_wanted",
    "endpoint",
    "find_run_dirs",
    "from_keywords",
    "load",
    "only_flags_of",
    "parse_duration",
    "places",
]
