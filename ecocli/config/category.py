"""A category as settings and manifests record it."""

from typing import Annotated

from pydantic import Field

from ecocli.config.base import Config


class CategoryConfig(Config):
    """One category, as manifests record it."""

    id: Annotated[int, Field(ge=0)]
    name: str
    supercategory: str
    is_thing: bool
    color: tuple[int, int, int]
