"""`telemetry run --config FILE`, imported ahead of time: it begins when its standard input ends.

A test that kills workers all the time would else wait for imports most of the time.
"""

import sys

from telemetry.__main__ import main
from telemetry.cli import service as _command  # noqa: F401 - what the command imports when it is called
from telemetry.service import serve as _serve  # noqa: F401


def run(config: str) -> None:
    """Wait for the word, then do what the command line does."""
    sys.stdin.read()
    sys.argv = ["telemetry", "run", "--config", config]
    main()


if __name__ == "__main__":
    run(sys.argv[1])
