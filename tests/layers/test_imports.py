"""``flash_internimage.ops`` and ``flash_internimage.layers`` need nothing but torch."""

import subprocess
import sys

PROGRAM = """
import sys

import torch  # with what torch imports itself, such as numpy

OURS = tuple(f"flash_internimage.{name}" for name in ("_C", "errors", "layers", "ops", "process_means"))


class OnlyTorch:
    '''Refuses to import what is not of the standard library, torch, or the packages under test.'''

    def find_spec(self, name, path=None, target=None):
        allowed = name == "flash_internimage" or any(name == ours or name.startswith(ours + ".") for ours in OURS)
        if not allowed and name.partition(".")[0] not in {*sys.stdlib_module_names, "torch"}:
            raise ModuleNotFoundError(f"{name}: refused by this test", name=name)


sys.meta_path.insert(0, OnlyTorch())
from flash_internimage import layers, ops

ops.dcnv4(torch.randn(1, 5, 5, 32), torch.randn(1, 5, 5, 56), kernel_size=3, padding=1, groups=2)
layers.DCNv4(channels=32)(torch.randn(1, 25, 32), (5, 5)).sum().backward()
try:
    import detectron2
except ModuleNotFoundError as error:
    print(error)
"""


def test_ops_and_layers_need_nothing_but_torch(repository):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "detectron2: refused by this test\n"
