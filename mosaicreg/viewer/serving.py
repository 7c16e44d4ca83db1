"""The server of the viewer: one archive's files and the page, to this machine, behind a token.

It listens on 127.0.0.1 only, answers GET and HEAD only, and hosts called 127.0.0.1 or localhost
only (so that no web page can reach it under another name). Every path starts with a random token.
A file is served when its real path, all links followed, lies inside the archive.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mosaicreg.errors import InputError
from mosaicreg.layoutfile import load_layout
from mosaicreg.mosaicfile import SUFFIXES
from mosaicreg.objects import ObjectPath
from mosaicreg.viewer.ondemand import OnDemand

if TYPE_CHECKING:
    from tornado.web import Application

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
METADATA = ("zarr.json", ".zattrs", ".zgroup")
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the page may load: itself and the archive. (The decoders are WebAssembly in ``data:`` that
joins itself to JavaScript with ``Function``.)"""


@contextmanager
def serving(path: Path, port: int = 0, pixel_size: float | None = None) -> Iterator[str]:
    """Serve an archive, or a layout, from a thread of this process while inside.

    Args:
        path: an OME-Zarr archive (0.4 or 0.5, a folder), or a layout or position file.
        port: to listen on; any free one where 0.
        pixel_size: of a layout, in micrometre.

    Yields:
        The address of the page, token included.

    Raises:
        InputError: where ``path`` is neither, or the port is taken.
    """
    with _archive(path, pixel_size) as (folder, ensure):
        server = _listen(port)
        token = secrets.token_urlsafe(16)
        address = f"http://{HOST}:{server.getsockname()[1]}/{token}/"
        started, stop = threading.Event(), _Stop()
        thread = threading.Thread(
            target=lambda: asyncio.run(_serve(server, token, folder, ensure, started, stop)),
            name="mosaicreg viewer",
            daemon=True,
        )
        thread.start()
        started.wait()
        try:
            yield address
        finally:
            stop()
            thread.join()


@contextmanager
def _archive(
    path: Path, pixel_size: float | None
) -> Iterator[tuple[Path, Callable[[str], None] | None]]:
    """The folder to serve, and what fills it where it is made on demand."""
    if isinstance(path, ObjectPath) and path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path}: archives are shown from a disk of this machine; copy the folder here first, "
            "or show its layout, which is drawn from the tiles"
        )
    if path.is_dir() and any((path / name).is_file() for name in METADATA):
        yield path.resolve(), None
    elif path.suffix.lower() in SUFFIXES:
        mosaic, layout = load_layout(path)
        if pixel_size is not None:
            mosaic = replace(mosaic, pixel_size=(pixel_size, pixel_size))
        with tempfile.TemporaryDirectory(prefix="mosaicreg-view-") as folder:
            root = Path(folder).resolve() / "view.ome.zarr"
            yield root, OnDemand(mosaic, layout, root).ensure
    else:
        raise InputError(
            f"{path}: neither an OME-Zarr archive nor a layout ({', '.join(SUFFIXES)}); "
            "mosaicreg stitch makes the one, mosaicreg register the other"
        )


def _listen(port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name != "nt":  # there it would let others listen on the same port
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
    except OSError as error:
        server.close()
        raise InputError(f"port {port} cannot be used ({error.strerror}); leave out --port, "
                         "or take another") from None  # fmt: skip
    server.listen(128)
    server.setblocking(False)
    return server


class _Stop:
    """Ends the server from another thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.event: asyncio.Event | None = None

    def __call__(self) -> None:
        assert self.loop is not None
        assert self.event is not None
        self.loop.call_soon_threadsafe(self.event.set)


async def _serve(
    server: socket.socket,
    token: str,
    folder: Path,
    ensure: Callable[[str], None] | None,
    started: threading.Event,
    stop: _Stop,
) -> None:
    from tornado.httpserver import HTTPServer

    stop.loop, stop.event = asyncio.get_running_loop(), asyncio.Event()
    with ThreadPoolExecutor(os.cpu_count(), "mosaicreg render") as pool:
        http = HTTPServer(application(token, folder, ensure, pool))
        http.add_socket(server)
        started.set()
        await stop.event.wait()
        http.stop()
        await http.close_all_connections()
        pool.shutdown(cancel_futures=True)


def application(
    token: str, folder: Path, ensure: Callable[[str], None] | None, pool: ThreadPoolExecutor
) -> Application:
    """The page under ``/token/`` and the archive under ``/token/archive/``."""
    from tornado.web import Application, ErrorHandler, HTTPError, StaticFileHandler

    class Files(StaticFileHandler):
        """Files of one folder, with ranges, to this machine only."""

        def prepare(self) -> None:
            host = (self.request.host or "").rpartition(":")[0] or self.request.host
            if host not in (HOST, "localhost"):
                raise HTTPError(403)

        def set_default_headers(self) -> None:
            self.set_header("X-Content-Type-Options", "nosniff")
            self.set_header("Content-Security-Policy", POLICY)
            self.set_header("Cross-Origin-Resource-Policy", "same-origin")
            self.set_header("Referrer-Policy", "no-referrer")
            self.set_header("Cache-Control", "no-cache")
            self.clear_header("Server")

        def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
            try:
                real = Path(absolute_path).resolve()
            except (OSError, ValueError):
                raise HTTPError(404) from None
            if Path(root).resolve() not in real.parents:
                raise HTTPError(403)
            if not real.is_file():
                raise HTTPError(404)
            return str(real)

        def compute_etag(self) -> str | None:
            # Tornado's own reads whole files to hash them.
            assert self.absolute_path is not None
            facts = Path(self.absolute_path).stat()
            return f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'

        def parse_url_path(self, url_path: str) -> str:
            return super().parse_url_path(url_path or "index.html")

    class Archive(Files):
        """The archive, its chunks made first where they are made on demand."""

        async def get(self, path: str, include_body: bool = True) -> None:
            if ensure is not None:
                await asyncio.get_running_loop().run_in_executor(pool, ensure, path)
            await super().get(path, include_body)

    return Application(
        [
            (rf"/{token}/archive/(.+)", Archive, {"path": str(folder)}),
            (rf"/{token}/([^/]*)", Files, {"path": str(PAGE)}),
        ],
        default_handler_class=ErrorHandler,
        default_handler_args={"status_code": 404},
        log_function=lambda handler: None,
    )
