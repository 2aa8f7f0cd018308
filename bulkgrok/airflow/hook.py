"""`XAIHook`: an Airflow connection of type `xai` as key, base URL and default options."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from bulkgrok.airflow.compat import AirflowException, BaseHook
from bulkgrok.airflow.provider import CONNECTION_TYPE, FIELDS
from bulkgrok.airflow.running import config_of
from bulkgrok.client import Client
from bulkgrok.config import RunConfig
from bulkgrok.core.errors import BulkgrokError
from bulkgrok.core.secret import Secret


class XAIHook(BaseHook):
    """The connection to the xAI API.

    Args:
        xai_conn_id: Its id. Password is the API key, host the base URL (empty for https://api.x.ai/v1), extra a JSON
            object of default options: flags of `bulkgrok run` in snake case.
    """

    conn_name_attr = "xai_conn_id"
    default_conn_name = "xai_default"
    conn_type = CONNECTION_TYPE
    hook_name = "xAI"

    def __init__(self, xai_conn_id: str = default_conn_name, **kwargs: Any) -> None:  # noqa: ANN401 - Airflow's own
        super().__init__(**kwargs)
        self.xai_conn_id = xai_conn_id

    @cached_property
    def _connection(self) -> Any:  # noqa: ANN401 - Airflow's
        return self.get_connection(self.xai_conn_id)

    @staticmethod
    def get_ui_field_behaviour() -> dict[str, Any]:
        """Return how the form looks, for Airflow 2; later ones read it from the provider's description."""
        return FIELDS

    def get_conn(self) -> Client:
        """Return a client of the API, to be used with `async with`."""
        return Client(self.key().reveal(), self.base_url())

    def key(self) -> Secret:
        """Return the API key.

        Raises:
            AirflowException: The connection has none.
        """
        password = self._connection.password
        if not password:
            msg = f"The connection {self.xai_conn_id} has no password, which is where the xAI API key belongs."
            raise AirflowException(msg)
        return Secret(password.strip())

    def base_url(self) -> str | None:
        """Return the base URL, None for the default one."""
        return self._connection.host or None

    def options(self) -> dict[str, Any]:
        """Return the default options."""
        return dict(self._connection.extra_dejson)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the API what it knows of the key: Airflow's test button."""

        async def ask() -> dict[str, Any]:
            async with self.get_conn() as client:
                return await client.api_key()

        try:
            with ThreadPoolExecutor(1) as thread:  # whoever calls may have a loop of its own
                found = thread.submit(asyncio.run, ask()).result()
        except (BulkgrokError, AirflowException) as error:
            return False, str(error)
        if found.get("api_key_blocked") or found.get("api_key_disabled") or found.get("team_blocked"):
            return False, "The API knows this key, and it is blocked or disabled."
        return True, f"The API knows this key{': ' + str(found['name']) if found.get('name') else '.'}"


def connected(  # noqa: PLR0913 - what a task is told
    xai_conn_id: str | None,
    *,
    input: str,  # noqa: A002 - the public name
    output: str | None,
    checkpoint: str | None,
    run_id: str,
    options: Mapping[str, Any],
) -> RunConfig:
    """Return the configuration of a task's run, with the key, the base URL and the default options of a connection.

    Args:
        xai_conn_id: The connection; None takes the key from the environment. With `simulate` none is asked for.
        input: Where the rows are.
        output: Where the results go.
        checkpoint: Where the run is kept.
        run_id: Its name.
        options: Of the task; they win over those of the connection.

    Raises:
        UsageError: An option cannot be used.
        AirflowException: There is no such connection, or no key in it.
    """
    merged, key = dict(options), None
    if xai_conn_id and not options.get("simulate"):
        hook = XAIHook(xai_conn_id)
        merged, key = {**hook.options(), **options}, hook.key()
        if (base_url := hook.base_url()) is not None:
            merged.setdefault("base_url", base_url)
    return config_of(input=input, output=output, checkpoint=checkpoint, run_id=run_id, options=merged, api_key=key)
