"""Downloads of URLs from a server on localhost: the cache, and the messages when a download fails."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from flash_internimage.checkpoint import read_checkpoint
from flash_internimage.errors import UserError
from flash_internimage.path_manager import PathManager, cached_path


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        code, headers, body = self.server.answers.get(self.path, (404, {}, b""))
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def servers(tmp_path, monkeypatch):
    """Two servers, and an empty cache in ``tmp_path / "cache"``."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    both = [Server(), Server()]
    for server in both:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield both
    for server in both:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(servers):
    return servers[0]


def files_in(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.endswith(".lock"))


def test_a_file_is_downloaded_once(server, tmp_path):
    server.answers["/a/weights.pth"] = 200, {}, b"contents"
    url = f"{server.url}/a/weights.pth"
    assert [Path(PathManager.get_local_path(url)).read_bytes() for _ in range(2)] == [b"contents"] * 2
    assert server.requests == ["/a/weights.pth"]
    with PathManager.open(url, "rb") as file:
        assert file.read() == b"contents"


def test_the_cache_distinguishes_servers_and_queries(servers):
    for server, content in zip(servers, (b"A", b"B"), strict=True):
        server.answers["/weights.pth"] = 200, {}, content
    servers[1].answers["/weights.pth?v=2"] = 200, {}, b"C"
    urls = [f"{servers[0].url}/weights.pth", f"{servers[1].url}/weights.pth", f"{servers[1].url}/weights.pth?v=2"]
    assert [Path(PathManager.get_local_path(url)).read_bytes() for url in urls] == [b"A", b"B", b"C"]


@pytest.mark.parametrize(
    "path", ["/a/../../../../evil.pth", "/..", "/%2e%2e/evil", "/a?x=/../../evil", "/a/", "/.hidden", "/" + 400 * "a"]
)
def test_the_cached_file_is_in_the_cache(tmp_path, path):
    cached = cached_path(f"https://host{path}", str(tmp_path))
    assert cached.parent.parent == tmp_path / "urls"
    assert cached.resolve() == cached
    assert len(cached.name) <= 100


def test_a_checkpoint_keeps_its_suffix(server, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    server.answers["/my%20weights.pth?download=1"] = 200, {}, (tmp_path / "a.pth").read_bytes()
    path = PathManager.get_local_path(f"{server.url}/my%20weights.pth?download=1")
    assert Path(path).name == "my_20weights.pth"
    assert read_checkpoint(path)["a"].tolist() == [1, 1]


def test_a_redirect_of_the_same_scheme_is_followed(server):
    server.answers["/old"] = 302, {"Location": "/new"}, b""
    server.answers["/new"] = 200, {}, b"contents"
    assert Path(PathManager.get_local_path(f"{server.url}/old")).read_bytes() == b"contents"


@pytest.mark.parametrize("target", ["https://127.0.0.1/a", "ftp://127.0.0.1/a", "file:///etc/passwd"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_scheme_is_refused(server, target, code):
    server.answers["/a"] = code, {"Location": target}, b""
    with pytest.raises(UserError, match=f"/a: the server redirects to another scheme, {target}"):
        PathManager.get_local_path(f"{server.url}/a")


FAILURES = {
    "a missing file": ((404, {}, b""), "the server answered 404 Not Found; check the URL"),
    "a broken server": ((500, {}, b""), "the server answered 500 Internal Server Error"),
    "a cut connection": ((200, {"Content-Length": "100"}, b"abc"), "the connection ended after 3 of 100 bytes|IncompleteRead"),
    "a length that is no number": ((200, {"Content-Length": "ten"}, b"abc"), "cannot be downloaded|ended after"),
    "a redirect to itself": ((302, {"Location": "/a"}, b""), "the server answered 302"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_download_is_one_sentence_and_leaves_no_file(server, tmp_path, name):
    server.answers["/a"], message = FAILURES[name]
    with pytest.raises(UserError, match=message) as raised:
        PathManager.get_local_path(f"{server.url}/a")
    assert "\n" not in str(raised.value)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a", "https://127.0.0.1:1/a", "http://127.0.0.1:port/a", "https:///a", "ftp://host/a"]
)
def test_a_url_without_a_server_is_one_sentence(servers, url):
    with pytest.raises(UserError, match="cannot be downloaded|expected a URL"):
        PathManager.get_local_path(url)


def test_an_encrypted_connection_to_a_server_that_has_none_is_one_sentence(server):
    with pytest.raises(UserError, match="cannot be downloaded"):
        PathManager.get_local_path(f"https://127.0.0.1:{server.server_port}/a")


def test_a_url_cannot_be_written(servers):
    with pytest.raises(UserError, match="can only be read, got mode 'w'"):
        PathManager.open("https://host/a", "w")
