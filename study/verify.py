"""Everything that a storage, or a folder of shards, holds compared with its checksums."""

from __future__ import annotations

from collections.abc import Callable

from datasets.audit import audit_shards, lacks_checksums
from datasets.checksums import DamagedError
from datasets.manifest import has_manifest, read_manifest
from reports.storage import Storage
from reports.stored import read_records
from trainables.checkpoint import check_file


def verify(place: str, say: Callable[[str], object]) -> bool:
    """Read the shards of a folder, or all shards and models of a storage; whether all are as they were written.

    Says what it has read, and by name what is damaged and how it is made anew. Shards from before there were checksums
    get them. Raises ValueError for a place with neither shards nor records.
    """
    if has_manifest(place):
        return _verify_shards(place, say)
    storage = Storage(place)
    records, problems = read_records(storage)
    data = [name for name in storage.list("data") if has_manifest(storage.uri("data", name))]
    if not (records or problems or data):
        raise ValueError(
            f"{place} holds neither shards nor records; name a folder of shards, or a storage as launch's --storage"
        )
    sound = not problems
    for problem in problems:
        say(f"damaged: {problem.path} is not a record: {problem.reason}; delete or restore it")
    for name in data:
        sound &= _verify_shards(storage.uri("data", name), say)
    read, unnamed = 0, 0
    for record in records:
        uri = storage.uri("checkpoints", record.id, "model.pt")
        try:
            if check_file(uri, record.model.sha256):
                read, unnamed = read + 1, unnamed + (record.model.sha256 is None)
        except DamagedError as error:
            say(f"damaged: {error}; put the file back, or delete it and records/{record.id}.json to train it again")
            sound = False
    say(f"{len(records):,} records, {read:,} models as they were written")
    if unnamed:
        say(f"{unnamed:,} of them are of records too old to name their model's checksum, which may be others' models")
    return sound


def _verify_shards(shards: str, say: Callable[[str], object]) -> bool:
    try:
        lacked = lacks_checksums(read_manifest(shards))
        manifest, damaged = audit_shards(shards)
    except ValueError as error:
        say(f"damaged: {error}")
        return False
    for message in damaged:
        say(f"damaged: {message}")
    if not damaged:
        added = ", whose checksums were added to their manifest" if lacked else ""
        say(f"{shards}: {len(manifest.files):,} shards as they were written{added}")
    return not damaged
