"""Videos from files, from streams of a local HTTP server, and from a camera that is a fake."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from flash_internimage.inference import video
from flash_internimage.inference.sources import Source
from flash_internimage.inference.video import UnreadableVideo, Video

FRAMES = [np.full((48, 64, 3), value, np.uint8) for value in (20, 120, 220)]


def write_clip(path, codec="MJPG"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 48))
    for frame in FRAMES:
        writer.write(frame)
    writer.release()
    return path


class Handler(BaseHTTPRequestHandler):
    """Serves /clip.avi, a file, and /live, an endless MJPEG stream that repeats the frames."""

    def do_GET(self):
        self.send_response(200 if self.path in ("/clip.avi", "/live") else 404)
        if self.path == "/clip.avi":
            contents = self.server.clip.read_bytes()
            self.send_header("Content-Length", str(len(contents)))
            self.end_headers()
            self.wfile.write(contents)
        elif self.path == "/live":
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                while True:
                    for frame in FRAMES:
                        _, encoded = cv2.imencode(".jpg", frame)
                        part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(encoded)
                        self.wfile.write(part + encoded.tobytes() + b"\r\n")
                        time.sleep(0.01)
            except OSError:  # the client has closed the connection
                pass
        else:
            self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """Address of a local HTTP server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.clip = write_clip(tmp_path / "clip.avi")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class FakeCamera:
    """A camera of ``cv2.VideoCapture`` with three frames, which reports a clock as its frame rate."""

    def __init__(self, number):
        self.number = number
        self.frames = list(FRAMES)
        self.released = False

    def read(self):
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def get(self, name):
        return 90000.0 if name == cv2.CAP_PROP_FPS else -1.0

    def release(self):
        self.released = True


def test_a_file_of_a_server(server):
    clip = Video(Source(f"{server}/clip.avi", "clip"))
    assert clip.frames_per_second == pytest.approx(10)
    assert not clip.is_live
    assert [round(frame.mean(), -1) for frame in clip] == [20, 120, 220]


def test_a_live_stream(server):
    live = Video(Source(f"{server}/live", "live"))
    assert live.is_live
    frames = iter(live)
    values = [round(next(frames).mean(), -1) for _ in range(4)]
    frames.close()
    assert set(values) <= {20, 120, 220}
    assert len(set(values)) > 1


def test_a_camera(monkeypatch):
    opened = []
    monkeypatch.setattr(video.cv2, "VideoCapture", lambda number: opened.append(FakeCamera(number)) or opened[-1])
    camera = Video(Source("1", "camera1"))
    assert opened[0].number == 1
    assert camera.is_live
    assert camera.frames_per_second == 25
    assert [int(frame[0, 0, 0]) for frame in camera] == [20, 120, 220]
    assert opened[0].released


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("{}/missing", "/missing: not a readable stream", id="server without the file"),
        pytest.param("http://127.0.0.1:9/x?key=secret", "http://127.0.0.1:9/x: not a readable stream", id="no server"),
        pytest.param("77", "camera 77: not a readable camera", id="no camera"),
    ],
)
def test_sources_without_frames(server, path, message):
    with pytest.raises(UnreadableVideo, match=message) as error:
        Video(Source(path.format(server), "x"))
    assert "secret" not in str(error.value)
