"""A checkpoint in a real PostgreSQL: what a dead process held there is gone at the moment of its death.

Law: the database is no part of the disk that a power cut hits; a process that died neither commits nor connects again,
and the server has noticed that before the next one begins.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from bulkgrok.core.databaseurl import DatabaseUrl

_NOTICED_S = 30.0


class Database:
    """Where the checkpoint of one history is.

    Args:
        address: `postgresql://…`
        run_id: Names the history's run.
    """

    def __init__(self, address: str, run_id: str) -> None:
        self.url = DatabaseUrl(address)
        self.run_id = run_id

    def _bury(self) -> None:
        """Let the owner be a process that is no more: here it is the very process that plays the next life too."""
        import psycopg  # noqa: PLC0415 - an extra

        with psycopg.connect(self.url.whole.reveal(), autocommit=True) as burying:
            burying.execute(
                "UPDATE bulkgrok.run SET owner = 'process 999999999 on this machine' WHERE name = %s", (self.run_id,)
            )

    def vanish(self, store: Any) -> None:
        """End the session of a store whose process has died."""
        import psycopg  # noqa: PLC0415 - an extra

        session = store._open_session
        if session is None:
            return
        connection, session._connection = session._connection, None
        heartbeat, session._heartbeat, session.tenure = session._heartbeat, None, None
        pid = 0
        if connection is not None:
            pid = connection.info.backend_pid
            connection.pgconn.finish()
        if heartbeat is not None:
            heartbeat.stop()
        self._bury()
        until = time.monotonic() + _NOTICED_S
        with psycopg.connect(self.url.whole.reveal(), autocommit=True) as watching:
            while watching.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
                with suppress(psycopg.Error):
                    watching.execute("SELECT pg_terminate_backend(%s)", (pid,))
                assert time.monotonic() < until
                time.sleep(0.001)
