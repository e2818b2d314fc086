"""The tables of published detectors in the README and docs are complete and match the configs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from flash_internimage import model_zoo

ROW = re.compile(
    r"^\| (?:`|\[)(?P<name>\w+)[^|]* \| (?P<box_ap>[\d.]+) \| (?P<mask_ap>[\d.–]+) \| (?P<parameters>[\d.]+) "
    r"\| (?P<gflops>\d+) \| \[\.pth\]\((?P<link>\S+)\) \|$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Row:
    """One row of the table, as text."""

    name: str
    box_ap: str
    mask_ap: str
    parameters: str
    gflops: str
    link: str


@pytest.fixture(params=["README.md", "docs/model_zoo.md"])
def rows(request: pytest.FixtureRequest, repository: Path) -> list[Row]:
    text = (repository / request.param).read_text(encoding="utf-8")
    return [Row(**match.groupdict()) for match in ROW.finditer(text)]


def test_every_published_detector_is_listed_once(rows):
    assert sorted(row.name for row in rows) == model_zoo.list()


def test_parameters_are_those_of_the_models(rows, repository):
    manifests = repository / "tests/reference/manifests"  # tests/configs compares the configs' models with these
    index = json.loads((manifests / "index.json").read_text())
    for row in rows:
        parameters = json.loads((manifests / index[row.name]).read_text())["parameters"]
        assert row.parameters == f"{parameters / 1e6:.1f}", row.name


def test_average_precisions_are_those_in_the_configs(rows, repository):
    for row in rows:
        docstring = (repository / f"configs/coco/{row.name}.py").read_text().splitlines()[0]
        masks = "" if row.mask_ap == "–" else f", mask AP {row.mask_ap}"
        assert docstring.endswith(f'Published: box AP {row.box_ap}{masks}."""'), row.name


def test_checkpoints_are_those_that_the_model_zoo_fetches(rows):
    for row in rows:
        file = model_zoo.get_checkpoint(row.name).removeprefix("hf://OpenGVLab/DCNv4/")
        assert row.link == f"https://huggingface.co/OpenGVLab/DCNv4/blob/main/{file}"


def test_schedules_of_one_model_have_its_cost(rows):
    gflops = {row.name: row.gflops for row in rows}
    pairs = [(name, name.replace("_3x_", "_1x_")) for name in gflops if "_3x_" in name]
    assert len(pairs) == 4
    assert all(gflops[name] == gflops[other] for name, other in pairs)


def test_both_tables_agree(repository):
    readme, docs = (ROW.findall((repository / file).read_text(encoding="utf-8")) for file in ("README.md", "docs/model_zoo.md"))
    assert readme == docs
