"""Check a dataset and print what it contains, before hours are spent on training.

Examples:

  check the annotations and open every image:
    flash-internimage check-data --json train.json --images train

  also draw images with their objects, in check/grid.png:
    flash-internimage check-data --json train.json --images train --output check --limit 50

  the validation split of a YOLO dataset, of a Pascal VOC dataset or of a folder that an annotation tool has exported:
    flash-internimage check-data --yolo data.yaml --split val
    flash-internimage check-data --voc VOC2007 --split val
    flash-internimage check-data --root export --split val

Training checks the annotations in the same way. This command also opens every image: a corrupt file, or one whose size is not
the annotated size, would stop the training when it is reached.

The exit code is 1 if there are errors. Warnings say what training leaves out, and what looks like a mistake.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from flash_internimage.analysis.dataset import draw_examples, image_dataset_dicts, unreadable_images
from flash_internimage.data.check import OBJECT_SIZES, DatasetReport, check_contents, check_dataset, read_json
from flash_internimage.data.formats import Contents
from flash_internimage.data.given import choose_split, source_of
from flash_internimage.errors import UserError
from flash_internimage.evaluation.drawing import write_png
from flash_internimage.plurals import counted

from .arguments import add_output, add_own_data, positive
from .errors import UsageError

_MOST_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_own_data(parser)
    parser.add_argument("--yolo", metavar="FILE", help="data.yaml of a YOLO dataset")
    parser.add_argument("--voc", metavar="FOLDER", help="folder of a Pascal VOC dataset")
    parser.add_argument("--root", metavar="FOLDER", help="folder in COCO, YOLO or Pascal VOC format, which is recognized")
    parser.add_argument("--split", metavar="NAME", help="split of a dataset that has several: train, val or test (train)")
    add_output(parser, "grid.png, images with their objects (default: none is drawn)")
    parser.add_argument("--limit", type=positive, default=25, metavar="N", help="number of images in grid.png (25)")


def run(args: argparse.Namespace) -> int:
    report, content = read_dataset(args)
    dataset_dicts = image_dataset_dicts(content, report) if report.categories else []
    unreadable = unreadable_images(dataset_dicts) if dataset_dicts else {}
    if report.categories:
        print(f"{summary(report)}\n")
    errors = [*report.errors, *filter(None, [report.untrainable]), *unreadable.values()]
    for kind, sentences in (("warning", report.warnings), ("error", errors)):
        if sentences:
            print(listed(kind, sentences))
    readable = [dataset_dict for dataset_dict in dataset_dicts if dataset_dict["file_name"] not in unreadable]
    if args.output is not None and readable:
        args.output.mkdir(parents=True, exist_ok=True)
        file = args.output / "grid.png"
        write_png(draw_examples(readable, report.categories, args.limit), file)
        print(f"{counted(readable[: args.limit], 'image')} with objects: {file}")
    print(f"{counted(errors, 'error')}, {counted(report.warnings, 'warning')}")
    return 1 if errors else 0


def read_dataset(args: argparse.Namespace) -> tuple[DatasetReport, dict]:
    """Read and check the dataset that the arguments name; return the report, and the contents of its annotation file."""
    if all(value is None for value in (args.json, args.images, args.yolo, args.voc, args.root)):
        raise UsageError("expected --json and --images, --yolo, --voc or --root")
    source = source_of("--", args.json, args.images, args.yolo, args.voc, args.root)
    assert source is not None
    split = choose_split(source, "train", args.split, "--split")
    if split is None:
        raise UserError(f"--split: expected a split of {source.description} ({', '.join(source.splits)}), got none")
    files = source.files(split)
    if files is not None:
        report = check_dataset(*files)
        return report, read_json(report.annotation_file) if report.categories else {}
    contents: Contents = source.read(split)
    return check_contents(contents.content, contents.image_root, source.description), contents.content


def summary(report: DatasetReport) -> str:
    """Describe what a dataset contains: counts, sizes and a table of its classes."""
    total = sum(report.objects.values())
    width = max([len(name) for name in report.categories.values()], default=0)
    lines = [
        f"images       {report.num_images}, of them without objects {report.num_without_objects}",
        f"sizes        {sizes_line(report)} pixels",
        f"annotations  {report.num_annotations}, of them to train on {total}",
        "objects      " + ", ".join(f"{report.objects_by_size[size]} {size}" for size in OBJECT_SIZES),
        "",
        f"{'class':>5}  {'id':>6}  {'name':<{width}}  {'objects':>8}  {'share':>6}  {'images':>7}",
    ]
    for number, (id_, name) in enumerate(report.categories.items()):
        objects, images = report.objects.get(id_, 0), report.images_with.get(id_, 0)
        share = objects / total if total else 0.0
        lines.append(f"{number:>5}  {id_:>6}  {name:<{width}}  {objects:>8}  {share:>6.1%}  {images:>7}")
    return "\n".join(lines)


def sizes_line(report: DatasetReport) -> str:
    """Describe the sizes of the images."""
    sizes = sorted(report.image_sizes.elements(), key=lambda size: size[0] * size[1])
    if not sizes:
        return "none"
    smallest, median, largest = (f"{width} x {height}" for height, width in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    return smallest if smallest == largest else f"{smallest} to {largest}, median {median}"


def listed(kind: str, sentences: Iterable[str]) -> str:
    """Return one line per sentence, up to the first ten, and the number of the rest."""
    sentences = list(sentences)
    lines = [f"{kind}: {sentence}" for sentence in sentences[:_MOST_SHOWN]]
    if len(sentences) > _MOST_SHOWN:
        lines.append(f"{kind}: and {len(sentences) - _MOST_SHOWN} more")
    return "\n".join(lines)
