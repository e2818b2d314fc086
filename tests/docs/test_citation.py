"""CITATION.cff matches the package."""

from omegaconf import OmegaConf

import flash_internimage


def test_citation_is_of_this_version_and_names_the_papers(repository):
    citation = OmegaConf.load(repository / "CITATION.cff")
    assert citation.version == flash_internimage.__version__
    assert citation.license == "Apache-2.0"
    assert "Apache License" in (repository / "LICENSE").read_text()
    papers = [(paper.authors[0]["family-names"], paper.year) for paper in citation.references]
    assert papers == [("Xiong", 2024), ("Wang", 2023)]
