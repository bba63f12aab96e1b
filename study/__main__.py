"""`python -m study`: see `study.cli`."""

import io
import sys

from study.environment import check_python, missing_package

check_python()
for _stream in (sys.stdout, sys.stderr):
    if isinstance(_stream, io.TextIOWrapper):  # a terminal that cannot show a character gets its number
        _stream.reconfigure(errors="backslashreplace")
try:
    from study.cli import main
except ModuleNotFoundError as error:
    print(missing_package(error), file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
