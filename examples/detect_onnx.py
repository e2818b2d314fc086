"""Detect objects in an image with an exported ONNX file. Needs numpy, onnxruntime and Pillow; neither torch nor this project.

    python detect_onnx.py model.onnx street.jpg found.png

Copy flash_internimage/export/postprocessing.py beside this file.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

try:
    from postprocessing import paste_masks, rescale_boxes
except ModuleNotFoundError:  # in a checkout of the project
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "flash_internimage" / "export"))
    from postprocessing import paste_masks, rescale_boxes


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize an (H, W, 3) ``uint8`` image bilinearly, without antialiasing, as in training."""
    result = image.astype(np.float32)
    for axis, length in ((0, height), (1, width)):
        old = result.shape[axis]
        position = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        first = np.minimum(position.astype(int), max(old - 2, 0))
        weight = (position - first).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        following = np.minimum(first + 1, old - 1)
        result = result.take(first, axis) * (1 - weight) + result.take(following, axis) * weight
    return np.rint(result).astype(np.uint8)


def detect(session: onnxruntime.InferenceSession, image: np.ndarray, threshold: float = 0.5) -> list[dict]:
    """Detect objects in an (H, W, 3) ``uint8`` image in RGB.

    Returns:
        For each object its ``name``, ``score``, ``box`` (XYXY in pixels of the image) and, if the file predicts masks, ``mask``
        (H, W), by descending score.
    """
    about = json.loads(session.get_modelmeta().custom_metadata_map["flash_internimage"])
    height, width = image.shape[:2]
    if about["height"]:  # one fixed size
        scale = min(about["height"] / height, about["width"] / width)
    else:
        scale = min(about["long_side"] / max(height, width), about["short_side"] / min(height, width))
    size = max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)
    divisor = about["size_divisibility"]
    padded = [-(-max(side, about["smallest_side"]) // divisor) * divisor for side in size]
    if about["height"]:
        padded = [about["height"], about["width"]]
    pixels = np.zeros((about["batch"], 3, *padded), np.uint8)
    channels = slice(None) if about["channel_order"] == "RGB" else slice(None, None, -1)
    pixels[0, :, : size[0], : size[1]] = resize(image, *size)[..., channels].transpose(2, 0, 1)
    inputs = {"images": pixels, "sizes": np.array([size] * len(pixels), np.int64)}
    boxes, scores, classes, counts, *masks = (output[0] for output in session.run(None, inputs))

    kept = np.flatnonzero(scores[: int(counts)] >= threshold)
    boxes = rescale_boxes(boxes[kept], size, (height, width))
    objects = [
        {"name": about["class_names"][label], "score": float(score), "box": box.tolist()}
        for label, score, box in zip(classes[kept], scores[kept], boxes, strict=True)
    ]
    if masks:
        for found, mask in zip(objects, paste_masks(masks[0][kept], boxes, (height, width)), strict=True):
            found["mask"] = mask
    return objects


def main(model: str, source: str, target: str) -> None:
    image = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    pixels = np.asarray(image).copy()
    objects = detect(session, pixels)
    for found in objects:
        if "mask" in found:
            pixels[found["mask"]] = pixels[found["mask"]] // 2 + np.array([0, 90, 0], np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for found in objects:
        draw.rectangle(found["box"], outline=(255, 255, 0))
        draw.text(found["box"][:2], f"{found['name']} {found['score']:.2f}", fill=(255, 255, 0))
        print(f"{found['name']} {found['score']:.3f} {[round(side, 1) for side in found['box']]}")
    image.save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
