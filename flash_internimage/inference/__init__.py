"""Detection on images and videos: the ``Predictor``, input sources and written results."""

from .predictor import Predictor

__all__ = ["Predictor"]
