"""Inputs that hold every kind of row, each of its own wording: a request body then names its row."""

import json


def mixed(count, word=""):
    """Yield rows: direct, streamed, deferred and, one in ten, a video."""
    for row in range(count):
        if row % 10 == 9:
            yield {"custom_id": f"v{row}", "kind": "video", "prompt": f"clip {row}{word}", "duration": 1}
        elif row % 10 in {1, 3, 5, 7}:
            yield {"custom_id": f"d{row}", "prompt": f"later {row}{word}", "deferred": True}
        elif row % 10 == 4:
            yield {"custom_id": f"s{row}", "prompt": f"streamed {row}{word}", "stream": True}
        else:
            yield {"custom_id": f"q{row}", "prompt": f"question {row}{word}"}


def deferred(count, word=""):
    """Yield deferred rows."""
    for row in range(count):
        yield {"custom_id": f"d{row}", "prompt": f"later {row}{word}", "deferred": True}


def write(path, rows):
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
