"""``hf://`` paths with a server on localhost: download, cache, resumed download, missing files, offline mode."""

from __future__ import annotations

import errno
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from flash_internimage.checkpoint import CheckpointError
from flash_internimage.checkpoint import hub as client
from flash_internimage.errors import UserError
from tests.programs import Result, hub_environment, run_code

BLOCK = 10 * 1024 * 1024  # size of the blocks that the client writes
CONTENT = bytes(range(256)) * (2 * BLOCK // 256 + 7)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


class Hub(ThreadingHTTPServer):
    """Serves one file of one repository like the hub, and records the requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, str | None]] = []
        self.cuts: list[int] = []  # bytes of the next responses that are sent before the connection breaks

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self) -> list[str | None]:
        """The Range header of each request for content."""
        return [range_ for method, path, range_ in self.requests if method == "GET" and "/resolve/" in path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, send_body: bool):
        range_ = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, range_))
        found = re.fullmatch(r"/org/repo/resolve/([^/]+)/weights\.pth", self.path)
        if found is None or found[1] not in ("main", "v1", COMMIT, OTHER_COMMIT):
            code = (
                "RepoNotFound"
                if not self.path.startswith(("/org/repo/", "/api/models/org/repo"))
                else ("EntryNotFound" if "/main/" in self.path else "RevisionNotFound")
            )
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(range_.removeprefix("bytes=").split("-")[0]) if range_ else 0
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.send_header("X-Repo-Commit", OTHER_COMMIT if found[1] == "v1" else COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body and self.server.cuts:
            self.wfile.write(body[: self.server.cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
        elif send_body:
            self.wfile.write(body)


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(hub, tmp_path):
    """Download in a separate process, because the client reads its settings when it is imported."""

    def run(*paths: str, **environment: str) -> Result:
        code = (
            "import sys\n"
            "from detectron2.utils.file_io import PathManager\n"
            "import flash_internimage.checkpoint.checkpointer\n"
            "failed = 0\n"
            "for path in sys.argv[1:]:\n"
            "    try: print(PathManager.get_local_path(path))\n"
            "    except flash_internimage.checkpoint.CheckpointError as error: failed = 1; print(error, file=sys.stderr)\n"
            "sys.exit(failed)\n"
        )
        return run_code(code, *paths, environment={**hub_environment(hub.url, tmp_path), **environment})

    return run


def content(result: Result) -> bytes:
    assert result.returncode == 0, result.stderr
    with open(result.stdout.strip().splitlines()[-1], "rb") as file:
        return file.read()


def test_the_first_use_downloads_and_the_second_uses_the_cache(hub, fetch):
    assert content(fetch("hf://org/repo/weights.pth")) == CONTENT
    assert hub.bodies() == [None]
    assert content(fetch("hf://org/repo/weights.pth")) == CONTENT
    assert hub.bodies() == [None], "the second fetch asked for the content again"


def test_offline_uses_the_cache_without_requests(hub, fetch):
    fetch("hf://org/repo/weights.pth")
    hub.requests.clear()
    assert content(fetch("hf://org/repo/weights.pth", HF_HUB_OFFLINE="1")) == CONTENT
    assert hub.requests == []


def test_offline_without_a_cache_the_message_has_the_url_and_the_option(hub, fetch):
    result = fetch("hf://org/repo/weights.pth", HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    assert "HF_HUB_OFFLINE is set" in result.stderr
    assert f"download {hub.url}/org/repo/resolve/main/weights.pth" in result.stderr
    assert "train.init_checkpoint=/path/to/the/file" in result.stderr


def test_a_full_disk_is_one_sentence(monkeypatch, tmp_path):
    def full(*arguments: object, **options: object) -> str:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / "x.incomplete").write_bytes(bytes(3 << 20))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(client.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(client, "hf_hub_download", full)
    with pytest.raises(
        UserError, match=r"cannot be written, since no space is left on the disk \(3.0 MiB were written, .* free\)"
    ):
        client.fetch("hf://org/repo/weights.pth")


def test_the_message_says_that_the_hub_is_unreachable(monkeypatch):
    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("cannot find the file on the hub, check your connection")

    monkeypatch.setattr(client, "hf_hub_download", unreachable)
    with pytest.raises(
        CheckpointError, match="the hub could not be reached; download https://.*/org/repo/resolve/main/weights.pth"
    ):
        client.fetch("hf://org/repo/weights.pth")


def test_an_interrupted_download_is_resumed(hub, fetch):
    hub.cuts = [BLOCK + 1000]
    assert content(fetch("hf://org/repo/weights.pth")) == CONTENT
    assert hub.bodies() == [None, f"bytes={BLOCK}-"]


def test_a_connection_that_keeps_breaking_is_an_error_and_leaves_no_partial_file(hub, fetch, tmp_path):
    hub.cuts = [0] * 20
    result = fetch("hf://org/repo/weights.pth")
    assert result.returncode == 1
    assert f"downloading {hub.url}/org/repo/resolve/main/weights.pth failed" in result.stderr
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1000] == []


def test_a_pinned_revision_is_requested(hub, fetch):
    result = fetch("hf://org/repo@v1/weights.pth")
    assert content(result) == CONTENT
    assert OTHER_COMMIT in result.stdout


def test_missing_repositories_files_and_revisions_are_named(fetch):
    messages = {
        "hf://org/repo/other.pth": "has no file other.pth at main",
        "hf://org/nothing/weights.pth": "the hub has no public repository org/nothing",
        "hf://org/repo@v9/weights.pth": "has no revision v9",
        "hf://weights.pth": "expected hf://organization/repository/file",
    }
    result = fetch(*messages)
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert [message for message in messages.values() if not any(message in line for line in lines)] == []
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "path",
    ["org/repo/../weights.pth", "../repo/weights.pth", "org/../weights.pth", "org/repo@../a.pth", "org/repo//a.pth"],
)
def test_a_path_that_leads_out_of_the_cache_is_refused(path):
    with pytest.raises(CheckpointError, match="expected hf://organization/repository/file"):
        client.HubFile.parse(f"hf://{path}")
