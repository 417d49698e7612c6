"""A server on this machine that takes uploads of models from the hub's own client, as the hub does.

It takes all files inside the commit. The hub has large ones sent to a store, by the client itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import yaml

from tests.http_server import http_server

TOKEN = "hf_0123456789abcdefghij"


@dataclass
class Model:
    """A model on the server: whether it is private, its files, the titles of its commits."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """The server. What is asked without the token, or of another owner than ``lab``, is refused."""

    url: str = ""
    models: dict[str, Model] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.respond(b"")

        def do_POST(self) -> None:
            self.respond(self.body())

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def respond(self, body: bytes) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.send({"error": "Invalid user token."}, 401)
            elif path == "/api/repos/create":
                self.create(json.loads(body))
            elif path == "/api/validate-yaml":
                head = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
                wrong = [] if head["pipeline_tag"] == "robotics" else [{"message": "unknown pipeline_tag"}]
                self.send({"errors": wrong, "warnings": []}, 400 if wrong else 200)
            elif path.startswith("/api/models/"):
                self.model(path.removeprefix("/api/models/"), body)
            else:
                self.send({"error": f"nothing at {path}"}, 404)

        def create(self, asked: dict[str, Any]) -> None:
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "lab":
                self.send({"error": "You don't have the rights to create a model under this namespace"}, 403)
            elif name in hub.models:
                self.send({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
            else:
                private = asked.get("visibility") == "private" or asked.get("private") is True
                hub.models[name] = Model(private)
                self.send({"url": f"{hub.url}/{name}", "id": name, "name": name})

        def model(self, path: str, body: bytes) -> None:
            name, action = "/".join(path.split("/")[:2]), path.split("/")[2:]
            model = hub.models.get(name)
            if model is None:
                self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif not action:
                self.send({"id": name, "private": model.private, "sha": "0" * 40, "siblings": []})
            elif action[0] == "preupload":
                asked = [one["path"] for one in json.loads(body)["files"]]
                self.send(
                    {
                        "files": [
                            {"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in asked
                        ]
                    }
                )
            elif action[0] == "commit":
                self.commit(model, name, [json.loads(line) for line in body.splitlines()])
            else:
                self.send({"error": f"nothing at {path}"}, 404)

        def commit(self, model: Model, name: str, lines: list[dict[str, Any]]) -> None:
            for line in lines:
                value = line["value"]
                if line["key"] == "header":
                    model.commits.append(value["summary"])
                elif line["key"] == "file":
                    model.files[value["path"]] = base64.b64decode(value["content"])
            sha = "1" * 40
            self.send({"commitOid": sha, "commitUrl": f"{hub.url}/{name}/commit/{sha}", "success": True})

        def send(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with http_server(Answers) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
