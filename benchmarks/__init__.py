"""What bulkgrok costs, side by side with what it is compared to, on one machine in one run.

    python -m benchmarks [NAME ...] [--short]        or: tox run -e bench -- [NAME ...] [--short]

Law: no bare times. Whatever is compared runs in turns (A B A B), pinned to one core while its server has another, and a
figure is the median of the turns' ratios, so that what else the machine does falls on both sides alike. Whatever is
measured of a process is measured from outside: wall time, CPU time and peak memory of the whole of it, less those of
the same command with one row. Everything that makes bulkgrok durable is on, on a real disk.

    __main__      the command: chooses, prints tables, keeps the JSON in benchmarks/results/
    facts         the machine and the versions
    processes     a command, pinned, with what it spent
    inputs        rows
    nginx         a server that is not the bottleneck: direct, streaming and deferred
    counting      a server that counts each second, and tells when its first request came
    table         figures and how they are printed
    targets       the figures to reach, beside what was measured
    virtual       whole runs in virtual time, for what is a schedule and no speed

    throughput    direct, streaming, deferred: against a bare aiohttp loop doing the same
    peers         against other clients, each in an environment of its own
    scale         memory, start and resume as inputs grow; the start of the command
    outstanding   what a million accepted jobs take
    rates         limits: what is used of them, and what is refused
    fairness      tokens a minute: large requests behind small ones
    pickup        polls a result, and how late it is picked up, in virtual time
    parts         checkpoint and sinks alone
    clients/      the programs that are compared: one file each, runnable without bulkgrok
"""

import sys
from pathlib import Path

# `-m` puts the folder it is called in first; what is measured is the bulkgrok that is installed, not the sources there.
if sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parents[1]:
    del sys.path[0]
