"""Ray's store of short texts."""

_kept: dict[str, str] = {}


def _internal_kv_put(key: str, value: str, *, overwrite: bool, namespace: str) -> None:
    assert overwrite and namespace
    _kept[key] = value


def _internal_kv_get(key: str, *, namespace: str) -> bytes | None:
    assert namespace
    return _kept[key].encode() if key in _kept else None


def _internal_kv_del(key: str, *, namespace: str) -> None:
    assert namespace
    _kept.pop(key, None)
