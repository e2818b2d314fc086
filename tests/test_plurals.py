"""Numbers with their nouns and verbs."""

import pytest

from flash_internimage.plurals import agree, counted


def test_counted():
    assert [counted(range(n), "error") for n in (0, 1, 2, 1000)] == ["0 errors", "1 error", "2 errors", "1,000 errors"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "images lack their size [height, width]"),
        (1, "image lacks its size [height, width]"),
        (2, "images lack their size [height, width]"),
    ],
)
def test_words_agree_with_a_number(number, expected):
    assert agree("[image lacks its|images lack their] size [height, width]", range(number)) == expected
