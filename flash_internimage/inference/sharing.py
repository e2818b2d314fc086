"""Writing a trained detector to a folder, and uploading it to the Hugging Face hub."""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from omegaconf import DictConfig
from PIL import Image
from torch import nn

from flash_internimage.checkpoint.convert import write_safetensors
from flash_internimage.checkpoint.fingerprint import weights_sha256
from flash_internimage.checkpoint.hub import PREFIX, HttpError
from flash_internimage.engine.config import save_config
from flash_internimage.engine.private_values import clear_texts, has_credentials, is_absolute_path
from flash_internimage.errors import UserError
from flash_internimage.evaluation.drawing import draw_objects
from flash_internimage.evaluation.report import Evaluation, load
from flash_internimage.evaluation.saved import EVALUATION_FILE, INFERENCE_FOLDER, read_evaluation
from flash_internimage.family_lookup import detector_family
from flash_internimage.images import read_rgb
from flash_internimage.model_zoo.zoo import config_folder

from .model_card import Measured, model_card
from .shared import CARD, CONFIG, IMAGES, WEIGHTS

_LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
_SIDE = 1280  # pixels; the longest side of a visualization


def write_shared(
    cfg: DictConfig,
    model: nn.Module,
    classes: Sequence[str],
    folder: Path,
    *,
    name: str,
    evaluation: Path | None = None,
    images: int = 4,
    min_score: float = 0.5,
    license: str | None = None,
) -> None:
    """Write the files of a shared detector: config, weights (the averaged ones if there are any), model card, visualizations.

    The config keeps no paths, trackers and credentials of this machine.

    Args:
        cfg: config of the detector.
        model: the detector, as :func:`.load_model` returns it for the config.
        classes: its class names.
        folder: an existing, empty folder.
        name: ``owner/name`` of the repository, or the name of the folder, for the model card.
        evaluation: output folder of an evaluation, for AP and visualizations; None for neither.
        images: number of evaluated images to show with their detections.
        min_score: score threshold of the detections in them.
        license: identifier of the license of the weights.

    Raises:
        UserError: the evaluation is of other classes or other weights.
    """
    state = model.state_dict()
    family = detector_family(state)
    write_safetensors(folder / WEIGHTS, state, classes)
    save_config(without_private_values(cfg), str(folder / CONFIG))
    shown: list[str] = []
    if evaluation is not None:
        data = load(evaluation)
        if data.names != list(classes):
            raise UserError(
                f"{evaluation}: evaluates other classes ({', '.join(data.names[:5])}) than those of the checkpoint "
                f"({', '.join(classes[:5])}); give the evaluation of this checkpoint"
            )
        if _evaluated_weights(evaluation) not in (None, weights_sha256(state)):
            raise UserError(
                f"{evaluation}: evaluates other weights than those of the checkpoint, perhaps of another iteration; evaluate "
                "this checkpoint (flash-internimage eval), and give that evaluation"
            )
        shown = _draw(data, folder, images, min_score)
    title = type(model).__name__ if family is None else family.title
    card = model_card(name, title, classes, None if evaluation is None else measured(evaluation), shown, license)
    (folder / CARD).write_text(card, encoding="utf-8")


def evaluation_of(model: nn.Module, folder: Path) -> Path | None:
    """Return the output folder of a run if it holds an evaluation of exactly the weights of a model; otherwise None."""
    if not (folder / INFERENCE_FOLDER / EVALUATION_FILE).is_file():
        return None
    return folder if _evaluated_weights(folder) == weights_sha256(model.state_dict()) else None


def _evaluated_weights(evaluation: Path) -> str | None:
    """The fingerprint of the weights of a saved evaluation; None if unavailable, as in those of earlier versions."""
    return read_evaluation(evaluation)[0].get("weights_sha256")


def without_private_values(cfg: DictConfig) -> DictConfig:
    """Return a config without the data, paths, experiment trackers and credentials of this machine.

    Output folder, checkpoint and trackers are those of a fresh config; the texts of ``data``, absolute paths and URLs with
    credentials are None.
    """
    cleaned = copy.deepcopy(cfg)
    fresh = LazyConfig.load(str(config_folder() / "common" / "train.py")).train
    for name in ("output_dir", "init_checkpoint", "wandb", "mlflow"):
        if name in cleaned.train:  # configs saved by earlier versions lack some
            cleaned.train[name] = fresh[name]
    for part in _sections(cleaned.get("data")):
        for key, value in part.items():
            if isinstance(value, str):
                part[key] = None
    clear_texts(cleaned, lambda text: is_absolute_path(text) or has_credentials(text))
    return cleaned


def _sections(node: Any) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig):
        yield node
        for value in node.values():
            yield from _sections(value)


def measured(evaluation: Path) -> Measured:
    """Return the metrics of a saved evaluation."""
    saved, _ = read_evaluation(evaluation)
    tasks = {
        task: {name: None if math.isnan(value) else value for name, value in found["metrics"].items()}
        for task, found in saved["tasks"].items()
    }
    return Measured(saved["dataset"], saved["num_images"], tasks)


def _draw(data: Evaluation, folder: Path, number: int, min_score: float) -> list[str]:
    """Draw the images with the most detections above the threshold; return their paths, relative to the folder."""
    above = data.detections.score >= min_score
    counts: dict[int, int] = {}
    for image in data.detections.image[above].tolist():
        counts[image] = counts.get(image, 0) + 1
    names = []
    for rank, image in enumerate(sorted(counts, key=lambda image: (-counts[image], image))[:number]):
        kept = above & (data.detections.image == image)
        boxes = data.detections.box[kept].copy()
        boxes[:, 2:] += boxes[:, :2]
        labels = [f"{score:.0%}" for score in data.detections.score[kept]]
        drawn = draw_objects(
            read_rgb(data.files[image]), boxes, data.detections.category[kept].tolist(), data.names, labels=labels
        )
        visualization = Image.fromarray(drawn)
        visualization.thumbnail((_SIDE, _SIDE))
        names.append(f"{IMAGES}/{rank + 1}.jpg")
        (folder / IMAGES).mkdir(exist_ok=True)
        visualization.save(folder / names[-1], quality=90)
    return names


@contextmanager
def staging() -> Iterator[Path]:
    """A temporary folder in which the files are complete before they go anywhere."""
    with tempfile.TemporaryDirectory(prefix="flash-internimage-") as folder:
        yield Path(folder)


def upload(folder: Path, target: str, private: bool) -> str:
    """Upload a folder to a repository of the hub, which is created if it does not exist, as one commit; return its address.

    Files of an earlier upload are replaced, and its visualizations deleted; the history of the repository keeps them.

    Args:
        folder: folder with a model card.
        target: ``hf://owner/name``.
        private: whether the repository must be private; otherwise a new one is what the hub's settings of its owner say.

    Raises:
        UserError: nobody is logged in, the hub does not know the license, the repository must be private but exists and is
            public, or the hub refuses the upload or cannot be reached.
    """
    repository = target.removeprefix(PREFIX)
    api = HfApi()
    try:
        _require_valid_card(folder / CARD)  # before an empty repository is created
        api.create_repo(repository, private=True if private else None, exist_ok=True)
        if private and not api.repo_info(repository).private:
            raise UserError(
                f"{target}: --private, but this repository exists and is public; make it private in its settings on the hub, "
                "or choose another name"
            )
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload a detector with flash-internimage",
            delete_patterns=f"{IMAGES}/[0-9]*.jpg",
        )
        return f"{api.endpoint}/{repository}"
    except HFValidationError as error:
        raise UserError(f"{target}: expected {PREFIX}OWNER/NAME ({str(error).splitlines()[0]})") from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"{target}: nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = "log in with `hf auth login` as its owner, or set HF_TOKEN" if status in (401, 403) else "try again"
        raise UserError(f"{target}: the hub has refused the upload ({str(error).splitlines()[0]}); {hint}") from error
    except (HttpError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{target}: the hub at {api.endpoint} cannot be reached ({reason}); try again") from error


def _require_valid_card(card: Path) -> None:
    """Let the hub validate the metadata of a model card.

    Raises:
        UserError: the metadata is invalid; the hub's message says what.
    """
    try:
        ModelCard.load(card).validate()
    except HFValidationError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--license: the hub refuses the metadata of the model card ({reason}); see {_LICENSES}") from error


def move_to(folder: Path, target: Path) -> None:
    """Move the files to a local folder, which must not exist, or be empty.

    Raises:
        UserError: the folder holds files.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists and is not an empty folder; choose another name")
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        shutil.move(path, target / path.name)


def files_of(folder: Path) -> list[tuple[str, int]]:
    """Return the relative paths and sizes, in bytes, of the files in a folder."""
    return [(str(path.relative_to(folder)), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()]
