"""What of the checkout is copied to a cluster or into the image: the code, and never what may be a secret.

`python -m study.upload` says it for this checkout, and fails if there is a file among the code that may be a secret.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = ("datasets", "reports", "study", "trainables")
"""All that a launch imports."""

CODE = (".py", ".yaml", ".json", ".css", ".js")
"""The endings of all files of the packages."""

COMPILED = ("__pycache__", "*.pyc")

NEVER = (
    ".*",  # .git, .venv, .env, .aws, .ssh, .netrc, .kube, .docker, ...
    "runs",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.jks",
    "*.kdbx",
    "*.env",
    "secret*",
    "*-secret*",
    "*_secret*",
    "credential*",
    "*-credential*",
    "*_credential*",
    "service-account*",
    "service_account*",
    "*accesskeys*",
    "kubeconfig*",
    "auth_token*",
)
"""Names of files and folders, as in a shell, that are left out wherever they lie: storage, and what may hold a secret.
`.dockerignore` and `.rsyncignore` have the same (a test compares)."""

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
"""In a file of any name, such as the JSON of a service account."""

TOLD = 6
"""Names that are listed of what is left out; the rest is counted."""


@dataclass
class Upload:
    """The files that are copied, by their paths in the checkout, and their size; what is not, as it may be a
    `secret`, and because it is `no_code`. A folder that is left out whole is one name with a slash at its end."""

    files: list[str] = field(default_factory=list)
    size: int = 0
    secret: list[str] = field(default_factory=list)
    no_code: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """What is copied, and what is not."""
        said = f"{len(self.files)} files of code ({self.size / 1e6:.1f} MB) from {', '.join(PACKAGES)}, and no others"
        for reason, names in (("may hold secrets", self.secret), ("are no code", self.no_code)):
            if names:
                more = f" and {len(names) - TOLD:,} more" if len(names) > TOLD else ""
                said += f"; left out there, as they {reason}: {', '.join(names[:TOLD])}{more}"
        return said


def find_upload(root: Path = ROOT, storage: Path | None = None) -> Upload:
    """What is copied of the checkout at `root`; a `storage` that lies in it is no code."""
    upload = Upload()
    for package in PACKAGES:
        for path, is_folder in _walk(root / package, storage):
            name = path.relative_to(root).as_posix() + ("/" if is_folder else "")
            if matches(path.name, NEVER) or (not is_folder and _has_private_key(path)):
                upload.secret.append(name)
            elif is_folder or path.is_symlink() or path.suffix not in CODE or not path.is_file():
                upload.no_code.append(name)
            else:
                upload.files.append(name)
                upload.size += path.stat().st_size
    return upload


def copy_code(destination: Path, root: Path = ROOT, storage: Path | None = None) -> Upload:
    """Copy the code to an empty folder; see `find_upload`."""
    upload = find_upload(root, storage)
    for name in upload.files:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, destination / name)
    return upload


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether the name of a file or folder is one of those, in capitals or not."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)


def _walk(top: Path, storage: Path | None) -> Iterator[tuple[Path, bool]]:
    """All files below a folder but compiled ones, in order; and the folders that are not entered: see `Upload`."""
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        closed = [
            name for name in folders if matches(name, NEVER) or (here / name).is_symlink() or here / name == storage
        ]
        yield from ((here / name, True) for name in sorted(closed))
        folders[:] = sorted(name for name in folders if name not in closed and not matches(name, COMPILED))
        yield from ((here / name, False) for name in sorted(files) if not matches(name, COMPILED))


def _has_private_key(path: Path) -> bool:
    """Whether the beginning of a regular file has one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return PRIVATE_KEY.search(file.read(65536)) is not None


def main() -> int:
    upload = find_upload()
    print(upload.sentence())
    return 1 if upload.secret else 0


if __name__ == "__main__":
    sys.exit(main())
