"""A real S3 server on loopback (moto's), in a process of its own."""

import fnmatch
import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import time
from urllib.parse import quote

_SIGNED = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"  # moto looks no closer
KEY, SECRET = "AKIAEXAMPLE", "a-secret-that-nobody-may-see/+="


def available():
    return importlib.util.find_spec("moto") is not None and importlib.util.find_spec("flask") is not None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class S3Server:
    """Start with `with`; objects are kept in the server's memory until the end."""

    def __enter__(self):
        self.port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, "moto's server did not start"
                assert time.monotonic() < deadline, "moto's server does not answer"
                time.sleep(0.05)
            else:
                return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def environment(self, url=None):
        """What points any client at it, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    # A client of its own, so that what is tested is not what looks on.

    def _ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers={"Authorization": _SIGNED})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def make_bucket(self, bucket):
        assert self._ask("PUT", f"/{bucket}")[0] == 200

    def put(self, bucket, key, data):
        status, body = self._ask("PUT", f"/{bucket}/{quote(key)}", data)
        assert status == 200, body

    def get(self, bucket, key):
        """The object's bytes, None where there is none."""
        status, body = self._ask("GET", f"/{bucket}/{quote(key)}")
        assert status in {200, 404}, body
        return body if status == 200 else None

    def delete(self, bucket, key):
        assert self._ask("DELETE", f"/{bucket}/{quote(key)}")[0] in {200, 204}

    def keys(self, bucket, prefix=""):
        """All keys that begin so, in order."""
        import xml.etree.ElementTree as ET  # noqa: PLC0415

        found, token = [], None
        while True:
            query = f"/{bucket}?list-type=2&prefix={quote(prefix)}"
            if token:
                query += f"&continuation-token={quote(token)}"
            status, body = self._ask("GET", query)
            assert status == 200, body
            root = ET.fromstring(body)
            space = root.tag.partition("}")[0] + "}"
            found += [each.text for each in root.iter(f"{space}Key")]
            token = root.findtext(f"{space}NextContinuationToken")
            if not token:
                return sorted(found)

    def uploads(self, bucket):
        """How many uploads were begun and neither completed nor aborted."""
        status, body = self._ask("GET", f"/{bucket}?uploads")
        assert status == 200, body
        return body.count(b"<UploadId>")


class ObjectPath:
    """An object, or what begins like a folder, with the few methods of a path that tests use."""

    def __init__(self, server, bucket, key):
        self.server, self.bucket, self.key = server, bucket, key.strip("/")

    def __truediv__(self, name):
        return ObjectPath(self.server, self.bucket, f"{self.key}/{name}")

    def __lt__(self, other):
        return self.key < other.key

    def __str__(self):
        return f"s3://{self.bucket}/{self.key}"

    @property
    def name(self):
        return self.key.rpartition("/")[2]

    @property
    def parent(self):
        return ObjectPath(self.server, self.bucket, self.key.rpartition("/")[0])

    def read_bytes(self):
        data = self.server.get(self.bucket, self.key)
        if data is None:
            raise FileNotFoundError(str(self))
        return data

    def write_bytes(self, data):
        self.server.put(self.bucket, self.key, bytes(data))

    def touch(self):
        self.write_bytes(b"")

    def unlink(self):
        self.server.delete(self.bucket, self.key)

    def exists(self):
        return self.is_file() or self.is_dir()

    def is_file(self):
        return self.server.get(self.bucket, self.key) is not None

    def is_dir(self):
        return bool(self.server.keys(self.bucket, f"{self.key}/"))

    def mkdir(self, **_):
        """There are no folders."""

    def iterdir(self):
        below = [key[len(self.key) + 1 :] for key in self.server.keys(self.bucket, f"{self.key}/")]
        return [self / name for name in below if "/" not in name and name]

    def glob(self, pattern):
        return [path for path in self.iterdir() if fnmatch.fnmatch(path.name, pattern)]
