"""`python -P -m pipelines.cli`, the same as `quantbench`."""

import sys

from pipelines.cli import main

sys.exit(main())
