"""SQL lives in .sql files beside this module, in blocks that begin with `-- name: …`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^--.*\n", re.MULTILINE)


def load(file: str) -> dict[str, str]:
    """Return the statements of a .sql file by name, in the order of the file."""
    parts = _NAME.split(Path(__file__).with_name(file).read_text("utf-8"))
    return {name: _COMMENT.sub("", text).strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
