"""Problems of a file, counted by kind, and the text of a value in a message."""

from collections import Counter

from flash_internimage.plurals import agree

_MAX_REPR = 100  # characters of a value in a message


class Findings:
    """Counts problems by kind and keeps the first case of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.others: list[str] = []

    def add(self, kind: str, case: str) -> None:
        """Add a case of a kind, whose text has both numbers: ``[image is|images are] missing``."""
        self.counts[kind] += 1
        self.first.setdefault(kind, case)

    def say(self, sentence: str) -> None:
        """Add a sentence that counts nothing."""
        self.others.append(sentence)

    def sentences(self) -> list[str]:
        """Return one sentence for each kind, in the order in which the kinds were found, and then the other sentences."""
        counted = [
            f"{count:,} {agree(kind, count)}: {'' if count == 1 else 'the first is '}{self.first[kind]}"
            for kind, count in self.counts.items()
        ]
        return counted + self.others


def short_repr(value: object) -> str:
    """Return a value in Python's notation, cut to a length that fits a message."""
    if isinstance(value, list | dict) and len(value) > _MAX_REPR:  # avoids the text of a polygon of a million numbers
        value = value[:_MAX_REPR] if isinstance(value, list) else dict(list(value.items())[:_MAX_REPR])
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or lists within lists
        return f"a very long {type(value).__name__}"
    return text if len(text) <= _MAX_REPR else f"{text[: _MAX_REPR - 3]}..."
