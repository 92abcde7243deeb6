"""Does the system get back what lies free between blocks that are kept?"""

import json
import subprocess
import sys

import pytest

# Narrow blocks that are kept between wide ones that are freed, in a heap that nobody else has used.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy
from quantizers.engines.heap import give_large_blocks_back

def own_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])

if sys.argv[1] == "mapped":
    give_large_blocks_back()
numpy.ones(16_000_000, dtype=numpy.uint8)  # glibc takes the next ones of this size from its heap
begun, kept, freed = own_kib(), [], []
for _ in range(40):
    freed.append(numpy.ones(2_000_000, dtype=numpy.uint8))
    kept.append(numpy.ones(200_000, dtype=numpy.uint8))
freed.clear()
print(json.dumps(own_kib() - begun))
"""


@pytest.mark.parametrize("way", ["mapped", "as it is"])
def test_large_blocks_between_others_go_back(way: str) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM, way], stdout=subprocess.PIPE, text=True, check=True)
    kib = json.loads(done.stdout)
    if way == "mapped":
        assert kib < 15_000, "200,000 bytes of 40 blocks each are in use"
    else:
        assert kib > 60_000, "glibc keeps what was freed"
