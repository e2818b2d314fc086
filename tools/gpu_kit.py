#!/usr/bin/env python3
"""Prepare build/gpu-kit: packages for tools/gpu_check.py on a machine that has only a GPU, Python, PyTorch and torchvision.

    python3.12 tools/gpu_kit.py --torch 2.11 --architectures 9.0

The folder gets the extension with CUDA kernels, the peer DCNv4 1.0.0.post2 (without its attention) as a wheel, and wheels of
pytest, hypothesis, detectron2 and what they need, all for the Python that runs this file and for that PyTorch (Linux, x86-64).
Neither a GPU nor an installed PyTorch is needed; a CUDA toolkit, or NVIDIA's compiler package in the environment
.cache/torch-VERSION-pythonVERSION, is. Run it again after a change: it compiles only what has changed.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from torch_environment import ROOT, build_extension, copy_sources, folder, native_digest, python_with_torch, run

KIT = ROOT / "build" / "gpu-kit"
LARGEST = 60 * 2**20
PEER = "DCNv4==1.0.0.post2"

# The peer's attention is a separate file of 960 kernels (dtypes, channels per thread, numbers of points and levels), all
# unrolled, which take nvcc more than half an hour. No benchmark calls them, so the dispatch that instantiates them is replaced;
# the kernels of DCNv4 are compiled as published.
PEER_ATTENTION = "src/cuda/flash_deform_attn_cuda.cu"
PEER_ATTENTION_START = "at::Tensor flash_deform_attn_cuda_forward("
NO_PEER_ATTENTION = """\
#undef AT_DISPATCH_FLOATING_TYPES_AND2
#define AT_DISPATCH_FLOATING_TYPES_AND2(...) TORCH_CHECK(false, "this DCNv4 was built without its attention")

"""

# What detectron2, the detectors and the tests import. torch and torchvision bring the packages in BROUGHT_BY_TORCH; hf-xet only
# speeds up downloads.
REQUIREMENTS = [
    *("hypothesis", "pytest"),
    *("cloudpickle", "fvcore", "hotcoco", "huggingface_hub", "hydra-core", "iopath", "omegaconf", "portalocker"),
    *("pycocotools", "PyYAML", "safetensors", "scipy", "tabulate", "termcolor", "tqdm", "yacs"),
]
BROUGHT_BY_TORCH = ["numpy", "pillow", "filelock", "fsspec", "typing_extensions", "hf_xet"]

# The peer's setup.py refuses to build unless a GPU answers.
PRETEND_GPU = """\
try:
    import torch
    torch.cuda.is_available = lambda: True
except ImportError:
    pass
"""

TOOLKIT = """\
import json, platform, sys
from pathlib import Path
sys.path.insert(0, "tools")
import torch, cuda_toolkit
link = Path(sys.argv[1])
home, obstacle = cuda_toolkit.find(link)
print(json.dumps({
    "home": home, "obstacle": obstacle, "includes": cuda_toolkit.wheel_files("include"), "link": str(link),
    "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
}))
"""


def describe(python: Path, scratch: Path) -> dict:
    """The CUDA toolkit that the environment's PyTorch can use, and the versions of the environment."""
    printed = subprocess.run(
        [str(python), "-c", TOOLKIT, str(scratch / "cuda-runtime")], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    found = json.loads(printed)
    if found["obstacle"] is not None:
        sys.exit(f"gpu_kit: no CUDA compiler for this PyTorch: {found['obstacle']}")
    return found


def without_attention(source: str) -> str:
    """The peer's PEER_ATTENTION with functions that raise an error in place of kernels.

    Raises:
        ValueError: these are not the sources of PEER.
    """
    if source.count(PEER_ATTENTION_START) != 1:
        raise ValueError(f"gpu_kit: {PEER_ATTENTION} of {PEER} should have {PEER_ATTENTION_START!r} once")
    return source.replace(PEER_ATTENTION_START, NO_PEER_ATTENTION + PEER_ATTENTION_START)


def build_peer(python: Path, scratch: Path, toolkit: dict, architectures: str) -> Path:
    """The peer's wheel, built once per list of architectures."""
    wheels = scratch / f"peer-{architectures.replace(';', '_')}"
    if list(wheels.glob("*.whl")):
        (wheel,) = wheels.glob("*.whl")
        return wheel
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        pretend, download = Path(temporary, "pretend-gpu"), Path(temporary, "download")
        pretend.mkdir()
        (pretend / "sitecustomize.py").write_text(PRETEND_GPU, encoding="utf-8")
        variables = {
            "PYTHONPATH": str(pretend), "CUDA_HOME": toolkit["home"], "CPATH": ":".join(toolkit["includes"]),
            "LIBRARY_PATH": toolkit["link"], "TORCH_CUDA_ARCH_LIST": architectures,
        }  # fmt: skip
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        from_source = ["--quiet", "--no-deps", "--no-build-isolation"]
        run(*pip, "download", *from_source, "--no-binary", ":all:", "--dest", download, PEER, **variables)
        (archive,) = download.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(download, filter="data")
        tree = download / archive.name.removesuffix(".tar.gz")
        attention = tree / PEER_ATTENTION
        attention.write_text(without_attention(attention.read_text(encoding="utf-8")), encoding="utf-8")
        run(*pip, "wheel", *from_source, "--wheel-dir", wheels, tree, **variables)
    (wheel,) = wheels.glob("*.whl")
    return wheel


def collect_wheels(python: Path, scratch: Path) -> list[Path]:
    """Wheels of detectron2, REQUIREMENTS and what they need, without those that come with PyTorch; downloaded once."""
    wheels = scratch / "wheels"
    complete, wanted = wheels / "requirements.txt", "\n".join(REQUIREMENTS)
    if not complete.exists() or complete.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(wheels, ignore_errors=True)
        run(python, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--wheel-dir", wheels, *REQUIREMENTS)
        run(python, "tools/install_detectron2.py", "--wheel-dir", wheels)
        complete.write_text(wanted, encoding="utf-8")
    return [path for path in sorted(wheels.glob("*.whl")) if path.name.partition("-")[0].lower() not in BROUGHT_BY_TORCH]


def architecture_list(text: str) -> str:
    """Check --architectures: tools/gpu_check.py compares them with a GPU, which it cannot do with names such as Hopper."""
    if not all(re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", each) for each in text.split(";")):
        raise argparse.ArgumentTypeError(f"expected compute capabilities such as 8.0;9.0+PTX, got {text}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="2.11", help="version, such as 2.11 for the newest 2.11.x (default)")
    parser.add_argument(
        "--architectures",
        type=architecture_list,
        default="9.0",
        help="as TORCH_CUDA_ARCH_LIST, such as 8.0;9.0+PTX; the default is 9.0 (H100, H200)",
    )
    parser.add_argument("--no-peer", action="store_true", help="leave out the peer, whose kernels take minutes to compile")
    options = parser.parse_args()

    python, scratch = python_with_torch(options.torch), folder(options.torch)
    toolkit = describe(python, scratch)
    sources = scratch / "sources-cuda"
    copy_sources(sources)
    extension = build_extension(python, sources, FORCE_CUDA="1", TORCH_CUDA_ARCH_LIST=options.architectures)
    wheels = collect_wheels(python, scratch)
    if not options.no_peer:
        wheels.append(build_peer(python, scratch, toolkit, options.architectures))

    shutil.rmtree(KIT, ignore_errors=True)
    (KIT / "wheels").mkdir(parents=True)
    shutil.copy2(extension, KIT)
    for wheel in wheels:
        shutil.copy2(wheel, KIT / "wheels")
    about = {name: toolkit[name] for name in ("python", "torch", "cuda")}
    about |= {"architectures": options.architectures, "sources": native_digest(sources)}
    (KIT / "kit.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in KIT.rglob("*") if path.is_file())
    print(f"{KIT.relative_to(ROOT)}: {size / 2**20:.1f} MiB, {about}")
    if size > LARGEST:
        sys.exit(f"gpu_kit: the folder should have at most {LARGEST / 2**20:.0f} MiB, has {size / 2**20:.1f}")


if __name__ == "__main__":
    main()
