"""Detection on several views of an image: tiles, scaled and flipped copies, and the merging of their detections."""

from .detector import ViewsDetector
from .mapper import ViewsMapper, sample_of_views
from .plan import ViewOptions

__all__ = ["ViewOptions", "ViewsDetector", "ViewsMapper", "sample_of_views"]
