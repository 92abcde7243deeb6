"""Does the system get back what lies free between blocks that are kept?"""

import json
import subprocess
import sys

# Narrow blocks that are kept between wide ones that are freed, in a heap that nobody else has used.
PROGRAM = """
import json
from pathlib import Path
import numpy
from quantizers.engines.heap import give_memory_back

def own_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])

kept, seen = [], [own_kib()]
freed = []
for _ in range(600):
    freed.append(numpy.ones(100_000, dtype=numpy.uint8))
    kept.append(numpy.ones(20_000, dtype=numpy.uint8))
freed.clear()
seen.append(own_kib())
give_memory_back()
print(json.dumps([*seen, own_kib()]))
"""


def test_free_pages_between_others_go_back() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True)
    begun, freed, given_back = json.loads(done.stdout)
    assert freed - begun > 60_000, "glibc keeps what was freed"
    assert given_back - begun < 25_000, "20,000 bytes of 600 blocks each are in use"
