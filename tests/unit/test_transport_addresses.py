"""Which addresses may be fetched."""

import asyncio

import pytest
from yarl import URL

from bulkgrok.transport.addresses import Forbidden, PublicResolver, allowed, is_loopback, objection

PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001:81b::200e", "172.32.0.1", "100.128.0.1"]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::ffff:1.1.1.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::1.1.1.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2606:4700::1111%1",
    "",
    "localhost",
    "not an address",
]
LOOPBACK = ["127.0.0.1", "127.255.0.1", "::1"]


@pytest.mark.parametrize("host", PUBLIC)
def test_public_addresses_are_allowed(host):
    assert allowed(host, loopback=False)


@pytest.mark.parametrize("host", NOT_PUBLIC)
@pytest.mark.parametrize("loopback", [False, True])
def test_all_others_are_not(host, loopback):
    assert not allowed(host, loopback=loopback)


@pytest.mark.parametrize("host", LOOPBACK)
def test_this_machine_is_allowed_only_where_the_api_is_on_it(host):
    assert not allowed(host, loopback=False)
    assert allowed(host, loopback=True)
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "::1", "[::1]"])
def test_this_machine_is_known_by_its_names(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["localhost.example.com", "127.0.0.1.example.com", "0.0.0.0", "128.0.0.1", "", "api.x.ai"]
)
def test_others_are_not_taken_for_it(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://1.1.1.1/f", "https"),
        ("http://vidgen.x.ai/f", "https"),
        ("ftp://1.1.1.1/f", "https"),
        ("file:///etc/passwd", "https"),
        ("data:text/plain,x", "https"),
        ("/f", "https"),
        ("", "https"),
        ("https:///f", "https"),
        ("https://1.1.1.1:99999/f", "usable"),
        ("https://1.1.1.1:port/f", "usable"),
        ("https://vidgen.x.ai:-1/f", "usable"),
        ("https://user@1.1.1.1/f", "user"),
        ("https://user:word@vidgen.x.ai/f", "user"),
        ("https://:word@vidgen.x.ai/f", "user"),
        ("https://10.0.0.1/f", "public"),
        ("https://[::1]/f", "public"),
        ("https://[::ffff:10.0.0.1]/f", "public"),
        ("https://127.0.0.1/f", "public"),
        ("https://localhost/f", "public"),
        ("https://169.254.169.254/latest/meta-data", "public"),
    ],
)
def test_an_address_is_objected_to(url, words):
    problem = objection(URL(url, encoded=True), loopback=False)
    assert problem is not None
    assert words in problem


@pytest.mark.parametrize(
    "url", ["https://vidgen.x.ai/a/b.mp4?sig=1", "https://1.1.1.1/f", "HTTPS://VIDGEN.X.AI:8443/f"]
)
def test_an_address_on_the_public_internet_is_not(url):
    assert objection(URL(url), loopback=False) is None


def test_loopback_may_be_asked_over_http_but_nothing_else_may():
    assert objection(URL("http://127.0.0.1:8080/f"), loopback=True) is None
    assert objection(URL("http://localhost:8080/f"), loopback=True) is None
    assert objection(URL("http://vidgen.x.ai/f"), loopback=True) is not None
    assert objection(URL("http://10.0.0.1/f"), loopback=True) is not None
    assert objection(URL("https://10.0.0.1/f"), loopback=True) is not None


@pytest.mark.parametrize("name", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1"])
def test_a_name_that_leads_to_this_machine_is_not_connected_to(name):
    async def scenario():
        return await PublicResolver(loopback=False).resolve(name, 443)

    with pytest.raises(Forbidden):
        asyncio.run(scenario())


def test_a_name_keeps_its_allowed_addresses():
    async def scenario():
        return await PublicResolver(loopback=True).resolve("localhost", 443)

    assert {entry["host"] for entry in asyncio.run(scenario())} <= {"127.0.0.1", "::1"}
