"""detectron2's path manager with this package's own downloads: local paths, and ``https://`` and ``http://`` URLs.

iopath, which downloads for detectron2, names the cached file after the path of the URL alone: a file of another server with the
same path takes its place, and ``..`` leads out of the cache. Here the name of the cached file depends on the whole URL.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, file_lock, get_cache_dir
from tqdm import tqdm

from .errors import UserError
from .files import write_atomically

__all__ = ["PathManager", "URLPathHandler", "cached_path"]

_TIMEOUT = 60  # seconds without an answer
_CHUNK = 1 << 20  # bytes
_MAX_NAME = 100  # characters


def cached_path(url: str, cache_dir: str | None = None) -> Path:
    """Return the path of the downloaded file of a URL: a folder for each URL, and the last part of the URL's path as the name.

    Args:
        cache_dir: by default iopath's: ``$FVCORE_CACHE``, or ``~/.torch/iopath_cache``.
    """
    name = re.sub(r"[^\w.-]", "_", urlsplit(url).path.rpartition("/")[2]).lstrip(".")[-_MAX_NAME:] or "download"
    return Path(get_cache_dir(cache_dir)) / "urls" / hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest() / name


class URLPathHandler(PathHandler):
    """Downloads a URL once, and opens it for reading, through iopath's path managers, such as detectron2's."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["https://", "http://", "ftp://"]

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        if path.startswith("ftp://"):
            raise UserError(
                f"{path}: expected a URL that starts with https://; download it by hand and give the path of the file"
            )
        cached = cached_path(path, cache_dir)
        cached.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(cached)):
            if force or not cached.is_file():
                write_atomically(cached, lambda temporary: _download(path, temporary))
        return str(cached)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if mode not in ("r", "rb"):
            raise UserError(f"{path}: a URL can only be read, got mode {mode!r}")
        encoding = None if "b" in mode else kwargs.pop("encoding", "utf-8")
        return open(self._get_local_path(path, **kwargs), mode, buffering=buffering, encoding=encoding)


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects to URLs of the same scheme only: a redirect from https to http would give up its protection."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = urljoin(req.full_url, headers.get("location") or headers.get("uri") or "")
        if urlsplit(target).scheme != urlsplit(req.full_url).scheme:
            raise UserError(f"{req.full_url}: the server redirects to another scheme, {target}; give that URL if you trust it")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _download(url: str, target: Path) -> None:
    with open(target, "wb") as file:
        for chunk in _chunks(url):
            file.write(chunk)


def _chunks(url: str) -> Iterator[bytes]:
    """Yield the contents of a URL.

    Raises:
        UserError: the URL cannot be downloaded completely.
    """
    try:
        with urllib.request.build_opener(_SameScheme).open(url, timeout=_TIMEOUT) as answer:
            expected = int(answer.headers.get("Content-Length") or -1)
            received = 0
            with tqdm(
                desc=f"downloading {url}", total=max(expected, 0) or None, unit="B", unit_scale=True, disable=None
            ) as bar:
                while chunk := answer.read(_CHUNK):
                    received += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
            if received != expected >= 0:
                raise UserError(f"{url}: the connection ended after {received} of {expected} bytes; try again")
    except UserError:
        raise
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{url}: the server answered {error.code} {' '.join(str(error.reason).split())}; check the URL"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = str(getattr(error, "reason", "") or error or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{url}: cannot be downloaded ({reason}); check the URL and the network, or download the file by hand "
            "and give its path"
        ) from error


PathManager.register_handler(URLPathHandler(), allow_override=True)
