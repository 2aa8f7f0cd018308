"""Addresses are read one way, say themselves again that way, and hold no secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.core.address import Address, is_address, parse

PART = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12).filter(
    lambda part: part not in {".", ".."}
)
KEY = st.lists(PART, min_size=1, max_size=4).map("/".join)


def address(key, scheme="s3", root="bucket"):
    return Address(scheme=scheme, root=root, key=key)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("s3://bucket/a b/ü.jsonl", "a b/ü.jsonl"),
        ("s3://bucket/a%20b", "a b"),
        ("s3://bucket/100%", "100%"),
        ("s3://bucket/100%25", "100%"),
        ("s3://bucket/x%2525", "x%25"),
        ("s3://bucket/%C3%BC", "ü"),
        ("s3://bucket/a%3Fb%23c", "a?b#c"),
        ("s3://bucket/a+b", "a+b"),
        ("s3://bucket/out/", "out"),
        ("s3://bucket//out", "out"),
        ("s3://bucket", ""),
        ("s3://bucket/", ""),
        ("S3://bucket/a..b/...", "a..b/..."),
        ("s3://bucket/k?region=eu-west-1&scheme=http", "k"),
    ],
)
def test_an_address_is_read_and_says_itself_again(text, key):
    found = parse(text)
    assert (found.scheme, found.root, found.key) == ("s3", "bucket", key)
    assert parse(str(found)) == found


@given(KEY)
def test_any_name_can_be_said(key):
    assert parse(str(address(key))) == address(key)


@pytest.mark.parametrize(
    "text",
    [
        "s3://", "s3:///key", "s3://b ucket/k", "s3://bucket/a/../b", "s3://bucket/..", "s3://bucket/./a",
        "s3://bucket/a//b", "s3://bucket/a%2F%2Fb", "s3://bucket/a%00", "s3://bucket/a\nb", "s3://bucket/%FF",
        "s3://bucket/" + "ü" * 513, "s3://bucket/a#b", "s3://bucket/a?b", "ftp://host/x", "s3:/bucket/x", "http://h/x",
    ],
)  # fmt: skip
def test_what_clients_would_read_as_another_name_is_refused(text):
    with pytest.raises(ValueError, match=r"^must "):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA:topsecret@bucket/x", "s3://topsecret@bucket/x", "s3://bucket/x?secret_key=topsecret",
        "abfs://account:topsecret@container/x", "gs://me:topsecret@bucket/x", "az://c/x?sig=topsecret",
    ],
)  # fmt: skip
def test_an_address_with_credentials_is_refused_without_saying_them(text):
    with pytest.raises(ValueError, match=r"^must ") as caught:
        parse(text)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "scheme", "root"),
    [
        ("az://container/x", "abfs", "container"),
        ("az://account@container/x", "abfs", "account@container"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs", "container@account.dfs.core.windows.net"),
        ("abfss://c@a.dfs.core.windows.net/x", "abfss", "c@a.dfs.core.windows.net"),
        ("gs://bucket/x", "gs", "bucket"),
        ("gcs://bucket/x", "gs", "bucket"),
        ("gs://anonymous@bucket/x", "gs", "anonymous@bucket"),
    ],
)
def test_schemes_are_mapped_to_those_that_pyarrow_reads(text, scheme, root):
    assert is_address(text)
    assert (parse(text).scheme, parse(text).root) == (scheme, root)


def test_a_path_is_no_address():
    assert not any(map(is_address, ["s3", "s3:/x", "/s3://x", "a/s3://b", "file:///x", None, 3]))


def test_names_parents_and_what_lies_below():
    one = address("a/b.c/d.jsonl")
    assert (one.name, one.suffix, str(one.parent)) == ("d.jsonl", ".jsonl", "s3://bucket/a/b.c")
    assert (address("").name, address("").parent, address("x").suffix) == ("bucket", address(""), "")
    assert one.with_name("e") == address("a/b.c/e")
    assert address("").holds(one)
    assert address("a").holds(one)
    assert not address("a/b").holds(one)
    assert not address("a", root="other").holds(one)


@given(KEY, KEY)
def test_the_way_from_one_to_another_leads_there(one, other):
    way = address(one).relative_to(address(other))
    assert address(other).joined(way) == address(one)


def test_the_way_to_another_bucket_is_its_address():
    assert address("a", root="x").relative_to(address("a", root="y")) == "s3://x/a"
    assert address("a").joined("s3://x/b") == address("b", root="x")
