"""Secrets taken out of text, whatever way they got in.

Law: works on finished text, so that no field, exception or nesting is forgotten. The key's exact value, anything that
looks like an xAI key, `Authorization` values, passwords in addresses and the query of every address (a signed one is
a secret until it expires) are replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "[hidden]"

_PATTERNS: Final = (
    (re.compile(r"xai-[A-Za-z0-9_-]{20,}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"'\\,;]+"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)(authorization\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!bearer\b|basic\b)[^\s\"'\\,;}]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s\"'@]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)\b(https?://[^\s\"'?#<>\\]+)\?[^\s\"'<>\\]+"), rf"\1?{HIDDEN}"),
)
#: A cheap test: text with none of these needs no pattern.
_SUSPICIOUS: Final = re.compile(r"(?i)xai-|bearer|basic|authorization|://")


class Redaction:
    """Replaces known secrets and what looks like one.

    Args:
        secrets: Exact values that must never be seen; short ones (under 6 characters) are left alone, since they
            would blot out ordinary words.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {form for secret in secrets if len(secret) >= 6 for form in (secret, json.dumps(secret)[1:-1])}
        self._known = tuple(sorted(known, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for secret in self._known:
            text = text.replace(secret, HIDDEN)
        if _SUSPICIOUS.search(text):
            for pattern, replacement in _PATTERNS:
                text = pattern.sub(replacement, text)
        return text
