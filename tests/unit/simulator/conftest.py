"""A world, and a client of it that needs no network."""

import json

import pytest

from bulkgrok.simulator.settings import SimulatorSettings
from bulkgrok.simulator.wire import Wire
from bulkgrok.simulator.world import World

START = 1_790_000_000.0


class Caller:
    """Talks to a world as a server would, at a time that stands still until it is moved."""

    def __init__(self, settings, **more):
        self.world = World(SimulatorSettings(**settings), **more)
        self.now = START

    def request(self, method, path, body=None, *, key="any", headers=None):
        found = {"authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            found["content-type"] = "application/json"
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        reply = self.world.handle(method, path, found | (headers or {}), data, self.now)
        if reply.wire is Wire.WHOLE:
            self.world.sent(reply)
        return reply

    def post(self, path, body, **more):
        return self.request("POST", "/v1" + path, body, **more)

    def get(self, path, **more):
        return self.request("GET", "/v1" + path, **more)

    def chat(self, prompt="hello", **fields):
        body = {"model": "grok-4.3", "messages": [{"role": "user", "content": prompt}], **fields}
        return self.post("/chat/completions", body)

    def defer(self, prompt="hello", **fields):
        return self.json(self.chat(prompt, deferred=True, **fields))["request_id"]

    def redeem(self, request_id):
        return self.get(f"/chat/deferred-completion/{request_id}")

    def film(self, prompt="a boat", **fields):
        reply = self.json(self.post("/videos/generations", {"prompt": prompt, **fields}))
        return reply.get("request_id") or reply["id"]

    def fetch(self, url, **headers):
        target = "/" + url.split("://", 1)[1].split("/", 1)[1]
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        file = self.world.fetch("GET", target, named, self.now)
        if file.wire is Wire.WHOLE:
            self.world.sent(file)
        return file

    @staticmethod
    def json(reply):
        return json.loads(reply.body)

    @staticmethod
    def headers(reply):
        return {name.lower(): value for name, value in reply.headers}

    @property
    def ledger(self):
        return self.world.ledger.as_json()


@pytest.fixture
def api():
    """Return a function that makes a world with settings."""

    def make(world=None, **settings):
        return Caller(settings, **(world or {}))

    return make
