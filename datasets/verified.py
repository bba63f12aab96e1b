"""Shards of which nothing is parsed before its checksum has been compared."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.checksums import DamagedError, checksum, parse_footer, region_of
from datasets.schema import ShardFile

HOLE_BYTES = 8192
"""Spans of a file that lie no further apart are read at once."""

READ_THREADS = 8
"""So many requests for spans are made at a time."""

READS = 2
"""What has another checksum is read again so often in all: it may have been damaged on its way from an object store."""

Span = tuple[int, int]  # first byte, and the one after the last


@dataclass(frozen=True)
class Check:
    """Spans of a file, what they are in messages, and their checksum."""

    what: str
    spans: list[Span]
    checksum: str


def open_shard(
    stream: pa.NativeFile, uri: str, file: ShardFile, groups: Sequence[int], *, images: bool
) -> pq.ParquetFile:
    """Read row groups of a shard, without their images if not `images`, and compare the bytes with the manifest.

    Of what is returned only these row groups, and these columns of them, can be read. A shard from before there were
    checksums is returned as it is. `stream` is the open file, `uri` its name in messages.

    Raises DamagedError for bytes that are not those that were written.
    """
    known = file.checksums
    if known is None:
        return pq.ParquetFile(stream, pre_buffer=True)
    if stream.size() != file.bytes:
        raise damaged_shard(uri, f"it has {stream.size():,} bytes, expected {file.bytes:,}")
    footer: Span = (file.bytes - known.footer_bytes, file.bytes)
    metadata = parse_footer(_read_verified(stream, uri, [Check("footer", [footer], known.footer)]).view(*footer))
    checks = []
    for index in groups:
        region = region_of(metadata, index, footer[0])
        checks.append(Check(f"labels of row group {index}", region.others, known.others[index]))
        if images:
            span = (region.images_start, region.images_stop)
            checks.append(Check(f"images of row group {index}", [span], known.images[index]))
    return pq.ParquetFile(pa.PythonFile(_read_verified(stream, uri, checks), mode="r"), metadata=metadata)


def _read_verified(stream: pa.NativeFile, uri: str, checks: Sequence[Check]) -> Parts:
    """Read the spans of all checks. Raises DamagedError where a checksum is another one."""
    wrong: list[str] = []
    for _ in range(READS):
        parts = Parts(stream.size(), _read_spans(stream, [span for check in checks for span in check.spans]))
        wrong = [check.what for check in checks if checksum(*parts.views(check.spans)) != check.checksum]
        if not wrong:
            return parts
    more = f" and {len(wrong) - 1} other parts" if len(wrong) > 1 else ""
    raise damaged_shard(uri, f"it is not as it was written ({wrong[0]}{more})")


def damaged_shard(uri: str, found: str) -> DamagedError:
    """What to raise of a shard, with what was found and what to do."""
    folder = uri.rpartition("/")[0]
    return DamagedError(
        f"the shard {uri} is damaged: {found}; put the file back from a copy, or delete the folder {folder} and make "
        f"the shards again, as the next launch does by itself, or `python -m study shard SOURCE {folder}`"
    )


def _read_spans(stream: pa.NativeFile, spans: Iterable[Span]) -> list[tuple[int, bytes]]:
    """Read spans, those that lie close together at once: the first byte and the content of each read."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start - merged[-1][1] <= HOLE_BYTES:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))

    def read(span: Span) -> tuple[int, bytes]:
        return span[0], stream.read_at(span[1] - span[0], span[0])

    if len(merged) == 1:
        return [read(merged[0])]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(read, merged))


class Parts:
    """Parts of a file, as pyarrow reads a file of Python's; what lies between them cannot be read."""

    closed = False

    def __init__(self, size: int, parts: list[tuple[int, bytes]]) -> None:
        self._size, self._position = size, 0
        self._starts = [start for start, _ in parts]
        self._contents = [memoryview(content) for _, content in parts]

    def views(self, spans: Iterable[Span]) -> list[memoryview]:
        """The bytes of spans."""
        return [self.view(*span) for span in spans]

    def view(self, start: int, stop: int) -> memoryview:
        """The bytes from `start` to `stop`, or the first of them where the file has ended."""
        number = bisect.bisect_right(self._starts, start) - 1
        assert number >= 0, "only what was verified is read"
        content, first = self._contents[number], self._starts[number]
        return content[start - first : stop - first]

    def read(self, count: int) -> memoryview:
        part = self.view(self._position, self._position + count)
        assert len(part) == count, f"only what was verified is read, not bytes {self._position} and following"
        self._position += count
        return part

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """Nothing is open."""
