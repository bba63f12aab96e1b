"""`python -m study`: see `study.cli`."""

import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

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


def leave(code: int) -> NoReturn:
    """End this process at once: what libraries would still do takes seconds without a handler of signals, or fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # who read it has had enough
        os._exit(code)
    except OSError as error:
        os.write(2, f"error: what was printed could not be written: {error}\n".encode())
        os._exit(1)
    with suppress(OSError, ValueError):  # it was closed where nobody reads
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    check_python()
    ending.take()
    try:
        code = run()
    except KeyboardInterrupt:
        ending.leave()
    leave(code)
