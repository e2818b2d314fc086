"""DCNv4 and FlashInternImage for detectron2."""

__version__ = "0.1.0"
