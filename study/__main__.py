"""`python -m study`: see `study.cli`."""

import io
import os
import sys

from study.ending import ending
from study.environment import check_python, missing_package


def run() -> int:
    """The exit code of the command in this process's arguments."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character gets its number
            stream.reconfigure(errors="backslashreplace")
    try:
        from study.cli import main  # which takes a second
    except ModuleNotFoundError as error:
        print(missing_package(error), file=sys.stderr)
        return 2
    return main(sys.argv[1:])


if __name__ == "__main__":
    check_python()
    ending.take()
    try:
        code = run()
    except KeyboardInterrupt:
        ending.leave()
    if ending.number is not None:  # what libraries would still do at their end takes time, or fails
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
