"""The page, built with Gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flash_internimage.errors import UserError
from flash_internimage.packages import require

from .detection import COLUMNS, Detected, detect, draw_video, drawn, table
from .models import Models

_TITLE = "FlashInternImage"
_DEFAULT_THRESHOLD = 0.5
_CACHE_SECONDS = 3600  # after which uploads and results are deleted


def build_page(models: Models) -> Any:
    """Build the page; its ``launch()`` serves it.

    Args:
        models: the detectors to choose from.

    Returns:
        A ``gradio.Blocks``.

    Raises:
        UserError: Gradio is not installed.
    """
    gr = require("gradio", "the app")

    def show(detected: Detected | None, threshold: float, classes: Sequence[str]) -> tuple[np.ndarray | None, list[list[Any]]]:
        if detected is None:
            return None, []
        return drawn(detected, threshold, classes), table(detected, threshold, classes)

    def on_image(name: str, image: np.ndarray | None, threshold: float, classes: Sequence[str]) -> tuple[Any, ...]:
        with _shown_on_page(gr.Error):
            if image is None:
                raise UserError("no image: drop one on the left, or choose a file")
            detected = detect(models.get(name), image)
        known = [one for one in classes if one in detected.class_names]
        return detected, gr.update(choices=detected.class_names, value=known), *show(detected, threshold, known)

    def on_video(
        name: str,
        video: str | None,
        threshold: float,
        classes: Sequence[str],
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> str:
        with _shown_on_page(gr.Error):
            if video is None:
                raise UserError("no video: drop one on the left, or choose a file")
            # Beside the uploaded file, in the folder of the visitor's uploads, which Gradio deletes.
            return str(draw_video(models.get(name), video, Path(video).parent, threshold, classes, progress))

    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(_CACHE_SECONDS, _CACHE_SECONDS)) as page:
        gr.Markdown(f"# {_TITLE}")
        detected = gr.State()
        with gr.Row():
            model = gr.Dropdown(models.names, value=models.names[0], label="Detector", scale=2)
            threshold = gr.Slider(0, 1, value=_DEFAULT_THRESHOLD, step=0.05, label="Score threshold")
            classes = gr.Dropdown([], multiselect=True, label="Classes (all, if empty)", scale=2)
        with gr.Tab("Image"):
            with gr.Row():
                image = gr.Image(type="numpy", image_mode="RGB", label="Image", sources=["upload", "clipboard", "webcam"])
                result = gr.Image(label="Detections", format="png", interactive=False)
            button = gr.Button("Detect", variant="primary")
            rows = gr.Dataframe(headers=COLUMNS, label="Detections", interactive=False)
        with gr.Tab("Video"):
            with gr.Row():
                video = gr.Video(label="Video", sources=["upload"])
                video_result = gr.Video(label="Detections", interactive=False)
            video_button = gr.Button("Detect", variant="primary")
        button.click(on_image, [model, image, threshold, classes], [detected, classes, result, rows])
        for control in (threshold, classes):
            control.input(show, [detected, threshold, classes], [result, rows], show_progress="hidden")
        video_button.click(on_video, [model, video, threshold, classes], video_result)
    return page


@contextmanager
def _shown_on_page(shown: Callable[[str], Exception]) -> Iterator[None]:
    """Turn a user's mistake into a message on the page."""
    try:
        yield
    except (UserError, OSError) as error:
        raise shown(str(error)) from error
