"""A price by itself, as `configs/prices` has some: for records that were made without one."""

from pathlib import Path

from configs.base import StrictModel
from configs.loading import load_yaml_model
from serving_checks.readings.cost import DevicePrice


class PriceFile(StrictModel):
    """What a recipe, a bench's or a gateway's config includes."""

    price: DevicePrice


def read_price(file: Path) -> DevicePrice:
    """The price in a file.

    Raises:
        ConfigError: There is no such file, or no price in it, with file and line.
    """
    return load_yaml_model(file, PriceFile).price
