"""Durations, amounts and addresses."""

import pytest

from bulkgrok.config import parse_duration
from bulkgrok.config.parsing import base_url, dollars, proxy


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("24h", 86400),
        ("1.5h", 5400),
        (".5", 0.5),
        (30, 30),
        (0.25, 0.25),
        ("0", 0),
    ],
)
def test_a_duration_is_seconds_or_has_a_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1d", "1 h 2 m", "nan", "inf", "1e3", "١٢", True, None, 1e308, 10**400, "9" * 400]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("given", "usd"), [("12.50", 12.5), ("$5", 5.0), (" 7 ", 7.0), (".05", 0.05), ("0", 0.0), (3, 3.0), (0.25, 0.25)]
)
def test_an_amount_is_in_dollars(given, usd):
    assert dollars(given) == usd


@pytest.mark.parametrize(
    "given",
    ["", "$", "-1", "5 EUR", "1e3", "1_000", "1,000", "nan", "inf", "١٢", True, None, -0.1, 1e9, float("nan"), []],
)
def test_what_is_no_amount_is_refused(given):
    with pytest.raises(ValueError, match="must be an amount in US dollars"):
        dollars(given)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://api.x.ai", "https://api.x.ai/v1"),
        ("https://api.x.ai/", "https://api.x.ai/v1"),
        ("https://api.x.ai/v1/", "https://api.x.ai/v1"),
        ("https://API.X.ai:443/v1", "https://api.x.ai/v1"),
        ("https://eu-west-1.api.x.ai/v2//", "https://eu-west-1.api.x.ai/v2"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://localhost:8080/proxy/xai/v1", "http://localhost:8080/proxy/xai/v1"),
        ("http://[::1]:9/v1", "http://[::1]:9/v1"),
        ("http://127.9.9.9", "http://127.9.9.9/v1"),
    ],
)
def test_a_base_url_has_its_version_and_no_slash_at_its_end(given, used):
    assert base_url(given) == used


@pytest.mark.parametrize(
    "given",
    [
        "api.x.ai/v1", "http://api.x.ai/v1", "http://10.0.0.1", "http://localhost.evil.com", "ftp://api.x.ai", "https://",
        "https://user:hunter2@api.x.ai/v1", "https://api.x.ai/v1?x=1", "https://api.x.ai/v1#x", "https://api.x.ai:99999",
        "https://api.x.ai:0", "https://a b/v1", "https://api.x.ai/\nv1", "https://[::1", "", None, 3,
        "http://127.0.0.1.evil.com/v1", "https://api.x.ai?", "https://@api.x.ai",
    ],
)  # fmt: skip
def test_a_base_url_that_is_unsafe_is_refused_without_being_repeated(given):
    with pytest.raises(ValueError, match="must") as caught:
        base_url(given)
    assert "hunter2" not in str(caught.value)


def test_a_proxy_is_an_http_address():
    assert proxy("http://user:pass@10.0.0.1:3128") == "http://user:pass@10.0.0.1:3128"
    with pytest.raises(ValueError, match="proxy") as caught:
        proxy("socks5://user:hunter2@h")
    assert "hunter2" not in str(caught.value)
