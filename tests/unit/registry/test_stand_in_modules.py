"""A stand-in for torchvision comes where there is none, and never in place of the real one."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # imports transformers

PROGRAM = """\
import transformers
from transformers.utils import is_torchvision_available
from registry.stand_in_modules import stand_in_for_torchvision
stand_in_for_torchvision()
from torchvision.transforms.v2 import functional
import torchvision
print(is_torchvision_available(), functional.resize, getattr(torchvision, "real", None))
"""


def printed(*paths: Path) -> str:
    program = "".join(f"import sys; sys.path.insert(0, {str(path)!r})\n" for path in paths) + PROGRAM
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_it_is_taken_for_what_is_missing_and_not_for_the_real_one() -> None:
    assert printed() == "False None None"


@pytest.mark.parametrize("breaks", [False, True])
def test_the_real_one_is_left_alone_where_it_works(tmp_path: Path, breaks: bool) -> None:
    functional = tmp_path / "torchvision" / "transforms" / "v2"
    functional.mkdir(parents=True)
    (functional / "functional.py").write_text("resize = 'the real one'\n")
    for folder in (functional, functional.parent, functional.parent.parent):
        (folder / "__init__.py").write_text("")
    first = 'raise RuntimeError("operator torchvision::nms does not exist")' if breaks else "real = True"
    (tmp_path / "torchvision" / "__init__.py").write_text(f"{first}\n")
    metadata = tmp_path / "torchvision-0.28.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    assert printed(tmp_path) == ("True None None" if breaks else "True the real one True")
