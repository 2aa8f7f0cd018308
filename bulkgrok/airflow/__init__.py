"""bulkgrok as a provider of Apache Airflow, 2.11 and 3.x (`pip install bulkgrok[airflow]`).

    operator   BulkGrokOperator: one run as a task; a retry goes on with it
    trigger    BulkGrokTrigger: sleeps until the next round of a deferred task; never speaks to the API
    hook       XAIHook: the connection type `xai`
    taskflow   run_bulkgrok: one run inside of a @task function
    running    one start of a run on a thread of its own, and how it is ended
    judging    what the end of a run means for its task
    tasklog    events of a run to the task's log
    provider   what Airflow asks the package about itself
    compat     names that are elsewhere in Airflow 2 and 3

Law: nothing here is imported by the rest of bulkgrok, and importing this package imports no Airflow. No signal
handlers, no configuration of logging: both are Airflow's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkgrok.airflow.hook import XAIHook as XAIHook
    from bulkgrok.airflow.operator import BulkGrokOperator as BulkGrokOperator
    from bulkgrok.airflow.provider import get_provider_info as get_provider_info
    from bulkgrok.airflow.taskflow import run_bulkgrok as run_bulkgrok
    from bulkgrok.airflow.trigger import BulkGrokTrigger as BulkGrokTrigger

_WHERE = {
    "BulkGrokOperator": "operator",
    "BulkGrokTrigger": "trigger",
    "XAIHook": "hook",
    "get_provider_info": "provider",
    "run_bulkgrok": "taskflow",
}

__all__ = ["BulkGrokOperator", "BulkGrokTrigger", "XAIHook", "get_provider_info", "run_bulkgrok"]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        msg = f"module 'bulkgrok.airflow' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"bulkgrok.airflow.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
