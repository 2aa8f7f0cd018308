"""Video files: fetched whole, put in place under names of our own, from hostile servers and onto odd disks."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import hashlib
import os
import re
import socket
import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from bulkgrok.core.errors import StorageFailed
from bulkgrok.core.model import AssetRef, Mode, Record
from bulkgrok.dispatch import assets, placing
from bulkgrok.dispatch.assets import AssetDownloader, Downloaded, DownloadFailed
from bulkgrok.dispatch.placing import MediaFolder, PartFile
from bulkgrok.transport import AiohttpTransport, downloads

FILM = bytes(range(256)) * 12_000
DIGEST = hashlib.sha256(FILM).hexdigest()
RECORD = Record(
    row=17,
    line=18,
    custom_id="clip",
    kind="video",
    mode=Mode.DEFERRED,
    model="grok-imagine-video",
    attempts=1,
    counted=1,
    submitted_at=0.0,
    completed_at=0.0,
    request_id="r",
    status_code=200,
    raw=b"{}",
    max_usd=0.0,
)


class Desk:
    """A downloader on a folder, with everything it was told and how long it slept."""

    def __init__(self, folder, client, fresh=()):
        self.events = []
        self.slept = []
        self.asked = 0
        self._fresh = list(fresh)
        self.downloader = AssetDownloader(
            transport=client,
            offload=asyncio.to_thread,
            media_dir=folder / "out.media",
            asset_base=folder,
            fresh=self.fresh,
            events=lambda name, **fields: self.events.append((name, fields)),
            sleep=self.sleep,
            jitter=lambda: 0.5,
        )

    async def fresh(self, record):
        self.asked += 1
        answer = self._fresh.pop(0) if self._fresh else ()
        return answer if answer is None else tuple(AssetRef(url=url) for url in answer)

    async def sleep(self, seconds):
        self.slept.append(seconds)


def fetch(play, folder, handler, *, paths=("/f.mp4?sig=s3cret",), fresh=(), record=RECORD, known=(), **options):
    """Download a row's files from a server; return result, desk and server."""

    async def scenario():
        async with (
            play.serving(handler) as wire,
            AiohttpTransport(base_url=wire.base_url, api_key="xai-secret", concurrency=2, **options) as client,
        ):
            there = [[wire.url(path) for path in paths] if paths is not None else None for paths in fresh]
            desk = Desk(folder, client, there)
            refs = [AssetRef(url=wire.url(path) if path.startswith("/") else path) for path in paths]
            return await desk.downloader.fetch_all(record, refs, known=known), desk, wire

    return asyncio.run(scenario())


def film(play, *, headers=('ETag: "one"', "Content-Type: video/mp4"), body=FILM):
    return play.always(play.reply(body, headers=headers))


def files(folder):
    media = folder / "out.media"
    return sorted(entry.name for entry in media.iterdir()) if media.exists() else []


def wanted(head):
    """Return the first byte a request asks for, None for all."""
    found = re.search(rb"Range: bytes=(\d+)-\r\n", head)
    return int(found[1]) if found else None


# --- The good case -------------------------------------------------------------------------------------------------


def test_a_file_is_put_in_place_whole(play, tmp_path):
    result, desk, wire = fetch(play, tmp_path, film(play))
    (asset,) = result.assets
    assert (asset.path, asset.bytes, asset.sha256) == ("out.media/00000017-clip.mp4", len(FILM), DIGEST)
    assert asset.url == wire.url("/f.mp4?sig=s3cret")
    assert files(tmp_path) == ["00000017-clip.mp4"]
    path = tmp_path / asset.path
    assert path.read_bytes() == FILM
    assert path.stat().st_mode & 0o777 == 0o600
    assert [name for name, _ in desk.events] == ["asset.downloaded"]


def test_the_key_and_everything_else_of_ours_stays_at_home(play, tmp_path):
    _, desk, wire = fetch(play, tmp_path, film(play))
    head = wire.requests[0][0].lower()
    assert head.startswith(b"get /f.mp4?sig=s3cret http/1.1\r\n")
    for name in (b"authorization", b"referer", b"cookie", b"xai-"):
        assert name not in head
    assert "s3cret" not in repr(desk.events)


def test_a_signed_address_is_sent_as_it_stands(play, tmp_path):
    path = "/a%2Fb/%7Ec+d.mp4?X-Sig=a%2Bb%3D%3d&e=%20&f=+&g"
    _, _, wire = fetch(play, tmp_path, film(play), paths=[path])
    assert wire.requests[0][0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


def test_several_files_of_a_row_are_numbered(play, tmp_path):
    handler = play.always(play.reply(b"one"), play.reply(b"two"), play.reply(b"three"))
    result, _, _ = fetch(play, tmp_path, handler, paths=["/a", "/b", "/c"])
    assert [asset.path for asset in result.assets] == [
        "out.media/00000017-clip.mp4",
        "out.media/00000017-clip-2.mp4",
        "out.media/00000017-clip-3.mp4",
    ]


@pytest.mark.parametrize(
    ("custom_id", "name"),
    [
        ("../../etc/passwd", "00000017-_.._etc_passwd.mp4"),
        ("...", "00000017-row.mp4"),
        ("", "00000017-row.mp4"),
        (".hidden", "00000017-hidden.mp4"),
        ("a b/c\\d\0e\nf", "00000017-a_b_c_d_e_f.mp4"),
        ("\u00e4\u00f6\u202e\U0001f600", "00000017-_.mp4"),
        ("-rf", "00000017--rf.mp4"),
        ("x" * 500, f"00000017-{'x' * 64}.mp4"),
        ("..\\..\\x.exe", "00000017-_.._x.exe.mp4"),
    ],
)
def test_names_are_safe_whatever_the_custom_id(play, tmp_path, custom_id, name):
    fetch(play, tmp_path, film(play), record=replace(RECORD, custom_id=custom_id))
    assert files(tmp_path) == [name]


def test_the_server_has_no_say_in_the_name(play, tmp_path):
    headers = ["Content-Disposition: attachment; filename=../evil.exe", "Content-Type: application/octet-stream"]
    fetch(play, tmp_path, film(play, headers=headers), paths=["/x/../../evil.sh"])
    assert files(tmp_path) == ["00000017-clip.mp4"]


# --- Names in use ---------------------------------------------------------------------------------------------------


def test_a_file_of_somebody_else_is_left_alone(play, tmp_path):
    media = tmp_path / "out.media"
    media.mkdir()
    (media / "00000017-clip.mp4").write_bytes(b"mine")
    (media / "00000017-clip-2.mp4").symlink_to(tmp_path / "nowhere")
    (media / "00000017-clip-3.mp4").mkdir()
    result, _, _ = fetch(play, tmp_path, film(play))
    assert result.assets[0].path == "out.media/00000017-clip-4.mp4"
    assert (media / "00000017-clip.mp4").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_the_same_file_is_not_stored_twice(play, tmp_path):
    """A crash after the file had its name and before the row was settled."""
    first, _, _ = fetch(play, tmp_path, film(play))
    second, _, _ = fetch(play, tmp_path, film(play))
    assert first.assets[0].path == second.assets[0].path
    assert files(tmp_path) == ["00000017-clip.mp4"]


def test_what_a_crash_left_is_replaced_and_never_the_file_it_shares_its_bytes_with(play, tmp_path):
    media = tmp_path / "out.media"
    media.mkdir()
    (media / "00000017-clip.mp4").write_bytes(b"whole and in place")
    os.link(media / "00000017-clip.mp4", media / ".00000017-clip.part")
    result, _, _ = fetch(play, tmp_path, film(play))
    assert (media / "00000017-clip.mp4").read_bytes() == b"whole and in place"
    assert result.assets[0].path == "out.media/00000017-clip-2.mp4"
    assert files(tmp_path) == ["00000017-clip-2.mp4", "00000017-clip.mp4"]


def test_a_part_file_another_run_works_on_is_left_alone(play, tmp_path):
    media = tmp_path / "out.media"
    media.mkdir()
    with (media / ".00000017-clip.part").open("wb") as theirs:
        theirs.write(b"theirs")
        theirs.flush()
        fcntl.flock(theirs, fcntl.LOCK_EX)
        result, _, _ = fetch(play, tmp_path, film(play))
        assert (media / ".00000017-clip.part").read_bytes() == b"theirs"
    assert (tmp_path / result.assets[0].path).read_bytes() == FILM


@pytest.mark.parametrize("obstacle", ["symlink", "folder", "fifo"])
def test_an_obstacle_where_the_part_file_goes_is_walked_around(play, tmp_path, obstacle):
    media = tmp_path / "out.media"
    media.mkdir()
    part = media / ".00000017-clip.part"
    if obstacle == "symlink":
        (tmp_path / "victim").write_bytes(b"victim")
        part.symlink_to(tmp_path / "victim")
    elif obstacle == "folder":
        part.mkdir()
    else:
        os.mkfifo(part)
    result, _, _ = fetch(play, tmp_path, film(play))
    assert (tmp_path / result.assets[0].path).read_bytes() == FILM
    assert os.path.lexists(part)
    if obstacle == "symlink":
        assert (tmp_path / "victim").read_bytes() == b"victim"


def test_without_hard_links_the_name_is_taken_first(play, tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(placing.os, "link", link)
    media = tmp_path / "out.media"
    media.mkdir()
    (media / "00000017-clip.mp4").write_bytes(b"mine")
    result, _, _ = fetch(play, tmp_path, film(play))
    assert result.assets[0].path == "out.media/00000017-clip-2.mp4"
    assert files(tmp_path) == ["00000017-clip-2.mp4", "00000017-clip.mp4"]


def test_a_file_the_output_names_is_not_fetched_again(play, tmp_path):
    first, _, _ = fetch(play, tmp_path, film(play))
    again, _, wire = fetch(play, tmp_path, film(play), known=first.assets)
    assert again == first
    assert not wire.requests


@pytest.mark.parametrize("harm", ["gone", "short", "other"])
def test_a_file_the_output_names_is_fetched_again_when_it_is_not_whole(play, tmp_path, harm):
    first, _, _ = fetch(play, tmp_path, film(play))
    path = tmp_path / first.assets[0].path
    path.unlink() if harm == "gone" else path.write_bytes(FILM[:-1] + (b"!" if harm == "other" else b""))
    again, _, wire = fetch(play, tmp_path, film(play), known=first.assets)
    assert len(wire.requests) == 1
    assert (tmp_path / again.assets[0].path).read_bytes() == FILM


# --- Broken downloads ------------------------------------------------------------------------------------------------


def breaking(play, *, pieces, etag='ETag: "one"', obey=True):
    """Serve the film in pieces: the connection breaks after each, and Range asks for the rest."""
    ends = [round(len(FILM) * (number + 1) / pieces) for number in range(pieces)]

    async def handler(wire, reader, writer):
        head, _ = await wire.request(reader)
        start = wanted(head) if obey else None
        end = ends[min(len(wire.requests), pieces) - 1]
        lines = ["HTTP/1.1 200 OK" if start is None else "HTTP/1.1 206 Partial Content", etag]
        if start is not None:
            lines.append(f"Content-Range: bytes {start}-{len(FILM) - 1}/{len(FILM)}")
        body = FILM[start or 0 :]
        lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + FILM[start or 0 : end])
        await writer.drain()

    return handler


def test_a_broken_download_goes_on_where_it_broke(play, tmp_path):
    result, desk, wire = fetch(play, tmp_path, breaking(play, pieces=3))
    assert result.assets[0].sha256 == DIGEST
    starts = [wanted(head) for head, _ in wire.requests]
    assert starts[0] is None
    assert 0 < starts[1] < starts[2]
    assert b'If-Range: "one"' in wire.requests[1][0]
    assert len(desk.slept) == 2


@pytest.mark.parametrize("etag", ["X: none", 'ETag: W/"weak"', "ETag: naked", 'ETag: "a"b"'])
def test_without_a_strong_etag_it_begins_anew(play, tmp_path, etag):
    result, _, wire = fetch(play, tmp_path, breaking(play, pieces=2, etag=etag))
    assert result.assets[0].sha256 == DIGEST
    assert [wanted(head) for head, _ in wire.requests] == [None, None]


def test_a_server_that_ignores_ranges_is_read_from_the_start(play, tmp_path):
    result, _, _ = fetch(play, tmp_path, breaking(play, pieces=2, obey=False))
    assert result.assets[0].sha256 == DIGEST


@pytest.mark.parametrize(
    "second",
    [
        ["206 Partial Content", "Content-Range: bytes 0-99/100"],
        ["206 Partial Content", "Content-Range: bytes 7-/x"],
        ["206 Partial Content"],
        ["206 Partial Content", 'ETag: "two"', f"Content-Range: bytes {len(FILM) // 2}-{len(FILM) - 1}/{len(FILM)}"],
        ["416 Range Not Satisfiable", "Content-Range: bytes */5"],
        ["416 Range Not Satisfiable"],
    ],
)
def test_a_range_that_was_not_asked_for_begins_anew(play, tmp_path, second):
    async def handler(wire, reader, writer):
        await wire.request(reader)
        if len(wire.requests) == 1:
            writer.write(play.reply(FILM[: len(FILM) // 2], length=len(FILM), headers=['ETag: "one"']))
        elif len(wire.requests) == 2:
            head = "\r\n".join([f"HTTP/1.1 {second[0]}", *second[1:], "Content-Length: 4"])
            writer.write(head.encode() + b"\r\n\r\nevil")
        else:
            writer.write(play.reply(FILM))
        await writer.drain()

    result, _, wire = fetch(play, tmp_path, handler)
    assert result.assets[0].sha256 == DIGEST
    assert wanted(wire.requests[2][0]) is None


def test_a_file_that_was_whole_already_is_told_by_416(play, tmp_path):
    async def handler(wire, reader, writer):
        head, _ = await wire.request(reader)
        if wanted(head) is None:
            chunk = b"%x\r\n%s\r\n" % (len(FILM), FILM)
            writer.write(b'HTTP/1.1 200 OK\r\nETag: "one"\r\nTransfer-Encoding: chunked\r\n\r\n' + chunk)
        else:
            writer.write(play.reply(b"", 416, [f"Content-Range: bytes */{len(FILM)}"]))
        await writer.drain()

    result, _, _ = fetch(play, tmp_path, handler)
    assert result.assets[0].sha256 == DIGEST


@pytest.mark.parametrize(
    "bad",
    [
        ("200 OK", "Content-Length: 0"),
        ("200 OK", "Content-Length: 5\r\nContent-Type: text/html; charset=utf-8"),
        ("200 OK", "Content-Length: 5\r\nContent-Type: application/json"),
        ("200 OK", "Content-Length: 5\r\nContent-Encoding: gzip"),
        ("500 Oh", "Content-Length: 5"),
        ("429 Slow", "Content-Length: 5"),
        ("206 Partial Content", "Content-Length: 5\r\nContent-Range: bytes 0-4/5"),
        ("304 Not Modified", "Content-Length: 0"),
    ],
)
def test_what_is_no_file_is_tried_again(play, tmp_path, bad):
    status, headers = bad
    reply = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode() + (b"" if "Length: 0" in headers else b"<htm>")
    result, desk, _ = fetch(play, tmp_path, play.always(reply, play.reply(FILM)))
    assert result.assets[0].sha256 == DIGEST
    assert len(desk.slept) == 1


def test_when_every_try_fails_that_is_told_and_nothing_is_left(play, tmp_path):
    result, desk, wire = fetch(play, tmp_path, play.always(play.reply(b"no", 503)))
    assert isinstance(result, DownloadFailed)
    assert not result.gone
    assert "503" in result.reason
    assert "s3cret" not in result.reason
    assert len(wire.requests) == 8
    assert desk.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert files(tmp_path) == []


def test_a_server_that_gives_one_byte_a_try_ends_too(play, tmp_path):
    async def handler(wire, reader, writer):
        head, _ = await wire.request(reader)
        start = wanted(head) or 0
        status = "206 Partial Content" if start else "200 OK"
        writer.write(
            f'HTTP/1.1 {status}\r\nETag: "one"\r\nContent-Range: bytes {start}-999999/1000000\r\n'
            f"Content-Length: {1_000_000 - start}\r\n\r\nx".encode()
        )

    result, _, wire = fetch(play, tmp_path, handler)
    assert isinstance(result, DownloadFailed)
    assert len(wire.requests) == 100


async def drip(writer, data):
    """Write bytes one by one for as long as somebody takes them."""
    with suppress(ConnectionError):
        for byte in data * 1_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("head", [b"", b'HTTP/1.1 200 OK\r\nETag: "one"\r\nContent-Length: 9999999\r\n\r\n'])
def test_a_server_that_lets_bytes_drip_ends_too(play, tmp_path, monkeypatch, head):
    monkeypatch.setattr(downloads, "_HEAD_S", 0.05)
    monkeypatch.setattr(downloads, "_PACE_S", 0.05)
    monkeypatch.setattr(assets, "_MOST_TRIES", 10)

    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(head)
        await drip(writer, b"HTTP/1.1 200 OK\r\nX: " if not head else b"x")

    result, _, wire = fetch(play, tmp_path, handler)
    assert isinstance(result, DownloadFailed)
    assert "no reply in time" in result.reason
    assert len(wire.requests) >= 8


def test_a_slow_download_that_gets_on_is_not_given_up(play, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_PACE_S", 0.02)

    async def handler(wire, reader, writer):
        await wire.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(FILM))
        for start in range(0, len(FILM), 200_000):
            writer.write(FILM[start : start + 200_000])
            await writer.drain()
            await asyncio.sleep(0.03)

    result, _, wire = fetch(play, tmp_path, handler)
    assert result.assets[0].sha256 == DIGEST
    assert len(wire.requests) == 1


def test_a_file_over_the_cap_is_refused_at_once(play, tmp_path):
    for handler in (
        film(play),
        play.always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    ):
        result, _, wire = fetch(play, tmp_path, handler, max_asset_bytes=50_000)
        assert isinstance(result, DownloadFailed)
        assert "50000" in result.reason
        assert len(wire.requests) == 1
        assert files(tmp_path) == []


# --- Expired addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_expired_address_is_replaced_by_a_fresh_one(play, tmp_path, status):
    handler = play.always(play.reply(b"no", status), play.reply(FILM))
    result, desk, wire = fetch(play, tmp_path, handler, fresh=[["/new.mp4"]])
    assert result.assets[0].url == wire.url("/new.mp4")
    assert wire.requests[1][0].startswith(b"GET /new.mp4 ")
    assert desk.asked == 1


def test_an_answer_the_api_no_longer_knows_is_gone(play, tmp_path):
    result, _, wire = fetch(play, tmp_path, play.always(play.reply(b"no", 403)), fresh=[None])
    assert isinstance(result, DownloadFailed)
    assert result.gone
    assert len(wire.requests) == 1


def test_two_fresh_addresses_are_enough(play, tmp_path):
    result, _, wire = fetch(play, tmp_path, play.always(play.reply(b"no", 404)), fresh=[["/b"], ["/c"], ["/d"]])
    assert isinstance(result, DownloadFailed)
    assert not result.gone
    assert [head.split()[1] for head, _ in wire.requests] == [b"/f.mp4?sig=s3cret", b"/b", b"/c"]


def test_while_it_is_unclear_the_tries_go_on(play, tmp_path):
    handler = play.always(play.reply(b"no", 403), play.reply(b"no", 403), play.reply(FILM))
    result, desk, _ = fetch(play, tmp_path, handler, fresh=[[], ["/new"]])
    assert isinstance(result, Downloaded)
    assert desk.asked == 2


# --- Where files come from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/f",
        "https://169.254.169.254/latest",
        "http://1.1.1.1/f",
        "https://user:hunter2@127.0.0.1/f",
        "file:///etc/passwd",
        "data:video/mp4;base64,AAAA",
        "ftp://127.0.0.1/f",
        "",
        "\x00",
        "https://[::1/f",
        "https://exa mple/\r\nX: y",
        "https://\u2100.example/",
    ],
)
def test_an_address_that_is_not_allowed_is_not_asked(play, tmp_path, url):
    result, _, wire = fetch(play, tmp_path, film(play), paths=[url])
    assert isinstance(result, DownloadFailed)
    assert not wire.requests
    assert "hunter2" not in result.reason


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("https://10.0.0.1/f", 1),
        ("http://169.254.169.254/latest/meta-data", 1),
        ("file:///etc/passwd", 1),
        ("//user@127.0.0.1/f", 1),
        ("http://[::1", 8),
        ("", 6),
        ("/loop", 6),
    ],
)
def test_every_hop_is_checked(play, tmp_path, location, asked):
    result, _, wire = fetch(play, tmp_path, play.always(play.reply(b"", 302, [f"Location: {location}"])))
    assert isinstance(result, DownloadFailed)
    assert len(wire.requests) >= asked
    assert files(tmp_path) == []


def test_a_redirect_to_an_allowed_place_is_followed_without_a_referer(play, tmp_path):
    handler = play.always(play.reply(b"", 307, ["Location: /other?sig=x#part"]), play.reply(FILM))
    result, _, wire = fetch(play, tmp_path, handler)
    assert result.assets[0].sha256 == DIGEST
    assert wire.requests[1][0].startswith(b"GET /other?sig=x HTTP/1.1\r\n")
    assert b"referer" not in wire.requests[1][0].lower()


def test_a_name_is_looked_up_once_and_the_address_that_was_judged_is_connected_to(play, tmp_path, monkeypatch):
    """A name that leads elsewhere the second time (DNS rebinding) leads nowhere."""
    looked_up = []
    getaddrinfo = socket.getaddrinfo

    def rebinding(host, *arguments, **options):
        if host != "localhost":
            return getaddrinfo(host, *arguments, **options)
        looked_up.append(host)
        return getaddrinfo("127.0.0.1" if len(looked_up) == 1 else "10.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)

    async def scenario():
        async with (
            play.serving(film(play)) as wire,
            AiohttpTransport(base_url=wire.base_url, api_key="k", concurrency=1) as client,
        ):
            url = f"http://localhost:{wire.port}/f"
            first = await client.fetch(url, offset=0, etag=None, write=lambda *_: None)
            await client._downloading._session.close()
            client._downloading = None
            return first, await client.fetch(url, offset=0, etag=None, write=lambda *_: None), wire

    first, second, wire = asyncio.run(scenario())
    assert first.complete
    assert (second.forbidden, second.reason) == (True, "not a public address")
    assert len(wire.requests) == 1
    assert len(looked_up) == 2


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
        "167772161",
        "0x0a000001",
    ],
)
@pytest.mark.parametrize("redirected", [False, True])
def test_a_private_place_is_not_asked_at_the_first_hop_nor_at_a_later_one(play, tmp_path, host, redirected):
    private = f"https://{host}/f?sig=s3cret"
    handler = play.always(play.reply(b"", 302, [f"Location: {private}"]))
    result, desk, wire = fetch(play, tmp_path, handler, paths=["/f" if redirected else private])
    assert isinstance(result, DownloadFailed)
    assert re.search("not a (public|usable) address", result.reason)
    assert len(wire.requests) == redirected
    assert "s3cret" not in result.reason + repr(desk.events)


def test_this_machine_is_not_asked_when_the_api_is_elsewhere(play):
    async def scenario():
        async with (
            play.serving(film(play)) as wire,
            AiohttpTransport(base_url="https://api.x.ai/v1", api_key="k", concurrency=1) as client,
        ):
            answers = []
            for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "[::ffff:127.0.0.1]"):
                for scheme in ("http", "https"):
                    url = f"{scheme}://{host}:{wire.port}/f"
                    answers.append(await client.fetch(url, offset=0, etag=None, write=lambda *_: None))
            return answers, wire

    answers, wire = asyncio.run(scenario())
    assert all(answer.forbidden for answer in answers), answers
    assert wire.connections == 0


# --- Disks -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_run(play, tmp_path, monkeypatch):
    class Full:
        closed = False

        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    original = placing.PartFile.__init__

    def opened(self, *arguments):
        original(self, *arguments)
        self._file = Full(self._file)

    monkeypatch.setattr(placing.PartFile, "__init__", opened)
    with pytest.raises(StorageFailed) as caught:
        fetch(play, tmp_path, film(play))
    assert "No space left" in caught.value.message


def test_a_folder_that_cannot_be_made_stops_the_run(play, tmp_path):
    (tmp_path / "out.media").write_bytes(b"a file")
    with pytest.raises(StorageFailed):
        fetch(play, tmp_path, film(play))


def test_cancelling_leaves_nothing_behind(play, tmp_path):
    async def scenario():
        begun = asyncio.Event()

        async def handler(wire, reader, writer):
            await wire.request(reader)
            writer.write(play.reply(FILM[:100_000], length=len(FILM)))
            await writer.drain()
            begun.set()
            await reader.read()

        async with (
            play.serving(handler) as wire,
            AiohttpTransport(base_url=wire.base_url, api_key="k", concurrency=1) as client,
        ):
            desk = Desk(tmp_path, client)
            call = asyncio.create_task(desk.downloader.fetch_all(RECORD, [AssetRef(url=wire.url("/f"))]))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(scenario())
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "said",
    [
        "HTTP/1.1 {target}\r\n\r\n",
        "HTTP/1.1 403 {target}\r\nContent-Length: 3\r\n\r\nno!",
        "{target}\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: {target}\r\n\r\n",
        "HTTP/1.1 302 F\r\nLocation: http://10.0.0.1{target}\r\n\r\n",
        "HTTP/1.1 302 F\r\nLocation: ftp://x{target}\r\n\r\n",
        "HTTP/1.1 200 OK\r\n{target}: x\r\nTransfer-Encoding: no\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{target}\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: {target}\r\n\r\n",
    ],
)
def test_no_reason_repeats_a_signed_address_whatever_its_server_says(play, said):
    async def handler(wire, reader, writer):
        head, _ = await wire.request(reader)
        writer.write(said.replace("{target}", head.split(b" ")[1].decode()).encode())
        await writer.drain()

    async def main():
        async with (
            play.serving(handler) as wire,
            AiohttpTransport(base_url=wire.base_url, api_key="xai-secret", concurrency=1) as client,
        ):
            url = wire.url("/SECRET-path/a.mp4?sig=SECRET-query")
            return await client.fetch(url, offset=0, etag=None, write=lambda block, position: None)

    fetched = asyncio.run(main())
    assert not fetched.complete
    assert fetched.reason
    assert "SECRET" not in repr(fetched)


# --- Cancelled -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["begin", "write"])
def test_a_download_that_is_cancelled_leaves_no_part_behind_and_says_nothing(play, tmp_path, step, monkeypatch, caplog):
    reached, may_go = threading.Event(), threading.Event()
    owner = MediaFolder if step == "begin" else PartFile
    working = getattr(owner, step)

    def slow(self, *arguments):
        reached.set()
        may_go.wait(30)
        if step == "write":
            msg = "the disk is full"
            raise StorageFailed(msg)
        return working(self, *arguments)

    monkeypatch.setattr(owner, step, slow)

    async def scenario():
        async with (
            play.serving(film(play)) as wire,
            AiohttpTransport(base_url=wire.base_url, api_key="xai-secret", concurrency=2) as client,
        ):
            desk = Desk(tmp_path, client)
            fetching = asyncio.create_task(desk.downloader.fetch_all(RECORD, [AssetRef(url=wire.url("/f.mp4"))]))
            await asyncio.to_thread(reached.wait, 30)
            fetching.cancel()
            await asyncio.sleep(0)
            may_go.set()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            gc.collect()

    asyncio.run(scenario())
    assert list((tmp_path / "out.media").glob(".*")) == []
    assert caplog.text == ""
