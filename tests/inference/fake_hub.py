"""A server on localhost that speaks the calls of the Hugging Face hub with which a model is uploaded and downloaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: files by path, for each ``owner/name``.
        private: the private ones of them.
        created: bodies of the requests that create a repository.
        commits: summaries of the commits.
        token: the only accepted token.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.created: list[dict] = []
        self.commits: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.token = "hf_of_the_owner"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.reply({"error": "Invalid credentials"}, 401)
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            request = json.loads(body)
            self.server.created.append(request)
            name = f"{request.get('organization')}/{request['name']}"
            exists = name in self.server.repositories
            if not exists:
                self.server.repositories[name] = {}
                if request.get("private") is True or request.get("visibility") == "private":  # before and since 2.0
                    self.server.private.add(name)
            return self.reply({"url": f"{self.server.url}/{name}"}, 409 if exists else 200)
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.server.url}/blobs/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            return self.reply({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path)
        if found is not None:
            self.commit(found[1], [json.loads(line) for line in body.splitlines()])
            url = f"{self.server.url}/{found[1]}/commit/{COMMIT}"
            return self.reply({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        return self.reply({"error": f"no such call: {path}"}, 404)

    def validate(self, card: str) -> None:
        found = re.search(r"^license: (.*)$", card, re.MULTILINE)
        if found is None or found[1] in ("apache-2.0", "mit"):
            return self.reply({"errors": [], "warnings": []})
        return self.reply({"errors": [{"message": f'"license" must be one of [apache-2.0, mit], not {found[1]}'}]}, 400)

    def commit(self, repository: str, lines: list[dict]) -> None:
        files = self.server.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = hashlib.sha256(content).hexdigest()
        assert self.path == f"/blobs/{oid}"
        self.server.blobs[oid] = content
        self.reply({})

    def do_HEAD(self) -> None:
        self.download(send_body=False)

    def do_GET(self) -> None:
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(/tree/main)?", self.path.split("?")[0])
        if found is None or found[1] not in self.server.repositories:
            return self.download(send_body=True)
        if found[2] is None:
            return self.reply({"id": found[1], "private": found[1] in self.server.private})
        files = self.server.repositories[found[1]]
        return self.reply([{"type": "file", "path": name, "size": len(files[name]), "oid": "0"} for name in files])

    def download(self, send_body: bool) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", self.path)
        repository = None if found is None else self.server.repositories.get(found[1])
        content = None if found is None or repository is None else repository.get(found[2])
        if content is None:
            missing = "RepoNotFound" if repository is None else "EntryNotFound"
            return self.reply({}, 404, {"X-Error-Code": missing}, send_body)
        self.send_response(200)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Content-Length": len(content)}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if send_body:
            self.wfile.write(content)
        return None

    def reply(
        self, content: dict | list, status: int = 200, headers: dict[str, str] | None = None, send_body: bool = True
    ) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)
