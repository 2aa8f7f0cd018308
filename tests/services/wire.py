"""A way between a client and a server that can be cut at a chosen moment."""

import socket
import threading
from contextlib import suppress


class Wire:
    """Listens on a port of its own and carries what comes to another one.

    Args:
        port: Where to.
    """

    def __init__(self, port):
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._pairs = []
        self._cut = None
        self.cuts = 0
        self.closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, word, *, forward):
        """Cut the connection that next sends a word: before that is carried on, or when it was answered."""
        self._cut = (word, forward)

    def refuse(self, refused):
        """Let nobody connect any more, or again."""
        self.closed = refused
        if refused:
            for pair in self._pairs:
                _end(*pair)

    def close(self):
        self._listening.close()
        self.refuse(refused=True)

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self.closed:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._port))
                self._pairs.append((client, server))
                for source, target, asks in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._carry, args=(source, target, asks), daemon=True).start()

    def _carry(self, source, target, asks):
        with suppress(OSError):
            while data := source.recv(65_536):
                if asks and self._cut is not None and self._cut[0] in data:
                    forward = self._cut[1]
                    self._cut = None
                    self.cuts += 1
                    if forward:
                        source.shutdown(socket.SHUT_RDWR)  # nobody hears the answer
                        target.sendall(data)
                        target.settimeout(2.0)
                        with suppress(OSError):
                            target.recv(65_536)
                    break
                target.sendall(data)
        _end(source, target)


def _end(*sockets):
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
