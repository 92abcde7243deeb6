"""`make fuzz ARGS="--minutes 10"`: bytes against a gateway, until the time is over or something is found."""

import argparse
import logging
import secrets
import time

from tests.fuzz.gateway_fuzz import FUZZERS

_EXAMPLES = 200


def main() -> None:
    """Run all of them in turns."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 30), help="of the first turn (another each time)"
    )
    parser.add_argument("--only", choices=FUZZERS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    until, number, tried = time.monotonic() + 60 * options.minutes, options.seed, 0
    while time.monotonic() < until:
        for name in [options.only] if options.only else FUZZERS:
            print(f"{name}, seed {number}, {tried} tried so far", flush=True)
            FUZZERS[name](_EXAMPLES, number)
            tried += _EXAMPLES
        number += 1
    print(f"nothing found in {tried} examples")


if __name__ == "__main__":
    main()
