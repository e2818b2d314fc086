"""Output to streams that cannot encode every character."""

import io
import sys

from flash_internimage.cli.terminal import escape_unprintable


def test_characters_that_the_stream_lacks_are_escaped(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii", write_through=True))
    escape_unprintable()
    print("é ok")
    assert buffer.getvalue() == b"\\xe9 ok\n"


def test_streams_that_are_replaced_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console
    escape_unprintable()
    print("é")
    assert sys.stdout.getvalue() == "é\n"
