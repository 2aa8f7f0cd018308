"""What Airflow asks a provider package about itself. Imports no Airflow."""

from __future__ import annotations

from typing import Any, Final

CONNECTION_TYPE: Final = "xai"
_NAME: Final = "xAI"

#: How the form of a connection looks: password is the key, host the base URL, extra the default options.
FIELDS: Final[dict[str, Any]] = {
    "hidden_fields": ["login", "port", "schema"],
    "relabeling": {"password": "API key", "host": "Base URL", "extra": "Default options (JSON)"},
    "placeholders": {"host": "https://api.x.ai/v1", "extra": '{"concurrency": 50}'},
}


def get_provider_info() -> dict[str, Any]:
    """Return the description of this provider, in the form of Airflow's provider_info.schema.json."""

    def modules(name: str) -> list[dict[str, Any]]:
        return [{"integration-name": _NAME, "python-modules": [f"bulkgrok.airflow.{name}"]}]

    return {
        "package-name": "bulkgrok",
        "name": "bulkgrok",
        "description": "Bulk work on the xAI API as a task. A retry goes on with what was paid for.",
        "integrations": [{"integration-name": _NAME, "external-doc-url": "https://docs.x.ai", "tags": ["service"]}],
        "operators": modules("operator"),
        "hooks": modules("hook"),
        "triggers": modules("trigger"),
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": "bulkgrok.airflow.hook.XAIHook",
                "hook-name": _NAME,
                "ui-field-behaviour": {
                    "hidden-fields": FIELDS["hidden_fields"],
                    "relabeling": FIELDS["relabeling"],
                    "placeholders": FIELDS["placeholders"],
                },
            }
        ],
    }
