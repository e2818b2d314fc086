"""Input sources: files, folders, patterns and standard input."""

import re
from pathlib import Path

import pytest

from flash_internimage.inference.sources import Source, find_sources


@pytest.fixture
def find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.JPG",
        "a.png",
        "sub/c.jpg",
        "sub/a.webp",
        "clip.MP4",
        "notes.txt",
        "report.pdf",
        ".hidden.jpg",
        "odd[1].jpg",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()

    def find(*inputs):
        sources, skipped = find_sources(inputs)
        return [(source.path, source.name) for source in sources], skipped

    return find


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        pytest.param(["a.png"], [("a.png", "a")], id="file"),
        pytest.param(["missing.jpg"], [("missing.jpg", "missing")], id="missing file"),
        pytest.param(["."], [("a.png", "a"), ("b.JPG", "b"), ("clip.MP4", "clip"), ("odd[1].jpg", "odd[1]")], id="folder"),
        pytest.param(["**/*.jpg"], [("odd[1].jpg", "odd[1]"), ("sub/c.jpg", "c")], id="pattern through folders"),
        pytest.param(["odd[1].jpg"], [("odd[1].jpg", "odd[1]")], id="file whose name looks like a pattern"),
        pytest.param(["-"], [("-", "stdin")], id="standard input"),
        pytest.param(
            ["a.png", "sub", "a.png"], [("a.png", "a"), ("sub/a.webp", "a_2"), ("sub/c.jpg", "c")], id="duplicate names"
        ),
    ],
)
def test_sources_are_found(find, inputs, expected):
    assert find(*inputs)[0] == expected


def test_other_files_in_a_folder_are_skipped_and_returned(find):
    assert find(".")[1] == ["notes.txt", "report.pdf"]


def test_lists_name_inputs_of_all_kinds(find):
    Path("lists").mkdir()
    Path("lists/beside.png").touch()
    Path("lists/all.txt").write_text("# photos\na.png\n\nbeside.png\nsub\n*.JPG\nrtsp://host/live\nmissing.jpg\n")
    found = [path for path, _ in find("lists/all.txt", "clip.MP4")[0]]
    assert found == [
        "a.png",
        "lists/beside.png",
        "sub/a.webp",
        "sub/c.jpg",
        "b.JPG",
        "rtsp://host/live",
        "missing.jpg",
        "clip.MP4",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"# nothing\n", "should list inputs, one per line, but is empty", id="empty"),
        pytest.param(b"\xff\xfe\x00", "one per line in UTF-8, but is not text", id="binary"),
        pytest.param(b"other.txt\n", "should not contain another list", id="list in a list"),
        pytest.param(None, "cannot be opened (No such file", id="missing"),
    ],
)
def test_lists_that_are_refused(find, tmp_path, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        find("list.txt")


def test_cameras_and_urls_are_videos():
    camera, stream = Source("0", "camera0"), Source("rtsp://me:secret@host:554/live?key=1", "x")
    assert camera.is_video
    assert camera.is_camera
    assert stream.is_video
    assert stream.is_url
    assert not camera.is_file
    assert not stream.is_file
    assert stream.label == "rtsp://host:554/live"  # neither password nor key in files and messages


def test_cameras_and_urls_have_names_for_files(find):
    assert find("0", "rtsp://me:secret@host:554/live?key=1", "http://host/clip.mp4")[0] == [
        ("0", "camera0"),
        ("rtsp://me:secret@host:554/live?key=1", "host_554_live"),
        ("http://host/clip.mp4", "host_clip.mp4"),
    ]


def test_a_file_with_the_name_of_a_camera_is_a_file(find):
    Path("7").touch()
    assert not Source("7", "7").is_video
    assert find("7")[0] == [("7", "7")]


def test_videos_are_recognized_by_their_suffix():
    assert Source("a/clip.MP4", "clip").is_video
    assert not Source("a/clip.jpg", "clip").is_video
