"""The operator tests run with torch, torchvision, pytest and hypothesis alone, as on a machine without detectron2."""

import subprocess
import sys

PROGRAM = """
import importlib, sys
from pathlib import Path

REFUSED = {
    "cv2", "detectron2", "fvcore", "hotcoco", "huggingface_hub", "hydra", "iopath", "matplotlib", "ninja", "omegaconf",
    "pycocotools", "pytest_cov", "pytest_timeout", "safetensors", "scipy", "tabulate", "tensorboard", "xdist",
}
OURS = {"_C", "errors", "layers", "ops", "process_means"}


class OnlyOperators:
    '''Refuses to import the parts of the package that need more.'''

    def find_spec(self, name, path=None, target=None):
        package, _, rest = name.partition(".")
        if package == "flash_internimage" and rest and rest.partition(".")[0] not in OURS:
            raise ModuleNotFoundError(f"{name}: refused by this test", name=name)


sys.meta_path.insert(0, OnlyOperators())
sys.modules.update(dict.fromkeys(REFUSED))  # None in sys.modules: as if not installed
names = ["tests.conftest", *(f"tests.ops.{path.stem}" for path in sorted(Path("tests/ops").glob("*.py")))]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_the_operator_tests_import_nothing_else(repository):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 1 + len(list((repository / "tests" / "ops").glob("*.py")))
