"""Object stores, through pyarrow's filesystems: the one seam to them, for input, output and media.

failures    what went wrong, in words and by what it stops
store       one bucket: look, list, read, put, delete
reading     an object as a file that is read in pieces

Law: pyarrow.fs is imported when an address is given and not before; its exceptions end here. No secret is in a message.
"""

from bulkgrok.objects.failures import Denied, NotThere, ObjectFailure, Unreachable
from bulkgrok.objects.reading import ObjectFile
from bulkgrok.objects.store import Found, ObjectStore, store_of

__all__ = ["Denied", "Found", "NotThere", "ObjectFailure", "ObjectFile", "ObjectStore", "Unreachable", "store_of"]
