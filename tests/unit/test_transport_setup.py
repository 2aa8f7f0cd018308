"""What a transport refuses before anything is sent."""

import traceback

import pytest

from bulkgrok.core.errors import UsageError
from bulkgrok.transport import AiohttpTransport


def make(**options):
    return AiohttpTransport(**{"base_url": "https://api.x.ai/v1", "api_key": "k", "concurrency": 1, **options})


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:1/v1",
        "http://localhost/v1",
        "http://[::1]:8080/v1",
        "http://127.9.9.9/",
        "https://10.0.0.1/v1",
    ],
)
def test_http_is_for_this_machine_and_https_for_all(base_url):
    make(base_url=base_url)


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.x.ai/v1",
        "http://10.0.0.1/v1",
        "http://0.0.0.0/v1",
        "http://localhost.example.com/v1",
        "ftp://api.x.ai/v1",
        "api.x.ai/v1",
        "https://",
        "",
        "https://user:hunter2@api.x.ai/v1",
        "https://api.x.ai/v1?key=1",
        "https://api.x.ai:port/v1",
        "https://[::1/v1",
    ],
)
def test_other_base_urls_are_refused(base_url):
    with pytest.raises(UsageError) as caught:
        make(base_url=base_url)
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("content", [None, b"", b"not a certificate", b"\xff\x00"])
def test_a_ca_file_that_cannot_be_used_is_refused(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        make(ca_file=path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("proxy", ["socks5://user:hunter2@proxy:1", "proxy:3128", "http://", "http://[x:hunter2@y/"])
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(proxy):
    with pytest.raises(UsageError) as caught:
        make(proxy=proxy)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, chain=False))


def test_no_session_is_made_before_it_is_needed():
    assert make()._origin is None
