"""The values a run is configured with: one frozen `RunConfig`, and the `Places` that follow from it.

Law: plain values. Who wins where a flag, the environment and a file disagree is settled in `loading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bulkgrok.core.address import Address
from bulkgrok.core.databaseurl import DatabaseUrl
from bulkgrok.core.secret import Secret

DEFAULT_BASE_URL = "https://api.x.ai/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What `bulkgrok run` was asked to do. Paths are absolute; durations are seconds; None is "not given"."""

    input: str
    """A path, an address in an object store, or "-" for standard input."""
    api_key: Secret = field(default_factory=lambda: Secret(""))

    # Where things lie (see `Places`)
    output: Path | Address | None = None
    output_is_folder: bool = False
    """Whether the output was written with a trailing slash; an existing directory is a folder either way."""
    output_format: str | None = None
    run_dir: Path | None = None
    checkpoint: Path | DatabaseUrl | None = None
    run_id: str | None = None
    """The run's name in a shared checkpoint."""
    media_dir: Path | Address | None = None
    download: bool = True

    # What is asked: fixed on resume
    mode: str = "direct"
    kind: str = "chat"
    model: str | None = None
    prompt: str | None = None
    """The template's text; `@file` is already read."""
    system: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    stream: bool = False
    base_url: str = DEFAULT_BASE_URL
    """Normalised: has a version path, no trailing slash."""
    simulate: bool = False

    # How much of it, and what then
    strict: bool = False
    limit: int | None = None
    preview: int | None = None
    retry_failed: bool = False
    new_key: bool = False

    # How fast and how patiently
    concurrency: int = 20
    rps: float | None = None
    rpm: float | None = None
    tpm: float | None = None
    max_outstanding: int | None = None
    poll_interval: float | None = None
    deferred_ttl: float = 86_400.0
    timeout: float = 3_600.0
    max_attempts: int = 8
    max_outage: float = 7_200.0
    on_ambiguous: str = "resubmit"
    on_lost: str = "resubmit"

    # The connection
    ca_file: Path | None = None
    proxy: str | None = field(default=None, repr=False)
    """It may hold a password."""

    # Money and words
    budget: float | None = None
    max_at_risk: float | None = None
    prices: Path | None = None
    progress: str = "auto"
    json: bool = False
    log_level: str = "info"
    log_file: Path | None = None
    warnings: tuple[str, ...] = ()
    """What was noticed while reading all this and stops nothing, for the user's eyes."""

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What nobody may read anywhere."""
        key = () if self.simulate else (self.api_key,)
        return key + (self.checkpoint.secrets if isinstance(self.checkpoint, DatabaseUrl) else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the files of one run lie."""

    run_id: str
    """The name that was given, or the output's absolute path or address."""
    output: Path | Address
    """The results file, or the folder of parts."""
    folder: bool
    output_format: str
    """jsonl or parquet."""
    errors: Path | Address
    media_dir: Path | Address
    asset_base: Path | Address
    """The folder that asset paths in the output are relative to."""
    run_dir: Path
    """With a shared checkpoint it holds nothing that a run needs to go on."""
    checkpoint: Path | DatabaseUrl
