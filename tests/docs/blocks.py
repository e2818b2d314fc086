"""Parse the code blocks of Markdown pages and the shell commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(?P<language>\S*)\s*$")
_NEEDS = re.compile(r"^<!-- needs: (?P<needs>.+) -->$")
_ASSIGNMENT = re.compile(r"(?P<name>[A-Z_][A-Z0-9_]*)=(?P<value>.*)", re.DOTALL)
_CODE_SPAN = re.compile(r"(?<!`)`(?P<text>[^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        place: page and line number, for error messages.
        language: info string of the fence.
        text: contents without the fences.
        needs: requirements for running it, from ``<!-- needs: COCO, a GPU -->`` on the line before.
    """

    place: str
    language: str
    text: str
    needs: tuple[str, ...]


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    blocks: list[Block] = []
    needs: tuple[str, ...] = ()
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        fence = _FENCE.match(line)
        marker = _NEEDS.match(line)
        if fence:
            inside = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                inside.append(inner)
            blocks.append(Block(f"{page.name}:{number}", fence["language"], "\n".join(inside) + "\n", needs))
        if marker:
            needs = tuple(need.strip() for need in marker["needs"].split(","))
        elif line.strip():
            needs = ()  # a marker applies only to the block right after it
    return blocks


def code_spans(page: Path) -> list[str]:
    """Return the inline code spans of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [found["text"] for found in _CODE_SPAN.finditer(text)]


def read_commands(text: str) -> list[list[str]]:
    """Return the commands of a shell block as lists of words.

    Comments are removed, continued lines joined and variables that the block sets expanded. Environment variables before a
    command are dropped.
    """
    variables: dict[str, str] = {}
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        for name, value in variables.items():
            line = re.sub(rf"\$\{{?{name}\b\}}?", value, line)
        words = shlex.split(line, comments=True)
        while words and (assignment := _ASSIGNMENT.fullmatch(words[0])):
            words = words[1:]
            if not words:
                variables[assignment["name"]] = assignment["value"]
        if words:
            commands.append(words)
    return commands
