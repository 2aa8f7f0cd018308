"""Readers: an input file to raw rows, one module a format.

Law: rows come in order, as often as asked, with flat memory, and are never parsed here. A row that cannot be offered
is a RawRow with a defect and the rest goes on; an input that breaks as a whole raises InputError after every row
before the break. What a file is, is told by its name and its first bytes; where they differ, unmistakable bytes win.

Opening is table-driven: a new reader is one new file and one line in FORMATS. Nothing heavy is imported before a file
needs it: pyarrow comes with Parquet and with compressed files only.
"""

from __future__ import annotations

from bulkgrok.readers.formats import FORMATS, Format
from bulkgrok.readers.identity import InputStamp, Place, fingerprint, stamp
from bulkgrok.readers.opening import open_reader, verify
from bulkgrok.readers.remote import ObjectInput
from bulkgrok.readers.spool import SPOOL, spool_stdin

__all__ = [
    "FORMATS",
    "SPOOL",
    "Format",
    "InputStamp",
    "ObjectInput",
    "Place",
    "fingerprint",
    "open_reader",
    "spool_stdin",
    "stamp",
    "verify",
]
