"""Input sources: files, folders, patterns and standard input."""

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


def test_videos_are_recognized_by_their_suffix():
    assert Source("a/clip.MP4", "clip").is_video
    assert not Source("a/clip.jpg", "clip").is_video
