"""The one table of flags of `run`: names, parsers, help. `submit` has the same ones, `collect` some of them.

Law: the command line, `BULKGROK_<FLAG>`, TOML keys and library keywords are all read from this table, so that none of
them knows a flag that another does not. A flag that is not here is an unknown option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bulkgrok.config import parsing
from bulkgrok.config.parsing import Parser


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag. `field` is its name in `RunConfig`; a negative flag (`--no-download`) turns its field off."""

    name: str
    parse: Parser
    section: str
    help: str
    field: str
    metavar: str = ""
    short: str = ""
    negative: bool = False

    @property
    def switch(self) -> bool:
        """Whether the flag stands alone, without a value."""
        return self.parse is parsing.switch

    @property
    def many(self) -> bool:
        """Whether the flag may be given several times."""
        return self.parse is parsing.params

    @property
    def keyword(self) -> str:
        """The flag as a keyword of `bulkgrok.run`."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"BULKGROK_{self.keyword.upper()}"


def _flag(  # noqa: PLR0913 - a row of the table below
    names: str, parse: Parser, section: str, text: str, *, metavar: str = "", field: str = "", negative: bool = False
) -> Flag:
    short, _, name = names.rpartition(" ")
    return Flag(
        name=name,
        short=short,
        parse=parse,
        section=section,
        help=text,
        metavar=metavar,
        field=field or name.replace("-", "_"),
        negative=negative,
    )


PLACES: Final = "Where things lie"
ASKED: Final = "What is asked (fixed once a request was billed)"
ROWS: Final = "Which rows"
PACE: Final = "How fast, how patiently"
MONEY: Final = "Money, and answers that may have been paid and lost"
CONNECTION: Final = "Connection and key"
WORDS: Final = "What it says"
SECTIONS: Final = (PLACES, ASKED, ROWS, PACE, MONEY, CONNECTION, WORDS)

_ABOVE_ZERO = parsing.duration_above_zero
_POLICY = parsing.choice("resubmit", "fail")
_POLICY_WORDS = "resubmit|fail"

FLAGS: Final[tuple[Flag, ...]] = (
    _flag("o output", parsing.place, PLACES, "Results file (.jsonl, .parquet), or a folder of parts (ends in /); also "
          "s3://, gs://, abfs://. Default: beside the input.", metavar="PATH|URI"),
    _flag("output-format", parsing.choice("jsonl", "parquet"), PLACES, "Default: from the output's name; "
          "a folder is parquet.", metavar="jsonl|parquet"),
    _flag("run-dir", parsing.path, PLACES, "Where checkpoint and log are kept. Default: beside the output.",
          metavar="PATH"),
    _flag("checkpoint", parsing.checkpoint, PLACES, "A file, or a PostgreSQL database that several machines reach. "
          "Default: checkpoint.db in the run directory.", metavar="PATH|postgresql://…"),
    _flag("run-id", parsing.run_id, PLACES, "Names the run in a shared checkpoint. Default: the output's path.",
          metavar="NAME"),
    _flag("media-dir", parsing.place, PLACES, "Where videos are downloaded to. Default: beside the output.",
          metavar="PATH"),
    _flag("no-download", parsing.switch, PLACES, "Keep the addresses of videos, download none.",
          field="download", negative=True),
    _flag("mode", parsing.choice("direct", "deferred"), ASKED, "For rows that do not say; video is always deferred.",
          metavar="direct|deferred"),
    _flag("kind", parsing.choice("chat", "video"), ASKED, "For rows that do not say.", metavar="chat|video"),
    _flag("model", parsing.text, ASKED, "For rows that do not say. Default: grok-4.3; video: grok-imagine-video.",
          metavar="NAME"),
    _flag("prompt", parsing.template, ASKED, "Jinja2 template of every row's prompt: 'Q: {{ question }}'; "
          "@file reads it.", metavar="TEMPLATE"),
    _flag("system", parsing.template, ASKED, "Jinja2 template of every row's system prompt; @file reads it.",
          metavar="TEMPLATE"),
    _flag("param", parsing.params, ASKED, "Body default, VALUE in JSON or else text; may be repeated.",
          metavar="KEY=VALUE", field="params"),
    _flag("stream", parsing.switch, ASKED, "Stream the answers of direct chat rows."),
    _flag("simulate", parsing.switch, ASKED, "Use the built-in simulator: no key, no cost, answers are made up."),
    _flag("strict", parsing.switch, ROWS, "Refuse the whole input when a row is bad."),
    _flag("limit", parsing.whole_number(0), ROWS, "Only the first N rows.", metavar="N"),
    _flag("preview", parsing.whole_number(1), ROWS, "Print the first N requests as JSON lines and exit; sends nothing.",
          metavar="N"),
    _flag("retry-failed", parsing.switch, ROWS, "Failed rows are tried again; moderated ones stay."),
    _flag("concurrency", parsing.whole_number(1, 100_000), PACE, "Requests to the API in flight, POST and GET.",
          metavar="N"),
    _flag("rps", parsing.positive_number, PACE, "Requests a second at most, POST and GET.", metavar="N"),
    _flag("rpm", parsing.positive_number, PACE, "Requests a minute at most, POST and GET.", metavar="N"),
    _flag("tpm", parsing.positive_number, PACE, "Tokens a minute at most.", metavar="N"),
    _flag("max-outstanding", parsing.whole_number(1), PACE, "Deferred requests accepted and not yet redeemed, at most. "
          "Default: what can be redeemed in time.", metavar="N"),
    _flag("poll-interval", _ABOVE_ZERO, PACE, "How often results are asked for. Default: learnt.", metavar="DURATION"),
    _flag("deferred-ttl", _ABOVE_ZERO, PACE, "How long the API keeps a deferred result.", metavar="DURATION"),
    _flag("timeout", _ABOVE_ZERO, PACE, "A whole direct request.", metavar="DURATION"),
    _flag("max-attempts", parsing.whole_number(1), PACE, "Tries of one row; 429s and unsent requests do not count.",
          metavar="N"),
    _flag("max-outage", parsing.parse_duration, PACE, "Stop (exit 7) when nothing was answered for so long.",
          metavar="DURATION"),
    _flag("budget", parsing.dollars, MONEY, "Spend no more than this over the run's whole life; then stop (exit 4).",
          metavar="USD"),
    _flag("max-at-risk", parsing.dollars, MONEY, "What may be on its way and in doubt at once; then wait, or stop "
          "(exit 4).", metavar="USD"),
    _flag("on-ambiguous", _POLICY, MONEY, "A request was sent and no usable reply came.", metavar=_POLICY_WORDS),
    _flag("on-lost", _POLICY, MONEY, "A deferred result was handed out and never arrived.", metavar=_POLICY_WORDS),
    _flag("base-url", parsing.base_url, CONNECTION, "The API's address, with its version. Also XAI_BASE_URL.",
          metavar="URL"),
    _flag("api-key-file", parsing.path, CONNECTION, "File that holds the key. Default: the variable XAI_API_KEY.",
          metavar="FILE"),
    _flag("new-key", parsing.switch, CONNECTION, "This key replaces the run's."),
    _flag("ca-file", parsing.existing_file, CONNECTION, "More certificate authorities to trust (PEM).",
          metavar="FILE"),
    _flag("proxy", parsing.proxy, CONNECTION, "HTTP proxy.", metavar="URL"),
    _flag("prices", parsing.existing_file, WORDS, "Prices to reckon with (TOML). Default: a dated table.",
          metavar="FILE"),
    _flag("config", parsing.existing_file, WORDS, "Flags as TOML: concurrency = 50.", metavar="FILE"),
    _flag("progress", parsing.choice("auto", "rich", "plain", "json", "none"), WORDS,
          "How progress is shown on standard error.", metavar="auto|rich|plain|json|none"),
    _flag("json", parsing.switch, WORDS, "Print the summary as JSON."),
    _flag("log-level", parsing.choice("debug", "info", "warning", "error"), WORDS, "What the log keeps.",
          metavar="debug|info|warning|error"),
    _flag("log-file", parsing.path, WORDS, "Default: log.jsonl in the run directory.", metavar="PATH"),
)  # fmt: skip

#: What `collect` has no use for: the run tells it what is asked and where its checkpoint is, and nothing is sent.
_NOT_COLLECTED: Final = frozenset(
    {"base-url", "budget", "checkpoint", "max-at-risk", "max-outstanding", "timeout", "tpm"}
)
COLLECT_FLAGS: Final = tuple(
    flag for flag in FLAGS if flag.section not in {ASKED, ROWS} and flag.name not in _NOT_COLLECTED
)
