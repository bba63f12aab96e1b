"""Whole shards compared with everything that their manifest says of their bytes; needs neither torch nor ray."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from datasets.checksums import DamagedError, checksums_of
from datasets.filesystem import open_filesystem, write_whole
from datasets.manifest import manifest_text, read_manifest
from datasets.object_store import patiently
from datasets.schema import MANIFEST_NAME, Manifest, ShardFile
from datasets.urls import absolute
from datasets.verified import damaged_shard

THREADS = 4  # each holds a shard of usually 128 MiB


def lacks_checksums(manifest: Manifest) -> bool:
    """Whether shards are from before their bytes had checksums, so that what rots in them goes unseen."""
    return any(file.checksums is None for file in manifest.files)


def audit_shards(shards_uri: str) -> tuple[Manifest, list[str]]:
    """Read all shards of a folder whole; returns their manifest, and what is wrong with each that is damaged.

    Where nothing is wrong, shards from before there were checksums get them, in their manifest; their content and its
    fingerprint stay as they are. Raises ValueError as `read_manifest` does.
    """
    uri, manifest = absolute(shards_uri), read_manifest(shards_uri)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda file: _audit(uri, file), manifest.files))
    damaged = [one for one in found if isinstance(one, str)]
    renewed = manifest.model_copy(update={"files": tuple(one for one in found if isinstance(one, ShardFile))})
    if damaged or renewed == manifest:
        return manifest, damaged
    filesystem, path = open_filesystem(f"{uri}/{MANIFEST_NAME}")
    patiently(filesystem, lambda: write_whole(filesystem, path, manifest_text(renewed)), uri)
    return renewed, []


def _audit(folder: str, file: ShardFile) -> ShardFile | str:
    """A shard as its manifest should describe it, or what is wrong with it."""
    uri = f"{folder}/{file.name}"
    filesystem, path = open_filesystem(uri)

    def read() -> pa.Buffer:
        with filesystem.open_input_file(path) as stream:
            return stream.read_buffer()

    try:
        content = patiently(filesystem, read, uri)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise damaged_shard(uri, "its SHA-256 is not the one that its manifest has")
        checksums = checksums_of(content)
        if file.checksums not in (None, checksums):
            raise damaged_shard(uri, "the checksums of its parts are not those that its manifest has")
    except (DamagedError, FileNotFoundError) as error:
        return str(error)
    return file.model_copy(update={"checksums": checksums})
