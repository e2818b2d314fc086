"""AP on tiles and with test-time augmentation, on images made for them.

    python benchmarks/views_accuracy.py --config-file CONFIG --weights CHECKPOINT --output FOLDER

CONFIG and CHECKPOINT are those of a small model that was trained on the shapes dataset. It is evaluated on

- scenes: images of 512 x 768 pixels with up to 40 objects of the sizes of the shapes dataset. Resized for the model, to 128 x
  192 pixels, the objects are a quarter as large as those that it was trained on. Tiles have 160 pixels, like the largest of its
  training images;
- the validation split of the shapes dataset, on which there is nothing to gain from tiles.

The scenes are generated in FOLDER on first use.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from accuracy import flash_internimage, metrics

from flash_internimage.data.shapes import annotation_file, write_split
from flash_internimage.data.shapes_drawing import draw_scene

SCENES = 20
TILE = "160"
RUNS = {
    "scenes": {
        "whole images": [],
        "`--tile 160`": ["--tile", TILE],
        "`--tta`": ["--tta"],
    },
    "shapes": {"whole images": [], "`--tta`": ["--tta"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    scenes = args.output / "scenes"
    if not scenes.exists():
        write_split(scenes, "val", SCENES, partial(draw_scene, height=512, width=768, objects=40))
    data = {
        "scenes": [f"data.test.json={annotation_file(scenes, 'val')}", f"data.test.images={scenes / 'val'}"],
        "shapes": [],
    }
    rows = ["| Data | Views | Box AP | Box APs | Mask AP | Seconds |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name, runs in RUNS.items():
        for views, flags in runs.items():
            rows.append(row(args, name, views, [*flags, *data[name]]))
    print("\n".join(rows))


def row(args: argparse.Namespace, data: str, views: str, arguments: list[str]) -> str:
    """Evaluate once; return a row of the table."""
    folder = args.output / Path(args.weights).parent.name / f"{data}_{views.strip('`').replace(' ', '_')}"
    start = time.perf_counter()
    flash_internimage(
        *["eval", "--config-file", args.config_file, "--weights", args.weights, *arguments],
        *[f"train.output_dir={folder}", "train.device=cpu", "train.report=false"],
    )
    seconds = time.perf_counter() - start
    box, masks = metrics(folder, "bbox"), metrics(folder, "segm")
    mask = f"{masks['AP']:.1f}" if masks else ""
    return f"| {data} | {views} | {box['AP']:.1f} | {box['APs']:.1f} | {mask} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
