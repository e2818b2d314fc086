"""Draws the pictures of the "shapes" dataset, and what is true about them.

A picture is a function of its number alone. Every draw comes from ``numpy.random.RandomState``, whose stream is frozen,
and all rasterisation is arithmetic in this file or in pycocotools, so that the same number gives the same picture
everywhere.
"""

from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask as mask_util

# Ids with gaps and out of order, like those of real annotation files.
CATEGORIES = {7: "triangle", 3: "circle", 42: "star", 16: "square"}

# Hue in degrees about which the color of a class varies. Every hue occurs in the background too, so color helps to
# classify but does not find an object.
_HUES = {"circle": 210.0, "square": 120.0, "triangle": 20.0, "star": 300.0}

# Number of corners, radius of every second corner over that of the others, direction of the first corner in radians.
_CORNERS = {
    "circle": (32, 1.0, 0.0),
    "square": (4, 1.0, np.pi / 4),
    "triangle": (3, 1.0, -np.pi / 2),
    "star": (10, 0.45, -np.pi / 2),
}

_LARGEST_TURN = 0.35  # in radians (20 degrees), so that a square stays distinct from a diamond
_SMALLEST_RADIUS, _LARGEST_RADIUS = 12.0, 34.0  # of the circle around an object, in pixels
_LEAST_VISIBLE = 0.45  # part of an object that the objects in front of it must leave visible
_SUPERSAMPLING = 3  # samples a pixel along each axis, for smooth edges in the picture


@dataclass
class Annotation:
    """One object or crowd region of a picture.

    Attributes:
        category_id: key of ``CATEGORIES``.
        segmentation: polygons ``[[x, y, x, y, ...]]`` in pixels, or an RLE dict as in COCO.
        box: ``[x, y, width, height]`` around the visible pixels.
        area: number of visible pixels.
        is_crowd: the region holds many objects that are not outlined one by one.
    """

    category_id: int
    segmentation: list | dict
    box: list[float]
    area: float
    is_crowd: bool = False


@dataclass
class Picture:
    """A drawn picture: ``image`` is (H, W, 3) of ``uint8`` in RGB."""

    image: np.ndarray
    annotations: list[Annotation] = field(default_factory=list)


@dataclass
class _Shape:
    category_id: int
    outline: np.ndarray  # (V, 2) corners (x, y) in pixels
    mask: np.ndarray  # (H, W) of bool, the whole object
    is_crowd: bool = False


def outline(name: str, radius: float, angle: float) -> np.ndarray:
    """Corners of a shape about the origin.

    Args:
        name: a value of ``CATEGORIES``.
        radius: radius of the circle around the shape, in pixels.
        angle: rotation in radians; without it a square lies flat and a triangle and a star point upwards.

    Returns:
        (V, 2) corners ``(x, y)`` in pixels.
    """
    corners, inner_radius, first_angle = _CORNERS[name]
    angles = first_angle + angle + np.arange(corners) * (2 * np.pi / corners)
    radii = np.where(np.arange(corners) % 2 == 0, radius, radius * inner_radius)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def inside_polygon(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie inside a polygon, by the even-odd rule.

    Args:
        polygon: (V, 2) corners ``(x, y)``.
        x: coordinates of the points, of any shape.
        y: coordinates of the points, broadcastable with ``x``.

    Returns:
        ``bool`` of the broadcast shape of ``x`` and ``y``.
    """
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * ((x1 - x0) / (y1 - y0)))
    return inside


def polygon_mask(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) ``bool`` mask of a polygon as COCO rasterises it."""
    rles = mask_util.frPyObjects([polygon.reshape(-1).tolist()], height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def mask_to_box(mask: np.ndarray) -> list[float]:
    """Tight box ``[x, y, width, height]`` in pixels around the true pixels of a mask that has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    ]


def compressed_rle(mask: np.ndarray) -> dict:
    """COCO's compressed run lengths of a ``bool`` mask, with text counts that fit into JSON."""
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def uncompressed_rle(mask: np.ndarray) -> dict:
    """COCO's plain run lengths of a ``bool`` mask: column by column, starting with a run of zeros."""
    flat = np.concatenate([[False], mask.flatten(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": [int(side) for side in mask.shape], "counts": [int(count) for count in counts]}


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Color in RGB, 0..255, of a hue in degrees and a saturation and value in 0..1."""
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    return 255.0 * value * (1.0 - saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))


def _smooth_noise(random: np.random.RandomState, height: int, width: int, cell: int) -> np.ndarray:
    """(H, W, 3) noise in -1..1 that varies over about ``cell`` pixels: linear interpolation of a coarse grid."""
    grid = random.uniform(-1.0, 1.0, (height // cell + 2, width // cell + 2, 3))
    y, x = np.arange(height) / cell, np.arange(width) / cell
    top, left = y.astype(int), x.astype(int)
    down, right = (y - top)[:, None, None], (x - left)[None, :, None]
    rows = grid[top] * (1 - down) + grid[top + 1] * down
    return rows[:, left] * (1 - right) + rows[:, left + 1] * right


def _background(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """(H, W, 3) texture: a base color, clouds of other colors at three scales, and pale lines across."""
    canvas = np.tile(_rgb(random.uniform(0, 360), 0.25, random.uniform(0.35, 0.75)), (height, width, 1))
    for cell, strength in ((48, 30.0), (16, 18.0), (5, 10.0)):
        canvas += strength * _smooth_noise(random, height, width, cell)
    y, x = np.mgrid[:height, :width]
    for _ in range(random.randint(0, 5)):
        angle, offset = random.uniform(0, np.pi), random.uniform(0, max(height, width))
        distance = np.abs(x * np.cos(angle) + y * np.sin(angle) - offset)
        canvas[distance < random.uniform(0.5, 1.5)] += random.uniform(-30, 30)
    return canvas


def _paint(canvas: np.ndarray, polygon: np.ndarray, color: np.ndarray, shade: float) -> None:
    """Fills a polygon with a color that gets brighter by ``shade`` from left to right, with smooth edges."""
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
    """An object of random class, size, rotation and place, of which at most a tenth lies outside the picture."""
    category_id = sorted(CATEGORIES)[random.randint(len(CATEGORIES))]
    radius = np.exp(random.uniform(np.log(_SMALLEST_RADIUS), np.log(_LARGEST_RADIUS)))
    center = random.uniform([radius * 0.9] * 2, [width - radius * 0.9, height - radius * 0.9])
    corners = outline(CATEGORIES[category_id], radius, random.uniform(-_LARGEST_TURN, _LARGEST_TURN)) + center
    corners = corners.clip(0, [width, height]).round(2)
    return _Shape(category_id, corners, polygon_mask(corners, height, width))


def _crowd(random: np.random.RandomState, height: int, width: int) -> list[_Shape]:
    """A cluster of small shapes of one class, which is annotated as one region."""
    category_id = sorted(CATEGORIES)[random.randint(len(CATEGORIES))]
    center = random.uniform([24, 24], [width - 24, height - 24])
    members = []
    for _ in range(random.randint(8, 14)):
        turn = random.uniform(-_LARGEST_TURN, _LARGEST_TURN)
        corners = outline(CATEGORIES[category_id], random.uniform(3.5, 5.5), turn)
        corners = (corners + center + random.uniform(-18, 18, 2)).clip(0, [width, height]).round(2)
        members.append(_Shape(category_id, corners, polygon_mask(corners, height, width), is_crowd=True))
    return members


def _visible(shapes: list[_Shape]) -> list[np.ndarray]:
    """What of each shape the later ones, which lie in front, leave visible."""
    hidden = np.zeros_like(shapes[0].mask)
    visible = []
    for shape in reversed(shapes):
        visible.append(shape.mask & ~hidden)
        hidden |= shape.mask
    return visible[::-1]


def _arrange(random: np.random.RandomState, height: int, width: int, number: int, crowded: bool) -> list[_Shape]:
    """Shapes from back to front, each of which stays visible enough; fewer than ``number`` if there is no room."""
    shapes = _crowd(random, height, width) if crowded else []
    objects = 0
    for _ in range(20 * number):
        if objects == number:
            break
        candidate = shapes + [_place(random, height, width)]
        pairs = zip(candidate, _visible(candidate), strict=True)
        if all(shape.is_crowd or visible.sum() >= _LEAST_VISIBLE * shape.mask.sum() for shape, visible in pairs):
            shapes, objects = candidate, objects + 1
    return shapes


def _annotate(shapes: list[_Shape]) -> list[Annotation]:
    """Polygons for objects in full view, compressed RLE for hidden ones, uncompressed RLE for a crowd (as in COCO)."""
    if not shapes:
        return []
    annotations = []
    crowd = np.zeros_like(shapes[0].mask)
    for shape, visible in zip(shapes, _visible(shapes), strict=True):
        if shape.is_crowd:
            crowd |= visible
            continue
        hidden = bool((shape.mask & ~visible).any())
        segmentation = compressed_rle(visible) if hidden else [shape.outline.reshape(-1).tolist()]
        box, area = mask_to_box(visible), float(visible.sum())
        annotations.append(Annotation(shape.category_id, segmentation, box, area))
    if crowd.any():
        box, area = mask_to_box(crowd), float(crowd.sum())
        annotations.append(Annotation(shapes[0].category_id, uncompressed_rle(crowd), box, area, is_crowd=True))
    return annotations


def draw_picture(number: int) -> Picture:
    """Draws a picture with sides of 96 to 160 pixels: usually one to five objects, sometimes a crowd, sometimes none.

    Args:
        number: says which picture; equal numbers give equal pictures.
    """
    random = np.random.RandomState(number)
    height, width = random.randint(96, 161, 2)
    canvas = _background(random, height, width)
    kind = random.uniform()
    shapes = [] if kind < 0.06 else _arrange(random, height, width, random.randint(1, 6), crowded=kind > 0.9)
    for shape in shapes:
        hue = (_HUES[CATEGORIES[shape.category_id]] + random.uniform(-28, 28)) % 360
        color = _rgb(hue, random.uniform(0.6, 0.95), random.uniform(0.65, 1.0))
        _paint(canvas, shape.outline, color, random.uniform(0, 22))
    canvas += random.normal(0.0, random.uniform(2.0, 7.0), canvas.shape)
    return Picture(np.rint(canvas.clip(0, 255)).astype(np.uint8), _annotate(shapes))
