"""Ids of objects that stay the same over the frames of a video, from ByteTrack of the package ``trackers``."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from detectron2.structures import Instances

from flash_internimage.packages import require
from flash_internimage.structures import select

LOW_SCORE = 0.1
"""Detections from this score on can continue a track, in ByteTrack's second association."""

UNTRACKED = -1
"""Id of a detection that belongs to no track (yet)."""


class Tracker:
    """Follows objects over the frames of one video with ByteTrack.

    Source: Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", arXiv:2110.06864.

    Args:
        min_score: lowest score of a detection that starts a track.
        frames_per_second: frame rate of the video; an object may disappear for one second.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self, min_score: float, frames_per_second: float) -> None:
        trackers = require_tracker()
        self._supervision = importlib.import_module("supervision")  # which trackers needs
        self._min_score = min_score
        self._tracker = trackers.ByteTrackTracker(
            frame_rate=frames_per_second, track_activation_threshold=min_score, high_conf_det_threshold=min_score
        )

    def update(self, instances: Instances) -> Instances:
        """Associate the detections of the next frame with tracks.

        Args:
            instances: detections on the CPU, with scores from ``LOW_SCORE`` on.

        Returns:
            Those that continue a track or have at least the lowest score, in order, with ``track_ids``: (N,) int64, from 1, or
            ``UNTRACKED``. A track has an id from its second frame on.
        """
        detections = self._supervision.Detections(
            xyxy=instances.pred_boxes.tensor.float().numpy(),
            confidence=instances.scores.float().numpy(),
            class_id=instances.pred_classes.numpy(),
            data={"position": torch.arange(len(instances)).numpy()},
        )
        found = self._tracker.update(detections)
        ids = torch.full((len(instances),), UNTRACKED)
        if len(found):
            numbers = torch.as_tensor(found.tracker_id, dtype=torch.int64)
            ids[torch.as_tensor(found.data["position"])] = torch.where(numbers < 0, UNTRACKED, numbers + 1)
        kept = ((ids != UNTRACKED) | (instances.scores >= self._min_score)).nonzero()[:, 0]
        result = Instances(instances.image_size, **select(instances, kept).get_fields())
        result.track_ids = ids[kept]
        return result


def require_tracker() -> ModuleType:
    """Import the package for tracking.

    Raises:
        UserError: it is not installed.
    """
    return require("trackers", "--track")
