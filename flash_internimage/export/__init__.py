"""Export of trained detectors to files that run without this package."""

from .detector import ExportableDetector, exportable_detector
from .program import compile_program, export_program

__all__ = ["ExportableDetector", "compile_program", "export_program", "exportable_detector"]
