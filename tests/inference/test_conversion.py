"""Detections in the formats of other tools: numbers by hand, the project's own readers, and supervision if it is installed."""

import json
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pycocotools.mask as mask_util
import pytest
import yaml
from PIL import Image

from flash_internimage.inference.conversion import read_detections, to_cvat, to_label_studio, to_voc, to_yolo

NAMES = ["mug", 'US$ "fork" <&>']


def encoded(mask):
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture
def detections():
    """Two detections in an image of 200 x 100 pixels, one of them with a mask of two parts, and an image without any."""
    mask = np.zeros((100, 200), np.uint8)
    mask[20:60, 40:120] = 1
    mask[70:72, 40:42] = 1
    return {
        "images": [
            {"id": 1, "file_name": "/data/photos/a.jpg", "height": 100, "width": 200},
            {"id": 2, "file_name": "/data/photos/sub folder/b.png", "height": 50, "width": 50},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [40, 20, 80, 40], "score": 0.75, "segmentation": encoded(mask)},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0.4, 0, 10, 5.2], "score": 0.5},
        ],
        "categories": [{"id": 3, "name": NAMES[0]}, {"id": 7, "name": NAMES[1]}],
    }


@pytest.fixture
def read(tmp_path, detections):
    def call(polygons=False):
        (tmp_path / "detections.json").write_text(json.dumps(detections))
        return read_detections(tmp_path / "detections.json", polygons)

    return call


def test_images_are_relative_to_their_common_folder(read):
    images, names = read()
    assert [image.name for image in images] == ["a.jpg", "sub folder/b.png"]
    assert names == NAMES
    assert [found.category for found in images[0].detections] == [1, 0]
    assert images[0].detections[0].box == (40, 20, 120, 60)


def test_yolo_by_hand(read):
    files = to_yolo(*read())
    assert files["labels/a.txt"] == "1 0.400000 0.400000 0.400000 0.400000\n0 0.027000 0.026000 0.050000 0.052000\n"
    assert files["labels/sub folder/b.txt"] == ""
    assert to_yolo(*read(), scores=True)["labels/a.txt"].splitlines()[0].endswith(" 0.400000 0.750000")


def test_yolo_polygons_by_hand(read):
    """Readers take a line of four numbers in a file with polygons for a polygon of two points."""
    assert to_yolo(*read(polygons=True), polygons=True)["labels/a.txt"].splitlines() == [
        "1 0.200000 0.200000 0.200000 0.600000 0.600000 0.600000 0.600000 0.200000",  # the larger part
        "0 0.002000 0.000000 0.002000 0.052000 0.052000 0.052000 0.052000 0.000000",  # no mask: the corners of the box
    ]


def shapes():
    """Return masks by name, each of one part without holes, in an image of 48 x 64 pixels."""
    y, x = np.mgrid[:48, :64]
    squares = {f"square {side}": (x >= 3) & (x < 3 + side) & (y >= 5) & (y < 5 + side) for side in (1, 2, 6, 10, 20, 40)}
    return {
        **squares,
        "whole image": x >= 0,
        "disc": (x - 30) ** 2 + (y - 20) ** 2 < 15**2,
        "line": (y == 7) & (x > 4),
        "diagonal": (x == y) & (x < 20),  # pixels that touch at their corners
        "U": ((x < 4) | (x > 20) | (y > 40)) & (x < 30) & (y > 2),
    }


def test_uncompressed_mask(read, detections):
    detections["images"][0].update(height=4, width=5)
    detections["annotations"][0]["segmentation"] = {"size": [4, 5], "counts": [5, 2, 2, 2, 9]}  # runs along the columns
    assert read(polygons=True)[0][0].detections[0].polygon == [(1, 1), (1, 3), (3, 3), (3, 1)]


@pytest.mark.parametrize("name", shapes())
def test_polygon_has_exactly_the_pixels_of_its_mask(read, detections, name):
    mask = shapes()[name]
    detections["images"][0].update(height=48, width=64)
    detections["annotations"][0]["segmentation"] = encoded(mask.astype(np.uint8))
    ((image, _), _) = read(polygons=True)
    polygon = [number for point in image.detections[0].polygon for number in point]
    returned = mask_util.decode(mask_util.merge(mask_util.frPyObjects([polygon], 48, 64)))
    np.testing.assert_array_equal(returned, mask)


def test_cvat_by_hand(read):
    root = ElementTree.fromstring(to_cvat(*read())["annotations.xml"])
    assert root.findtext("version") == "1.1"
    first, second = root.findall("image")
    assert first.attrib == {"id": "0", "name": "a.jpg", "width": "200", "height": "100"}
    assert [box.attrib["label"] for box in first.findall("box")] == [NAMES[1], NAMES[0]]
    assert [first[0].attrib[name] for name in ("xtl", "ytl", "xbr", "ybr")] == ["40.00", "20.00", "120.00", "60.00"]
    assert len(second) == 0
    outlines = ElementTree.fromstring(to_cvat(*read(polygons=True))["annotations.xml"])
    assert outlines.find("image/polygon").attrib["points"] == "40.00,20.00;40.00,60.00;120.00,60.00;120.00,20.00"


def test_label_studio_by_hand(read):
    files = to_label_studio(*read(), root="/data/local-files/?d=", version="mask_rcnn")
    first, second = json.loads(files["tasks.json"])
    assert second["data"] == {"image": "/data/local-files/?d=sub%20folder/b.png"}
    (prediction,) = first["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("mask_rcnn", 0.625)
    result = prediction["result"][0]
    assert result["value"] == {"x": 20, "y": 20, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": [NAMES[1]]}
    assert (result["original_width"], result["original_height"], result["score"]) == (200, 100, 0.75)
    (polygon, box) = json.loads(to_label_studio(*read(polygons=True))["tasks.json"])[0]["predictions"][0]["result"]
    assert polygon["value"]["points"] == [[20, 20], [20, 60], [60, 60], [60, 20]]
    assert box["type"] == "rectanglelabels"
    # Every result belongs to a control of the labeling config.
    config = ElementTree.fromstring(files["labeling_config.xml"])
    controls = {element.attrib["name"]: element.tag.lower() for element in config if "toName" in element.attrib}
    assert all(controls[found["from_name"]] == found["type"] for found in (polygon, box))
    assert [label.attrib["value"] for label in config.find("RectangleLabels")] == NAMES


def test_voc_is_read_by_the_reader_of_the_project(read, tmp_path):
    from flash_internimage.data.formats.voc import _labeled_object, read_xml

    files = to_voc(*read())
    path = tmp_path / "a.xml"
    path.write_text(files["Annotations/a.xml"])
    objects = [_labeled_object(element, path) for element in read_xml(path).all("object")]
    assert [found.category for found in objects] == [NAMES[1], NAMES[0]]
    assert [list(found.box) for found in objects] == [[40, 20, 80, 40], [0, 0, 10, 5]]


def test_addresses_of_label_studio_are_quoted(read, detections):
    detections["images"][0]["file_name"] = "/data/photos/a#1 100%?.jpg"
    first, _ = json.loads(to_label_studio(*read(), root="https://photos.example/")["tasks.json"])
    address = urlsplit(first["data"]["image"])
    assert (unquote(address.path), address.query, address.fragment) == ("/a#1 100%?.jpg", "", "")


@pytest.mark.parametrize("name", ["car 🚗", "Tasse à café", "yes", "1e3", 'a: "b" #c', "x" * 300])
def test_class_name_in_yaml(read, detections, name):
    detections["categories"][0]["name"] = name
    files = to_yolo(*read())
    assert yaml.safe_load(files["data.yaml"].encode("utf-8")) == {"names": {0: name, 1: NAMES[1]}}


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([199.6, 99.7, 0.4, 0.3], (200, 100, 200, 100)),  # at the right and the lower border
        ([0, 0, 0.3, 0.3], (1, 1, 1, 1)),
        ([-3, -2, 400, 300], (1, 1, 200, 100)),
    ],
)
def test_voc_box_is_inside_the_image(read, detections, box, corners):
    detections["annotations"][0]["bbox"] = box
    found = ElementTree.fromstring(to_voc(*read())["Annotations/a.xml"]).find("object/bndbox")
    assert tuple(int(found.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")) == corners


@pytest.mark.parametrize("format_", ["yolo", "voc"])
def test_supervision_reads_the_same_boxes(read, tmp_path, format_):
    supervision = pytest.importorskip("supervision")
    images, names = read()
    files = {"yolo": to_yolo, "voc": to_voc}[format_](images[:1], names)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "images/a.jpg")
    if format_ == "yolo":
        dataset = supervision.DetectionDataset.from_yolo(tmp_path / "images", tmp_path / "labels", tmp_path / "data.yaml")
    else:
        dataset = supervision.DetectionDataset.from_pascal_voc(str(tmp_path / "images"), str(tmp_path / "Annotations"))
    ((_, _, found),) = list(dataset)
    # YOLO: six digits of a side of 200 pixels. VOC: whole pixels.
    tolerance = 2e-4 if format_ == "yolo" else 0.5
    np.testing.assert_allclose(found.xyxy, [[40, 20, 120, 60], [0.4, 0, 10.4, 5.2]], atol=tolerance)
    assert [dataset.classes[k] for k in found.class_id] == [NAMES[1], NAMES[0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][0].update(frame=3), "has frames of a video"),
        (
            lambda d: d["annotations"][0].update(category_id=9),
            "annotation 1 has image 1 and category 9, which the file",
        ),
        (lambda d: d["images"][1].update(file_name="/data/photos/../b.png"), r"has \.\. in its path"),
        (
            lambda d: d["annotations"][1].update(segmentation={"size": [9, 9], "counts": "11"}),
            r"detections\.json: annotation 2 has an RLE mask whose size should be",
        ),
        (
            lambda d: d["images"][1].update(file_name="/data/photos/./a.jpg"),
            r"detections\.json: lists the image a\.jpg twice",
        ),
        (lambda d: d["categories"][0].update(name="a\x08b"), r"the name 'a\\x08b' has a control character"),
        (lambda d: d["images"][0].update(file_name="/data/photos/a\x08.jpg"), r"a\\x08\.jpg' has a control character"),
        (lambda d: d.pop("categories"), 'lacks "categories"'),
        (lambda d: d["images"][0].update(height=0), "should be a number of pixels"),
    ],
)
def test_mistake_is_one_sentence(read, detections, change, message):
    change(detections)
    with pytest.raises(ValueError, match=message):
        read(polygons=True)


def test_images_with_the_same_label_file_are_refused(read, detections):
    detections["images"][1]["file_name"] = "/data/photos/a.png"
    with pytest.raises(ValueError, match=r"a\.png: another image has the same name but for its suffix, so labels/a\.txt"):
        to_yolo(*read())
