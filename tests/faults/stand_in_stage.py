"""A stage that is started in the plain way, with the stand-in for vLLM that forked ones have.

python -P -m tests.faults.stand_in_stage pipelines.stage_programs.measure job.json
"""

import runpy
import sys

import tests.faults.stand_in_engine  # noqa: F401 - puts the stand-in in vLLM's place

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
