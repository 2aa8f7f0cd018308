"""A server that is not the bottleneck: nginx on a core of its own, answering without looking.

    direct      a chat completion of 1.6 kB
    streaming   the same text as 40 server-sent events, 9 kB
    deferred    POST: a request id that nobody had before; GET of it: the completion, at once

wrk (Debian) tells what the server itself can give.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import CLIENT_CORE, SERVER_CORE, pinned

_USAGE = {"prompt_tokens": 132, "completion_tokens": 309, "total_tokens": 441, "cost_in_usd_ticks": 625000}
_HEAD = {"id": "a3d1008e-4544-40d4-d075-11527e794e4a", "created": 1752854522, "model": "grok-4.3"}
ANSWER = json.dumps(
    _HEAD
    | {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Forty-two, more or less. " * 49, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    }
)
BODY = json.dumps({"messages": [{"role": "user", "content": "Forty-two? " * 48}], "model": "grok-4.3"})
_PIECES = 40

_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; server_tokens off; keepalive_requests 1000000000; keepalive_timeout 3600; client_body_buffer_size 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{direct} backlog=2048; default_type application/json; location / {{ return 200 '{answer}'; }} }}
  server {{ listen 127.0.0.1:{streaming} backlog=2048; default_type text/event-stream; location / {{ {stream} }} }}
  server {{
    listen 127.0.0.1:{deferred} backlog=2048; default_type application/json;
    location /v1/chat/deferred-completion/ {{ return 200 '{answer}'; }}
    location / {{ return 200 '{{"request_id":"$request_id"}}'; }}
  }}
}}
"""  # noqa: E501 - a configuration


class Nginx:
    """One server with three ports."""

    def __init__(self, folder: Path) -> None:
        self.ports = dict(zip(("direct", "streaming", "deferred"), _free_ports(3), strict=True))
        self._folder = folder
        self._config = folder / "nginx.conf"
        self._config.write_text(_CONFIG.format(folder=folder, answer=ANSWER, stream=_stream(), **self.ports))

    def url(self, mode: str) -> str:
        """Return the base URL of a port."""
        return f"http://127.0.0.1:{self.ports[mode]}/v1"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve."""
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        command = [nginx, "-c", self._config, "-p", self._folder, "-e", self._folder / "error.log"]
        server = subprocess.Popen(pinned(SERVER_CORE, command))
        try:
            for port in self.ports.values():
                _await_port(port)
            yield
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()

    def ceiling(self, mode: str, *, seconds: int = 2) -> float | None:
        """Return the requests a second that wrk gets from the client's core; None where there is no wrk."""
        if (wrk := shutil.which("wrk")) is None:
            return None
        script = self._folder / "post.lua"
        script.write_text(
            f"wrk.method = 'POST'; wrk.headers['Content-Type'] = 'application/json'; wrk.body = [[{BODY}]]"
        )
        command = [wrk, "-t1", "-c100", f"-d{seconds}", "-s", script, self.url(mode) + "/chat/completions"]
        found = subprocess.run(pinned(CLIENT_CORE, command), capture_output=True, text=True, check=True).stdout
        return float(found.partition("Requests/sec:")[2].split()[0])


def missing() -> str | None:
    """Return why there is no nginx, None if there is."""
    if shutil.which("nginx") or Path("/usr/sbin/nginx").exists():
        return None
    return "nginx is not installed (Debian: apt-get install nginx-light wrk)"


def _stream() -> str:
    """Return directives that answer with a stream; a word of the configuration has at most 4 kB."""
    pieces = [{"delta": {"role": "assistant", "content": f"piece {piece} of the answer; "}} for piece in range(_PIECES)]
    chunks = [_HEAD | {"object": "chat.completion.chunk", "choices": [{"index": 0} | piece]} for piece in pieces]
    chunks.append(chunks[0] | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append(chunks[0] | {"choices": [], "usage": _USAGE})
    events = [*(json.dumps(chunk) for chunk in chunks), "[DONE]"]
    sets = "".join(f"set $e{number} 'data: {event}\n\n'; " for number, event in enumerate(events))
    return sets + 'return 200 "' + "".join(f"${{e{number}}}" for number in range(len(events))) + '";'


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _await_port(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    msg = f"nothing listens on port {port}"
    raise RuntimeError(msg)
