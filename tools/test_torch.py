#!/usr/bin/env python3
"""Compile the CPU kernels for another PyTorch and run the tests of the operators and layers with it.

    python3.10 tools/test_torch.py 2.6                # with the Python that runs this file
    python3.10 tools/test_torch.py 2.6 -k dcnv4       # what follows the version is passed to pytest

The environment and a copy of the sources are kept in .cache/torch-2.6-python3.10, so that the next run compiles only what has
changed. The first takes several gigabytes and minutes. docs/platforms.md lists the versions that were tested.
"""

import argparse

from torch_environment import build_extension, copy_sources, folder, python_with_torch, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="of torch, such as 2.8 for the newest 2.8.x")
    options, pytest_arguments = parser.parse_known_args()

    python, sources = python_with_torch(options.version), folder(options.version) / "sources"
    copy_sources(sources)
    build_extension(python, sources, FORCE_CUDA="0")
    run(python, "-c", "import sys, torch; print(f'torch {torch.__version__}, Python {sys.version.split()[0]}')")
    run(python, "-m", "pytest", "-q", "tests/ops", "tests/layers", *pytest_arguments, cwd=sources)


if __name__ == "__main__":
    main()
