"""HTTP to the API's origin, and downloads from anywhere public: the one seam to aiohttp.

Law: what happened is returned as a value (`core.model.Exchange`, `Fetched`); nothing of aiohttp's travels further. No
request is ever repeated and no redirect followed behind the caller's back, because a POST may cost money and a GET may
consume a result. Everything a server sends is bounded in memory. The key goes to the API's origin and nowhere else.

    api         AiohttpTransport: post, get, stream
    asking      the API's connections: a request written, the head of its reply
    opening     sessions with every automatism off
    sending     the body on its way out, and whether its last byte left
    receiving   a connection on its way in: nothing is queued that nobody asked for
    reading     a reply on its way in: headers, body in memory or in a file
    spilling    files for bodies that are too large for memory
    unpacking   gzip and deflate that nobody asked for
    quoting     what a server says of the key is not repeated
    downloads   files: checked addresses, hops by hand, Range
    addresses   which addresses may be asked at all
    failures    aiohttp's and the system's exceptions in words
"""

from bulkgrok.transport.api import AiohttpTransport

__all__ = ["AiohttpTransport"]
