"""What stands for files outside the workspace in a stage's key: they may change without the recipe changing."""

from pathlib import Path

from quantizers.calibration.config import CalibrationConfig, FileCalibration
from quantizers.checkpoints.sources import FolderSource, HubSource, SourceConfig, locate_gguf
from registry.hashing import digest_of, digest_of_file


def source_fingerprint(source: SourceConfig) -> str:
    """Names, sizes and times of the source's files: gigabytes are not hashed to find that nothing is new.

    A false alarm costs one conversion; what follows is keyed by the digest of the checkpoint it gives.
    """
    if isinstance(source, HubSource):
        return digest_of([source.id, source.revision])
    files = sorted(source.path.iterdir()) if isinstance(source, FolderSource) else [locate_gguf(source)]
    return digest_of([_stat(path) for path in files if path.is_file()])


def calibration_fingerprint(config: CalibrationConfig) -> str:
    """Content of a calibration file that was found readable; what the config says is enough for the other sources."""
    if not isinstance(config, FileCalibration):
        return digest_of(None)
    return digest_of_file(config.path)


def _stat(path: Path) -> list[str | int]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]
