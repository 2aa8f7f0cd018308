"""The composition root: builds the stages, runs them together, stops them in order. The only place where they meet.

run          Engine: one run from start to report
binding      does this checkpoint belong to this input, these settings, this key?
conductor    feeds rows to the scheduler, again and again until nothing is left
projector    copies the outbox to a sink
downloads    fetches files of redeemed rows
lock         one runner a run
status       status.json for those who look on
streaming    `bulkgrok.stream`: rows from an iterable, outcomes as they settle
"""

from bulkgrok.engine.preview import preview
from bulkgrok.engine.run import Engine

__all__ = ["Engine", "preview"]
