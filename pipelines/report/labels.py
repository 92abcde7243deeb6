"""Places for labels beside points of a plot, so that none covers another."""

from collections.abc import Sequence
from typing import NamedTuple

CHARACTER_WIDTH = 6.6
"""Of the 12 px font."""


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Whether the two have a pixel in common."""
        apart = self.right < other.left or other.right < self.left
        return not (apart or self.bottom < other.top or other.bottom < self.top)


class Place(NamedTuple):
    """Where a label stands; its text is anchored at `x`."""

    anchor: str
    x: float
    box: Box
    free: bool
    """Whether it covers nothing."""


def place_beside(
    x: float, y: float, width: float, height: float, taken: list[Box], area: Box, avoided: Sequence[Box] = ()
) -> Place:
    """The first free place beside a point that covers nothing avoided either, if there is one.

    Else the first free one, else the first one inside `area`.
    """
    places = []
    for down in (0.0, -height * 0.75, height * 0.75, -height * 1.5, height * 1.5):
        for left in (False, True):
            start = x - 10 - width if left else x + 10
            top = min(max(y - height / 2 + down, area.top), area.bottom - height)
            box = Box(start, top, start + width, top + height)
            free = not any(box.overlaps(other) for other in taken)
            places.append(Place("end" if left else "start", box.right if left else box.left, box, free))
    inside = [place for place in places if place.box.left >= area.left and place.box.right <= area.right]
    uncovered = [place for place in inside if place.free]
    clear = (place for place in uncovered if not any(place.box.overlaps(other) for other in avoided))
    return next(clear, (uncovered or inside or places)[0])
