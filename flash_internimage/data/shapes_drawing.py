"""Generates the images of the "shapes" dataset and their annotations.

An image is a function of its number alone: random numbers come from ``numpy.random.RandomState``, whose stream is frozen, and
shapes are rasterized in this file or by pycocotools, so that a number gives the same image on every machine.
"""

from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask as mask_util

# Ids have gaps and are out of order, as in real annotation files.
CATEGORIES = {7: "triangle", 3: "circle", 42: "star", 16: "square"}

# Mean hue of each class in degrees. Every hue occurs in the background too, so that color helps to classify an object, but
# not to find it.
_HUES = {"circle": 210.0, "square": 120.0, "triangle": 20.0, "star": 300.0}

# Number of vertices, radius of every second vertex relative to the others, angle of the first vertex in radians.
_VERTICES = {
    "circle": (32, 1.0, 0.0),
    "square": (4, 1.0, np.pi / 4),
    "triangle": (3, 1.0, -np.pi / 2),
    "star": (10, 0.45, -np.pi / 2),
}

_MAX_ROTATION = 0.35  # in radians (20 degrees), so that a square stays distinct from a diamond
_MIN_RADIUS, _MAX_RADIUS = 12.0, 34.0  # of an object's circumscribed circle, in pixels
_MIN_VISIBLE = 0.45  # fraction of an object that must not be occluded by the objects in front of it
_SUPERSAMPLING = 3  # samples per pixel along each axis, for antialiased edges


@dataclass
class Annotation:
    """Annotation of one object or crowd region.

    Attributes:
        category_id: key of ``CATEGORIES``.
        segmentation: polygons ``[[x, y, x, y, ...]]`` in pixels, or an RLE dict as in COCO.
        box: bounding box ``[x, y, width, height]`` of the visible pixels.
        area: number of visible pixels.
        is_crowd: whether the region contains many objects that are not annotated individually.
    """

    category_id: int
    segmentation: list | dict
    box: list[float]
    area: float
    is_crowd: bool = False


@dataclass
class AnnotatedImage:
    """A generated image, (H, W, 3) ``uint8`` in RGB, and its annotations."""

    image: np.ndarray
    annotations: list[Annotation] = field(default_factory=list)


@dataclass
class _Shape:
    category_id: int
    outline: np.ndarray  # (V, 2) vertices (x, y) in pixels
    mask: np.ndarray  # (H, W) bool, including occluded pixels
    is_crowd: bool = False


def outline(name: str, radius: float, angle: float) -> np.ndarray:
    """Return the vertices of a shape centered at the origin.

    Args:
        name: a value of ``CATEGORIES``.
        radius: radius of the circumscribed circle, in pixels.
        angle: rotation in radians; at 0 a square is axis-aligned, and a triangle or a star points upwards.

    Returns:
        (V, 2) vertices ``(x, y)`` in pixels.
    """
    vertices, inner_radius, first_angle = _VERTICES[name]
    angles = first_angle + angle + np.arange(vertices) * (2 * np.pi / vertices)
    radii = np.where(np.arange(vertices) % 2 == 0, radius, radius * inner_radius)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def inside_polygon(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return whether points lie inside a polygon, by the even-odd rule.

    Args:
        polygon: (V, 2) vertices ``(x, y)``.
        x: coordinates of the points, of any shape.
        y: coordinates of the points, broadcastable with ``x``.

    Returns:
        ``bool`` array of the broadcast shape of ``x`` and ``y``.
    """
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return inside


def polygon_mask(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rasterize a polygon to a (height, width) ``bool`` mask, as COCO does."""
    rles = mask_util.frPyObjects([polygon.reshape(-1).tolist()], height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def mask_to_box(mask: np.ndarray) -> list[float]:
    """Return the tight bounding box ``[x, y, width, height]``, in pixels, of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    ]


def compressed_rle(mask: np.ndarray) -> dict:
    """Encode a ``bool`` mask as a compressed COCO RLE, with counts as text, which JSON can store."""
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def uncompressed_rle(mask: np.ndarray) -> dict:
    """Encode a ``bool`` mask as an uncompressed COCO RLE: column-major, starting with a run of zeros."""
    flat = np.concatenate([[False], mask.flatten(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": [int(side) for side in mask.shape], "counts": [int(count) for count in counts]}


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert HSV (hue in degrees, saturation and value in 0..1) to RGB in 0..255."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    return 255.0 * value * (1.0 - saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))


def _smooth_noise(random: np.random.RandomState, height: int, width: int, spacing: int) -> np.ndarray:
    """Return (H, W, 3) value noise in -1..1: bilinear interpolation of a random grid with a spacing in pixels."""
    grid = random.uniform(-1.0, 1.0, (height // spacing + 2, width // spacing + 2, 3))
    y, x = np.arange(height) / spacing, np.arange(width) / spacing
    top, left = y.astype(int), x.astype(int)
    down, right = (y - top)[:, None, None], (x - left)[None, :, None]
    rows = grid[top] * (1 - down) + grid[top + 1] * down
    return rows[:, left] * (1 - right) + rows[:, left + 1] * right


def _background(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Return an (H, W, 3) texture: a base color, colored noise at three scales, and faint lines."""
    canvas = np.tile(_rgb(random.uniform(0, 360), 0.25, random.uniform(0.35, 0.75)), (height, width, 1))
    for spacing, strength in ((48, 30.0), (16, 18.0), (5, 10.0)):
        canvas += strength * _smooth_noise(random, height, width, spacing)
    y, x = np.mgrid[:height, :width]
    for _ in range(random.randint(0, 5)):
        angle, offset = random.uniform(0, np.pi), random.uniform(0, max(height, width))
        distance = np.abs(x * np.cos(angle) + y * np.sin(angle) - offset)
        canvas[distance < random.uniform(0.5, 1.5)] += random.uniform(-30, 30)
    return canvas


def _paint(canvas: np.ndarray, polygon: np.ndarray, color: np.ndarray, shade: float) -> None:
    """Fill a polygon, antialiased, with a color that varies by plus or minus ``shade`` from left to right."""
    height, width = canvas.shape[:2]
    left, top = np.maximum(np.floor(polygon.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(polygon.max(axis=0)).astype(int), [width, height])
    step = (np.arange(_SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    x = (np.arange(left, right)[:, None] + step).reshape(1, -1)
    y = (np.arange(top, bottom)[:, None] + step).reshape(-1, 1)
    samples = inside_polygon(polygon, x, y)
    coverage = samples.reshape(bottom - top, _SUPERSAMPLING, right - left, _SUPERSAMPLING).mean(axis=(1, 3))[..., None]
    ramp = np.linspace(-shade, shade, right - left)[None, :, None]
    window = canvas[top:bottom, left:right]
    window += coverage * (color + ramp - window)


def _place(random: np.random.RandomState, height: int, width: int) -> _Shape:
    """Draw an object of random class, size, rotation and position; at most a tenth of its radius lies outside the image."""
    category_id = sorted(CATEGORIES)[random.randint(len(CATEGORIES))]
    radius = np.exp(random.uniform(np.log(_MIN_RADIUS), np.log(_MAX_RADIUS)))
    center = random.uniform([radius * 0.9] * 2, [width - radius * 0.9, height - radius * 0.9])
    vertices = outline(CATEGORIES[category_id], radius, random.uniform(-_MAX_ROTATION, _MAX_ROTATION)) + center
    vertices = vertices.clip(0, [width, height]).round(2)
    return _Shape(category_id, vertices, polygon_mask(vertices, height, width))


def _crowd(random: np.random.RandomState, height: int, width: int) -> list[_Shape]:
    """Draw a cluster of small shapes of one class, which is annotated as one crowd region."""
    category_id = sorted(CATEGORIES)[random.randint(len(CATEGORIES))]
    center = random.uniform([24, 24], [width - 24, height - 24])
    members = []
    for _ in range(random.randint(8, 14)):
        angle = random.uniform(-_MAX_ROTATION, _MAX_ROTATION)
        vertices = outline(CATEGORIES[category_id], random.uniform(3.5, 5.5), angle)
        vertices = (vertices + center + random.uniform(-18, 18, 2)).clip(0, [width, height]).round(2)
        members.append(_Shape(category_id, vertices, polygon_mask(vertices, height, width), is_crowd=True))
    return members


def _visible(shapes: list[_Shape]) -> list[np.ndarray]:
    """Return the visible part of each shape's mask; later shapes occlude earlier ones."""
    occluded = np.zeros_like(shapes[0].mask)
    visible = []
    for shape in reversed(shapes):
        visible.append(shape.mask & ~occluded)
        occluded |= shape.mask
    return visible[::-1]


def _arrange(random: np.random.RandomState, height: int, width: int, number: int, crowded: bool) -> list[_Shape]:
    """Draw up to ``number`` shapes, ordered from back to front, rejecting those that would occlude another too much."""
    shapes = _crowd(random, height, width) if crowded else []
    objects = 0
    for _ in range(20 * number):
        if objects == number:
            break
        candidate = shapes + [_place(random, height, width)]
        pairs = zip(candidate, _visible(candidate), strict=True)
        if all(shape.is_crowd or visible.sum() >= _MIN_VISIBLE * shape.mask.sum() for shape, visible in pairs):
            shapes, objects = candidate, objects + 1
    return shapes


def _annotate(shapes: list[_Shape]) -> list[Annotation]:
    """Annotate visible objects with polygons, occluded ones with compressed RLE, crowds with uncompressed RLE, as in COCO."""
    if not shapes:
        return []
    annotations = []
    crowd = np.zeros_like(shapes[0].mask)
    for shape, visible in zip(shapes, _visible(shapes), strict=True):
        if shape.is_crowd:
            crowd |= visible
            continue
        occluded = bool((shape.mask & ~visible).any())
        segmentation = compressed_rle(visible) if occluded else [shape.outline.reshape(-1).tolist()]
        box, area = mask_to_box(visible), float(visible.sum())
        annotations.append(Annotation(shape.category_id, segmentation, box, area))
    if crowd.any():
        box, area = mask_to_box(crowd), float(crowd.sum())
        annotations.append(Annotation(shapes[0].category_id, uncompressed_rle(crowd), box, area, is_crowd=True))
    return annotations


def draw_image(number: int) -> AnnotatedImage:
    """Generate an image with sides of 96 to 160 pixels and, usually, one to five objects, sometimes a crowd or no object.

    Args:
        number: seed of the image; equal numbers give equal images.
    """
    random = np.random.RandomState(number)
    height, width = random.randint(96, 161, 2)
    canvas = _background(random, height, width)
    kind = random.uniform()
    shapes = [] if kind < 0.06 else _arrange(random, height, width, random.randint(1, 6), crowded=kind > 0.9)
    return _painted(random, canvas, shapes)


def draw_scene(number: int, height: int, width: int, objects: int) -> AnnotatedImage:
    """Generate a larger image with up to ``objects`` objects of the same sizes as in :func:`draw_image`.

    Args:
        number: seed of the image; equal arguments give equal images.
        height, width: size in pixels.
    """
    random = np.random.RandomState(number)
    canvas = _background(random, height, width)
    return _painted(random, canvas, _arrange(random, height, width, objects, crowded=False))


def _painted(random: np.random.RandomState, canvas: np.ndarray, shapes: list[_Shape]) -> AnnotatedImage:
    """Paint shapes, from back to front, and sensor noise onto a background, and annotate the shapes."""
    for shape in shapes:
        hue = (_HUES[CATEGORIES[shape.category_id]] + random.uniform(-28, 28)) % 360
        color = _rgb(hue, random.uniform(0.6, 0.95), random.uniform(0.65, 1.0))
        _paint(canvas, shape.outline, color, random.uniform(0, 22))
    canvas += random.normal(0.0, random.uniform(2.0, 7.0), canvas.shape)
    return AnnotatedImage(np.rint(canvas.clip(0, 255)).astype(np.uint8), _annotate(shapes))
