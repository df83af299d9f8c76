"""Image classification: an image and its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from raffm_mpi.data import Columns, DataInfo
from raffm_mpi.data.columns import DISCRETE, IMAGES, image_columns
from raffm_mpi.tasks.base import Role, find_image, find_label
from raffm_mpi.tasks.classification import Classification

if TYPE_CHECKING:
    from datasets import Features


class ImageClassification(Classification):
    """A column of images, and one of labels."""

    name = "image_classification"
    roles: ClassVar[Mapping[str, Role]] = {"image": Role(IMAGES), "label": Role(DISCRETE)}

    def claims(self, features: Features, named: Columns) -> bool:
        """An image is named, or there are images and nothing but the label is named."""
        return "image" in named.roles or bool(image_columns(features) and named.roles.keys() <= {"label"})

    def find(self, features: Features, named: Columns) -> Mapping[str, str]:
        return {"label": find_label(features, named), "image": find_image(features, named)}

    def takes_images(self, columns: Columns) -> bool:
        return True

    def metrics(self, info: DataInfo, subset: str | None = None) -> tuple[str, ...]:
        return "accuracy", "f1_macro", "f1_weighted"
