"""Secrets taken out of text, whatever way they got in.

Law: works on finished text, so that no field, exception or nesting is forgotten. The key's exact value, anything that
looks like an xAI key, `Authorization` values, passwords in addresses and the query of every address (a signed one is
a secret until it expires) are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from bulkgrok.core.secret import HIDDEN, Secret

_PATTERNS: Final = (
    (re.compile(r"xai-[A-Za-z0-9_-]{20,}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"'\\,;]+"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)(authorization\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!bearer\b|basic\b)[^\s\"'\\,;}]+"), rf"\1{HIDDEN}"),
    # The user's name alone in a database's address is no secret, and is typed again.
    (
        re.compile(
            r"(?i)\b([a-z][a-z0-9+.-]{0,20}+://)(?!(?:(?<=postgresql://)|(?<=postgres://))[^/\s\"'@:]{1,100}@)"
            r"[^/\s\"'@]{1,1000}+@"
        ),
        rf"\1{HIDDEN}@",
    ),
    (re.compile(r"(?i)\b(https?://[^\s\"'?#<>\\]{1,4000}+)\?[^\s\"'<>\\]+"), rf"\1?{HIDDEN}"),
)
#: A cheap test: text with none of these needs no pattern.
_SUSPICIOUS: Final = re.compile(r"(?i)xai-|bearer|basic|authorization|://")


class Redaction:
    """Replaces known secrets and what looks like one.

    Args:
        secrets: What must never be seen, however it is written.
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._known = tuple(secrets)

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for secret in self._known:
            text = secret.hide(text)
        if _SUSPICIOUS.search(text):
            for pattern, replacement in _PATTERNS:
                text = pattern.sub(replacement, text)
        return text
