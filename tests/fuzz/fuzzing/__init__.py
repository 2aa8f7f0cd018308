"""What hostile bytes must not do to bulkgrok: the targets, and where they begin.

targets     one function a target: bytes in; raises when a promise is broken
damaging    targets that need files: readers, checkpoint, spill, journal, status
seeds       where fuzzing begins: small, made of what the tests know
"""
