"""What has to change in detectron2 0.6 for today's Python libraries, as data.

Each patch replaces one piece of text in one file and says why. ``tools/install_detectron2.py`` applies them; it refuses to
go on when a piece is not found exactly as often as expected, so that a change of the source never passes unseen.
"""

from dataclasses import dataclass

_NUMPY = "NumPy 1.24 removed the aliases of Python's own types"
_EXTENSION = "the sdist has no csrc, so detectron2._C cannot be built; only rotated boxes and deformable convolutions use it"
_PINS = "a pin of 2021 that no longer installs, or that only caffe2 needed"


@dataclass(frozen=True)
class Patch:
    """One replacement of text.

    Attributes:
        file: path inside the source tree, with forward slashes.
        old: the text to replace. Empty: the file is new and must not exist yet.
        new: the text that takes its place.
        reason: why, in a line.
        count: how often ``old`` has to occur.
    """

    file: str
    old: str
    new: str
    reason: str
    count: int = 1


_COMPILED_OPERATORS = '''\
"""``detectron2._C`` where it was compiled; otherwise a stand-in that says on use what is missing."""

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

PATCHS: tuple[Patch, ...] = (
    # Packaging.
    Patch("setup.py", 'name="pb1-detectron2"', 'name="detectron2"', "other packages ask pip for the name detectron2"),
    Patch("setup.py", "ext_modules=get_extensions()", "ext_modules=[]", _EXTENSION),
    Patch(
        "setup.py",
        'exclude=("configs", "tests*")',
        'exclude=("configs", "tests*", "tools*")',
        "a top-level package called tools would hide everybody else's",
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
    # Compiled operators, which become optional.
    Patch("detectron2/layers/compiled.py", "", _COMPILED_OPERATORS, _EXTENSION),
    Patch("detectron2/layers/rotated_boxes.py", "from detectron2 import _C", "from .compiled import _C", _EXTENSION),
    Patch("detectron2/layers/deform_conv.py", "from detectron2 import _C\n", "from .compiled import _C\n", _EXTENSION),
    Patch("detectron2/layers/roi_align_rotated.py", "from detectron2 import _C", "from .compiled import _C", _EXTENSION),
    Patch(
        "detectron2/evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "",
        "COCOeval_opt is written in detectron2._C",
    ),
    Patch(
        "detectron2/evaluation/coco_evaluation.py",
        "from .evaluator import DatasetEvaluator\n",
        "from .evaluator import DatasetEvaluator\n\n" + _OPTIONAL_FAST_EVALUATION,
        "without detectron2._C the evaluation is pycocotools', which gives the same figures",
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
        "Pillow 10 removed the older of the two names",
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
