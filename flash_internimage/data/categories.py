"""The categories of a dataset, from an annotation file to the checkpoint, the evaluator and the predictor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.data import Metadata, MetadataCatalog

from flash_internimage.errors import UserError
from flash_internimage.plurals import counted


class Categories(Mapping[int, str]):
    """The categories of a dataset, as a mapping id -> name in the order of the model's classes.

    The ids are those of the annotation file; the class of a category is its place in the mapping. A checkpointer saves the
    names, ``checkpointer.add_checkpointable("classes", categories)``, and compares them when it loads.

    Args:
        by_id: name of each category id, in the order of the classes.
    """

    def __init__(self, by_id: Mapping[int, str]) -> None:
        self._by_id = dict(by_id)

    @classmethod
    def from_coco(cls, categories: Sequence[Mapping[str, Any]]) -> Categories:
        """The ``categories`` of an annotation file. Classes are in ascending order of ids."""
        return cls(dict(sorted((int(category["id"]), str(category["name"])) for category in categories)))

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Categories | None:
        """The categories of a dataset that is registered with detectron2; None if its metadata does not name them.

        Without a map from category ids to classes the ids are the classes, as for detectron2.
        """
        names = metadata.get("thing_classes")
        if names is None:
            return None
        class_of = metadata.get("thing_dataset_id_to_contiguous_id") or {number: number for number in range(len(names))}
        return cls({id_: names[number] for id_, number in sorted(class_of.items(), key=lambda item: item[1])})

    @classmethod
    def from_names(cls, names: Sequence[str]) -> Categories:
        """The categories of a checkpoint, which holds names only: COCO's ids for COCO's classes, otherwise 1, 2, …."""
        coco = cls.from_metadata(MetadataCatalog.get("coco_2017_val"))
        if coco is not None and list(names) == coco.names:
            return coco
        return cls(dict(enumerate(map(str, names), start=1)))

    def __getitem__(self, id_: int) -> str:
        return self._by_id[id_]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._by_id})"

    @property
    def names(self) -> list[str]:
        """Name of each class."""
        return list(self._by_id.values())

    @property
    def ids(self) -> list[int]:
        """Category id of each class."""
        return list(self._by_id)

    @property
    def class_of(self) -> dict[int, int]:
        """Class of each category id."""
        return {id_: number for number, id_ in enumerate(self._by_id)}

    def state_dict(self) -> list[str]:
        return self.names

    def load_state_dict(self, names: Sequence[str]) -> None:
        self.require_names(names)

    def require_names(self, in_checkpoint: Sequence[str] | None) -> None:
        """Raise an error if the classes of a checkpoint are known and differ from these, in name or order.

        Raises:
            UserError: the classes differ; the message shows the first difference.
        """
        if in_checkpoint is None or list(in_checkpoint) == self.names:
            return
        if len(in_checkpoint) != len(self):
            difference = (
                f"{counted(in_checkpoint, 'class', 'classes')} ({_first_names(in_checkpoint)}), the data has {len(self)} "
                f"({_first_names(self.names)})"
            )
        else:
            pairs = zip(in_checkpoint, self.names, strict=True)
            number, theirs, ours = next((i, *pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            difference = f"{theirs!r} as class {number}, the data has {ours!r}"
        raise UserError(
            f"the checkpoint was trained with other classes: it has {difference}; "
            "use data with the same categories in the same order of ids, or another checkpoint"
        )


def _first_names(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
