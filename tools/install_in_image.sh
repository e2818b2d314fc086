#!/bin/sh
# Build and install the package, detectron2 and the packages of [export] beside the installed PyTorch, for the Dockerfile.
# With FORCE_CUDA=1 the CUDA compiler comes from NVIDIA's Python packages.
set -eu
cd "$(dirname "$0")/.."
export PIP_CONSTRAINT="$PWD/requirements/constraints.txt"
pip install ninja pybind11 setuptools wheel opencv-python-headless
if [ "${FORCE_CUDA:-0}" = 1 ]; then
    pip install "$(python -c 'import sys; sys.path.insert(0, "tools"); import cuda_toolkit; print(cuda_toolkit.requirement())')"
fi
python tools/install_detectron2.py
pip install --no-build-isolation ".[export]"
flash-internimage env
