"""A checksum in the file of a model or checkpoint, so that bytes that rot are never read as other weights.

torch writes a zip archive, and a zip archive may end with a comment, which torch and unzip pass over. The comment of a
sealed file is the SHA-256 of everything before the digits, so that the checksum can neither be lost nor be that of
another file.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib

from datasets.checksums import DamagedError

WORDS = b"labelscale sha256 "
SEAL_BYTES = len(WORDS) + 64

END = b"PK\x05\x06"
END_BYTES = 22
"""The last part of a zip archive begins with these four bytes and has this size; its last two are the comment's."""


def seal(archive: io.BytesIO) -> str:
    """Add the comment to a zip archive that has none; returns the SHA-256 of all of it, as `sha256sum` prints it."""
    with archive.getbuffer() as content:
        assert bytes(content[-END_BYTES : -END_BYTES + 4]) == END and bytes(content[-2:]) == b"\0\0", "torch's archive"
        content[-2:] = SEAL_BYTES.to_bytes(2, "little")
        digest = hashlib.sha256(content)
    digest.update(WORDS)
    digits = digest.hexdigest().encode()
    digest.update(digits)
    archive.seek(0, io.SEEK_END)
    archive.write(WORDS + digits)
    return digest.hexdigest()


def check_seal(content: bytes) -> str:
    """Compare a file with its seal and return the SHA-256 of the whole file.

    Files from before there were seals are held against the CRC-32 that zip archives have of their parts.

    Raises:
        DamagedError: what was found and what was expected.
    """
    if content[-END_BYTES : -END_BYTES + 4] == END and content.endswith(b"\0\0"):
        _check_parts(content)
        return hashlib.sha256(content).hexdigest()
    if content[-SEAL_BYTES:-64] != WORDS:
        raise DamagedError("it does not end as a finished checkpoint does")
    view = memoryview(content)
    digest = hashlib.sha256(view[:-64])
    found, written = digest.hexdigest(), content[-64:].decode(errors="replace")
    if found != written:
        raise DamagedError(f"the SHA-256 of its content is {found}, and {written} was written with it")
    digest.update(view[-64:])
    return digest.hexdigest()


def _check_parts(content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            ways = {(part.compress_type, part.flag_bits, part.external_attr) for part in archive.infolist()}
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError, EOFError, OSError, RuntimeError) as error:
        raise DamagedError(f"it is no readable archive: {error}") from error
    if damaged is not None:
        raise DamagedError(f"its part {damaged} is not the one that was written")
    if len(ways) != 1:  # torch stores all parts in one way, and reads garbage where one claims another
        raise DamagedError("its list of parts is not the one that was written")
