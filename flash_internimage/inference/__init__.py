"""Inference on images and videos: the ``Predictor``, input sources, and output of detections."""

from .predictor import Predictor

__all__ = ["Predictor"]
