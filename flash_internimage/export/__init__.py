"""Export of trained detectors to files that run without this package."""

from .detector import ExportableDetector, exportable_detector

__all__ = ["ExportableDetector", "exportable_detector"]
