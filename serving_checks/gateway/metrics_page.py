"""Pages of metrics put together, in the text format that Prometheus reads (exposition format 0.0.4)."""

from collections.abc import Iterable


def joined(pages: Iterable[str]) -> str:
    """One page of several: a family that stands in more of them is told once, with all of its samples.

    Families `*_created`, which say when each series began, are left out: half of a page, and read by nobody here.
    """
    families: dict[str, list[str]] = {}
    for page in pages:
        name, known = "", False
        for line in page.splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                known = name in families
            if not (known and line.startswith("#")):
                families.setdefault(name, []).append(line)
    return "".join(f"{line}\n" for name, lines in families.items() if not name.endswith("_created") for line in lines)
