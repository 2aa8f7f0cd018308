"""Which part of a run one start does: all of it, one of its two halves, or a round of it.

Law: whatever part a start does, what it leaves behind is the same run; any other part may go on with it.
"""

from __future__ import annotations

from enum import Enum


class Part(Enum):
    """A part of a run."""

    WHOLE = "run"
    """Send, poll and redeem until every row has its outcome."""
    SUBMIT = "submit"
    """Send everything that is deferred; ask for no result."""
    COLLECT = "collect"
    """Ask for results until none is outstanding; send nothing, read no input."""
    ROUND = "round"
    """Send what may be sent, ask for what is due, and end when only time can bring something to do."""

    @property
    def sends(self) -> bool:
        """Whether rows are read and sent."""
        return self is not Part.COLLECT

    @property
    def asks(self) -> bool:
        """Whether results are asked for."""
        return self is not Part.SUBMIT

    @property
    def leaves(self) -> bool:
        """Whether it ends with results outstanding: it must itself look whether there is anything to wait for."""
        return self in {Part.SUBMIT, Part.ROUND}
