"""Names that are elsewhere in Airflow 2 and 3."""

from __future__ import annotations

from airflow.triggers.base import BaseTrigger, TriggerEvent

try:
    from airflow.sdk import BaseHook, BaseOperator, get_current_context
except ImportError:  # Airflow 2
    from airflow.hooks.base import BaseHook
    from airflow.models import BaseOperator
    from airflow.operators.python import get_current_context

try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException
except ImportError:  # Airflow 2, and the first of 3
    from airflow.exceptions import AirflowException, AirflowFailException

try:
    from airflow.sdk.configuration import conf
except ImportError:  # as above
    from airflow.configuration import conf

try:
    from airflow.sdk.log import mask_secret
except ImportError:  # as above
    from airflow.utils.log.secrets_masker import mask_secret

__all__ = [
    "AirflowException", "AirflowFailException", "BaseHook", "BaseOperator", "BaseTrigger", "TriggerEvent", "conf",
    "get_current_context", "mask_secret",
]  # fmt: skip
