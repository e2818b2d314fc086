"""Detectors as detectron2-style projects, each a README beside its package: ``projects/<name>/<package>``.

In an installed package they lie here. In a checkout each folder of ``projects/`` is searched as if it did.
"""

from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent.parent

if (_ROOT / "setup.py").is_file():  # site-packages may hold somebody else's "projects"
    __path__ += [str(project) for project in sorted((_ROOT / "projects").iterdir()) if project.is_dir()]
