"""The Dockerfile names files and commands that exist; the images themselves are not built by the tests."""

import re
from pathlib import Path

from flash_internimage.cli.main import command_parser

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")


def test_the_files_of_the_build_context_exist():
    listed = re.findall(r"^!(\S+)$", (REPOSITORY / ".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"csrc", "flash_internimage", "setup.py"} <= set(listed)
    assert [name for name in listed if not (REPOSITORY / name).exists()] == []


def test_the_files_that_the_steps_name_are_in_the_build_context():
    context = re.findall(r"^!(\S+)$", (REPOSITORY / ".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE)
    script = (REPOSITORY / "tools/install_in_image.sh").read_text(encoding="utf-8")
    named = re.findall(r"\b((?:requirements|tools)/[\w.]+)", DOCKERFILE + script)
    assert len(set(named)) >= 4
    for name in named:
        assert (REPOSITORY / name).is_file(), name
        assert name.split("/")[0] in context


def test_every_stage_is_built_from_one_before_it():
    stages = []
    for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE):
        assert ":" in base or base in stages
        stages.append(name)
    assert {"cpu", "cuda"} <= set(stages)
    assert stages[-1] == "app", "the default target"
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= set(stages)


def test_the_page_is_the_command_of_the_default_image():
    words = re.findall(r'"([^"]*)"', DOCKERFILE[DOCKERFILE.rindex("CMD") :])
    arguments = command_parser(words[0]).parse_args(words[1:])
    assert (arguments.host, str(arguments.port)) == ("0.0.0.0", re.search(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)[1])
