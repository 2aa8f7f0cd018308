"""The functional core: values, the lifecycle table, errors, verdicts and ports.

Law: standard library only; no loop, clock, randomness, disk or network. Time and jitter are arguments.
"""
