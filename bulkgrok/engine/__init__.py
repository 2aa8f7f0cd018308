"""The composition root: builds the stages, runs them together, stops them in order. The only place where they meet.

run          Engine: one run from start to report
opening      from a configuration to an open run: everything that can be refused is refused there
binding      does this checkpoint belong to this input, these settings, this key?
recovery     what a start does with what the last one left
surroundings clocks, chance, threads, network: what a simulation replaces
stages       every constructor, wired
spending     when a run ends for money, and in which words
conductor    feeds rows to the scheduler, again and again until nothing is left
source       where rows come from
projector    copies the outbox to a sink
downloads    fetches files of redeemed rows
reporting    what the run came to
status       status.json for those who look on
leftovers    large replies of a run that was killed, set aside
lock         one runner a run
openfiles    how many files the process may have open
folders      what holds a run's files is private
preview      what would be sent
lookup       finds a run that a path names, and reads it without disturbing it
collecting   from the name of a run to the configuration that collects it
library      run, submit, collect, stream
streaming    rows from an iterable, outcomes as they settle
"""

from bulkgrok.engine.preview import preview
from bulkgrok.engine.run import Engine

__all__ = ["Engine", "preview"]
