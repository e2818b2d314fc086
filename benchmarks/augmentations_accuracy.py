"""AP with the augmentations of ``data.augmentation``, of a small Mask R-CNN trained on few images.

    python benchmarks/augmentations_accuracy.py --output FOLDER

Trains the Mask R-CNN of configs/shapes on the first 16 training images of the shapes dataset, once for each augmentation and
seed, for the same number of iterations of two images, and evaluates on the 100 images of its validation split. Every
augmentation is added to the random flip of the config. Figures are the mean over the seeds and, in parentheses, the figures of
each seed.

Datasets and runs are written to FOLDER; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from accuracy import flash_internimage, metrics

from flash_internimage.data.shapes import SIZES, annotation_file, make_shapes

CONFIG = "mask_rcnn_flash_internimage_nano"
AUGMENTATIONS = (
    "flip",
    "flip,photometric",
    "flip,copy_paste",
    "flip,mosaic",
    "flip,mixup",
    "flip,photometric,copy_paste",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--images", type=int, default=16, help="number of training images")
    parser.add_argument("--iterations", type=int, default=300, help="iterations of two images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    data = args.output / f"shapes_{args.images}"
    make_shapes(data, {"train": args.images, "val": SIZES["val"]})
    runs = {
        (augmentation, seed): train(args.output, data, args.iterations, augmentation, seed)
        for seed in args.seeds  # all augmentations of a seed first, so that a part of the runs can be compared
        for augmentation in AUGMENTATIONS
    }
    print("| `data.augmentation` | Box AP | Box AP50 | Mask AP |", "| --- | ---: | ---: | ---: |", sep="\n")
    for augmentation in AUGMENTATIONS:
        folders = [runs[augmentation, seed] for seed in args.seeds]
        cells = [figures(folders, *column) for column in (("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"))]
        print(f"| `{override(augmentation)}` | {' | '.join(cells)} |")


def override(augmentation: str) -> str:
    """Return the value of ``data.augmentation``: a name, or a list of them."""
    return f"[{augmentation}]" if "," in augmentation else augmentation


def train(output: Path, data: Path, iterations: int, augmentation: str, seed: int) -> Path:
    """Train and evaluate once, unless it has been done; return the folder of the run."""
    folder = output / f"{data.name}_{iterations}_{augmentation.replace(',', '_')}_{seed}"
    if not (folder / "model_final.pth").exists():
        flash_internimage(
            *["train", "--overwrite", "--config-file", CONFIG],
            *[f"data.{split}.json={annotation_file(data, name)}" for split, name in (("train", "train"), ("test", "val"))],
            *[f"data.{split}.images={data / name}" for split, name in (("train", "train"), ("test", "val"))],
            *[f"data.augmentation={override(augmentation)}", f"train.seed={seed}", f"train.max_iter={iterations}"],
            *["dataloader.train.total_batch_size=2", "train.reference_batch_size=2"],
            *["train.eval_period=0", f"train.checkpointer.period={iterations}", "train.validation_pictures=0"],
            *["train.device=cpu", f"train.output_dir={folder}"],
        )
    return folder


def figures(folders: list[Path], task: str, metric: str) -> str:
    """Return the mean of a metric over runs and its value in each of them."""
    values = [metrics(folder, task)[metric] for folder in folders]
    return f"{statistics.fmean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


if __name__ == "__main__":
    main()
