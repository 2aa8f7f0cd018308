"""A small asyncio client for single calls: chat, deferred chat, video. For files of requests there is `bulkgrok.run`.

async with bulkgrok.Client() as client:
done = await client.defer_and_wait({"model": "grok-4.3", "messages": [...]})
"""

from bulkgrok.client.calls import Client, Videos

__all__ = ["Client", "Videos"]
