"""As much of the Hugging Face hub as huggingface_hub asks of it, over HTTP on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits, and branches as names of them."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False

    def add(self, branch: str, files: Files, message: str) -> str:
        """A commit at the end of a branch."""
        name = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        self.messages.append(message)
        return name

    def files(self, revision: str = "main") -> Files | None:
        """What is there at a branch or commit."""
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Hub:
    """Repositories by id, and what was asked.
    ``token``: what requests must be allowed with; None: nothing.
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    token: str | None = None

    def repository(self, name: str) -> Repository:
        """Made if there is none."""
        if name not in self.repositories:
            self.repositories[name] = made = Repository()
            made.add("main", {}, "initial commit")
        return self.repositories[name]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        if found := re.fullmatch(
            r"/api/models/([\w.-]+/[\w.-]+)/(?:revision|tree)/([\w.-]+)(?:\?.*)?", self.path
        ):
            repository = self.hub.repositories.get(found[1])
            files = None if repository is None else repository.files(found[2])
            if repository is None or files is None:
                return self._missing("RevisionNotFound" if repository else "RepoNotFound")
            if "/tree/" in self.path:
                return self._json(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                        for name, data in files.items()
                    ]
                )
            commit = repository.branches.get(found[2], found[2])
            return self._json(
                {
                    "id": found[1],
                    "modelId": found[1],
                    "sha": commit,
                    "siblings": [{"rfilename": name} for name in files],
                }
            )
        return self._resolve(body=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        self.hub.asked.append(f"POST {self.path}")
        if (
            self.hub.token is not None
            and self.headers.get("Authorization") != f"Bearer {self.hub.token}"
        ):
            return self._answer(401 if self.headers.get("Authorization") is None else 403, b"{}")
        if self.path == "/api/validate-yaml":  # the card's front matter
            return self._json({"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = (
                f"{asked['organization']}/{asked['name']}"
                if asked.get("organization")
                else asked["name"]
            )
            if name in self.hub.repositories:
                return self._answer(409, json.dumps({"url": f"{self.hub.address}/{name}"}).encode())
            self.hub.repository(name).private = (
                bool(asked.get("private")) or asked.get("visibility") == "private"
            )
            return self._json({"url": f"{self.hub.address}/{name}"})
        found = re.fullmatch(
            r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit|branch)/([\w.-]+)(?:\?.*)?", self.path
        )
        assert found is not None, self.path
        repository = self.hub.repositories[found[1]]
        if found[2] == "branch":
            repository.branches[found[3]] = repository.branches["main"]
            return self._json({})
        if found[2] == "preupload":
            return self._json(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        return self._commit(
            found[1], repository, found[3], [json.loads(line) for line in body.splitlines()]
        )

    def _commit(
        self, name: str, repository: Repository, branch: str, lines: list[dict[str, Any]]
    ) -> None:
        files, message = dict(repository.files(branch) or {}), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.add(branch, files, message)
        self._json(
            {
                "commitUrl": f"{self.hub.address}/{name}/commit/{commit}",
                "commitOid": commit,
                "success": True,
            }
        )

    def _resolve(self, body: bool) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        found = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/([^?]+)(?:\?.*)?", self.path)
        repository = found and self.hub.repositories.get(found[1])
        if found is None or repository is None:
            return self._missing("RepoNotFound")
        files = repository.files(found[2])
        if files is None:
            return self._missing("RevisionNotFound")
        if found[3] not in files:
            return self._missing("EntryNotFound")
        data = files[found[3]]
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": repository.branches.get(found[2], found[2]),
        }
        return self._answer(200, data, headers, body)

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub of its own, as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
