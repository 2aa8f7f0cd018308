"""How errors read."""

import sys

from bulkgrok.cli.messages import again, error_text, unwrap
from bulkgrok.core.errors import RunLocked, UsageError
from bulkgrok.core.secret import Secret
from bulkgrok.telemetry.redaction import Redaction


def test_an_error_says_what_happened_and_what_to_type_next():
    assert error_text(UsageError("It is so.", hint="bulkgrok run x")) == "bulkgrok: It is so.\n  next: bulkgrok run x"
    assert error_text(UsageError("It is so.")) == "bulkgrok: It is so."


def test_neither_keys_nor_escapes_get_into_an_error():
    told = error_text(UsageError("\x1b[2J s3cret-key", hint="s3cret-key"), Redaction([Secret("s3cret-key")]))
    assert "\x1b" not in told
    assert "s3cret" not in told


def test_a_known_error_is_found_inside_groups():
    locked = RunLocked("x")
    assert unwrap(ExceptionGroup("a", [ValueError(), ExceptionGroup("b", [locked])])) is locked
    plain = ExceptionGroup("a", [ValueError()])
    assert unwrap(plain) is plain


def test_the_next_command_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/bulkgrok", "run", "my file.jsonl", "--retry-failed"])
    assert again("--retry-failed") == "bulkgrok run 'my file.jsonl' --retry-failed"
    assert again() == "bulkgrok run 'my file.jsonl' --retry-failed"
