"""The address of a database: what is shown of it, and what is refused."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkgrok.core.databaseurl import DatabaseUrl, is_database, split_run
from bulkgrok.core.secret import HIDDEN

PASSWORD = "geheim-99"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgres://u@h:5432/d", "postgres://u@h:5432/d"),
        (f"postgresql://u:{PASSWORD}@h/d", "postgresql://u@h/d"),
        (f"postgresql://:{PASSWORD}@h/d", "postgresql://h/d"),
        (f"postgresql://u:{PASSWORD}?x@h/d", "postgresql://u@h/d"),
        (f"postgresql://h/d?user=u&password={PASSWORD}&sslmode=require", "postgresql://h/d?user=u&sslmode=require"),
        (f"postgresql:///d?host=/run/pg&sslpassword={PASSWORD}", "postgresql:///d?host=/run/pg"),
        ("postgresql://one:1,two:2/d?target_session_attrs=read-write",) * 2,
        ("postgresql://[::1]:5433/d",) * 2,
    ],
)
def test_an_address_is_shown_without_its_password(address, shown):
    url = DatabaseUrl(address)
    assert (str(url), url.whole.reveal()) == (shown, address)
    assert PASSWORD not in f"{url!r} {copy.deepcopy(url)!r} {vars(type(url))}"
    for secret in url.secrets:
        assert secret.hide(f"said {secret.reveal()}") == f"said {HIDDEN}"
    assert (PASSWORD in address) == any(PASSWORD in secret.reveal() for secret in url.secrets)


def test_a_password_is_known_as_it_is_and_as_it_is_written():
    assert {secret.reveal() for secret in DatabaseUrl("postgresql://u:a%40b%2Fc-d@h/d").secrets} == {
        "a@b/c-d", "a%40b%2Fc-d",
    }  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "mysql://h/d", "postgresql:/h/d", "postgresql//h", "", f"postgresql://u:{PASSWORD}@x@h/d",
        f"postgresql://u:{PASSWORD}/x@h/d", f"postgresql://u:p#{PASSWORD}@h/d", "postgresql://h/d#run",
        f"postgresql://u:p/x?{PASSWORD}@h/d", f"postgresql://h/d?{PASSWORD}=1", "postgresql://h/d\n", "postgresql://h/d?",
    ],
)  # fmt: skip
def test_an_address_whose_password_could_be_taken_for_something_else_is_refused_without_repeating_it(address):
    if address.endswith("?"):
        assert str(DatabaseUrl(address)) == "postgresql://h/d"
        return
    with pytest.raises(ValueError, match=r"^(must|holds)") as found:
        DatabaseUrl(address)
    assert PASSWORD not in str(found.value)


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=4, max_size=30))
def test_whatever_a_password_is_it_is_not_shown(password):
    try:
        url = DatabaseUrl(f"postgresql://user:{password}@host.example/name")
    except ValueError:
        return
    assert password not in url.shown or password in "postgresql://user@host.example/name"


def test_a_run_is_named_behind_the_address():
    url, run_id = split_run("postgresql://h/d#out/put #1.jsonl")
    assert (str(url), run_id) == ("postgresql://h/d", "out/put #1.jsonl")
    assert split_run("postgresql://h/d")[1] is split_run("postgresql://h/d#")[1] is None


def test_paths_are_no_addresses():
    assert is_database("postgresql://h/d")
    assert is_database(" POSTGRES://h")
    assert not any(map(is_database, ("postgresql", "x/postgresql:/", "s3://b", "checkpoint.db")))
