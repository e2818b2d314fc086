"""Patches of detectron2 0.6 for current versions of its dependencies.

Each patch replaces a piece of text in one file and gives the reason. ``tools/install_detectron2.py`` applies them, and fails
if the text does not occur exactly as often as expected, so that a change of the sources is noticed.
"""

from dataclasses import dataclass

_NUMPY = "NumPy 1.24 removed the aliases of Python's built-in types"
_EXTENSION = "the sdist has no csrc, so detectron2._C cannot be built; only rotated boxes and deformable convolutions use it"
_PINS = "a requirement of 2021 that can no longer be installed, or that only caffe2 needed"


@dataclass(frozen=True)
class Patch:
    """Replacement of a text in one file.

    Attributes:
        file: path inside the source tree, with forward slashes.
        old: text to replace; empty for a new file, which must not exist yet.
        new: replacement text.
        reason: reason for the patch, in one line.
        count: number of occurrences of ``old``.
    """

    file: str
    old: str
    new: str
    reason: str
    count: int = 1


_COMPILED_OPERATORS = '''\
"""``detectron2._C`` if it was compiled; otherwise a placeholder that raises an ImportError on use."""

try:
    from detectron2 import _C
except ImportError:

    class _MissingExtension:
        def __getattr__(self, name):
            raise ImportError(
                f"detectron2._C.{name} is not available: this detectron2 was installed without its compiled "
                "operators (rotated boxes, DeformConv). Build detectron2 from its repository to use them."
            )

    _C = _MissingExtension()
'''

_OPTIONAL_FAST_EVALUATION = """\
try:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
except ImportError:
    COCOeval_opt = COCOeval
"""

_OPTIONAL_CAFFE2 = """\
try:
    from caffe2.proto import caffe2_pb2 as _caffe2_pb2
except ImportError:
    pass
else:
    from .api import *
"""

PATCHES: tuple[Patch, ...] = (
    # Packaging.
    Patch("setup.py", 'name="pb1-detectron2"', 'name="detectron2"', "other packages require the distribution name detectron2"),
    Patch("setup.py", "ext_modules=get_extensions()", "ext_modules=[]", _EXTENSION),
    Patch(
        "setup.py",
        'exclude=("configs", "tests*")',
        'exclude=("configs", "tests*", "tools*")',
        "a top-level package named tools would shadow those of other projects",
    ),
    Patch(
        "setup.py",
        'glob.glob("configs/**/*.yaml", recursive=True)',
        'glob.glob("configs/**/*.yaml", recursive=True, root_dir="detectron2/model_zoo")',
        "the sdist keeps the configs only inside detectron2/model_zoo",
    ),
    Patch(
        "setup.py",
        'glob.glob(\n        "configs/**/*.py", recursive=True\n    )',
        'glob.glob(\n        "configs/**/*.py", recursive=True, root_dir="detectron2/model_zoo"\n    )',
        "the sdist keeps the configs only inside detectron2/model_zoo",
    ),
    Patch("setup.py", '"iopath>=0.1.7,<0.1.10"', '"iopath>=0.1.7"', _PINS),
    Patch("setup.py", '        "black==21.4b2",\n', "", _PINS),
    Patch("setup.py", '        "future",  # used by caffe2\n', "", _PINS),
    Patch("setup.py", '        "pydot",  # used to save caffe2 SVGs\n', "", _PINS),
    # Optional compiled operators.
    Patch("detectron2/layers/compiled.py", "", _COMPILED_OPERATORS, _EXTENSION),
    Patch("detectron2/layers/rotated_boxes.py", "from detectron2 import _C", "from .compiled import _C", _EXTENSION),
    Patch("detectron2/layers/deform_conv.py", "from detectron2 import _C\n", "from .compiled import _C\n", _EXTENSION),
    Patch("detectron2/layers/roi_align_rotated.py", "from detectron2 import _C", "from .compiled import _C", _EXTENSION),
    Patch(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "",
        "COCOeval_opt needs detectron2._C",
    ),
    Patch(
        "detectron2/evaluation/coco_evaluation.py",
        "from .evaluator import DatasetEvaluator\n",
        "from .evaluator import DatasetEvaluator\n\n" + _OPTIONAL_FAST_EVALUATION,
        "without detectron2._C pycocotools evaluates, with the same results",
    ),
    Patch(
        "detectron2/export/__init__.py",
        "from .api import *\n",
        _OPTIONAL_CAFFE2,
        "PyTorch no longer ships caffe2",
    ),
    # Names that NumPy removed.
    Patch("detectron2/structures/masks.py", "astype(np.bool)", "astype(bool)", _NUMPY, count=2),
    Patch("detectron2/structures/masks.py", "dtype=np.bool)", "dtype=bool)", _NUMPY),
    Patch("detectron2/utils/visualizer.py", "astype(np.bool)", "astype(bool)", _NUMPY, count=3),
    Patch("detectron2/utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)", _NUMPY),
    Patch("detectron2/data/build.py", "dtype=np.int)", "dtype=int)", _NUMPY),
    Patch("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n", _NUMPY),
    Patch("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", _NUMPY),
    Patch("detectron2/evaluation/pascal_voc_evaluation.py", "astype(np.bool)", "astype(bool)", _NUMPY, count=2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", _NUMPY, count=2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", _NUMPY, count=2),
    Patch("detectron2/evaluation/sem_seg_evaluation.py", "astype(np.float)", "astype(float)", _NUMPY, count=3),
    # Names that other libraries removed.
    Patch(
        "detectron2/data/transforms/transform.py",
        "interp=Image.LINEAR",
        "interp=Image.BILINEAR",
        "Pillow 10 removed Image.LINEAR, the old name of Image.BILINEAR",
    ),
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "from importlib.resources import files\n",
        "setuptools 82 removed pkg_resources",
    ),
    Patch(
        "detectron2/model_zoo/model_zoo.py",
        'pkg_resources.resource_filename(\n        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'str(files("detectron2.model_zoo").joinpath("configs", config_path))',
        "setuptools 82 removed pkg_resources",
    ),
)
