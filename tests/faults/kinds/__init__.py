"""The kinds of faults, a module a group."""

from tests.faults.kinds import bytes_on_disk, disk_full, engines, inputs, kills, places, surroundings, together
from tests.faults.trial import Kind

KINDS: tuple[Kind, ...] = (
    *kills.KINDS,
    *bytes_on_disk.KINDS,
    *inputs.KINDS,
    *disk_full.KINDS,
    *places.KINDS,
    *together.KINDS,
    *surroundings.KINDS,
    *engines.KINDS,
)
