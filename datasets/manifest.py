"""The manifest beside the shards, and single columns of them; neither torch nor ray is needed to plan with them."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.fs
from pydantic import TypeAdapter

from datasets.checksums import DamagedError
from datasets.filesystem import open_filesystem
from datasets.object_store import patiently
from datasets.schema import MANIFEST_NAME, Manifest, ShardFile
from datasets.typed_files import BadFileError, parsed, read_parsed
from datasets.urls import absolute
from datasets.verified import open_shard

CHECKSUM, AFTER_CHECKSUM = b'{\n "sha256": "', b'",'

_MANIFEST = TypeAdapter(Manifest)
MOST_BYTES = 2**26
"""Of a manifest: of ImageNet's 1,200 files it has half a million."""


def has_manifest(shards_uri: str) -> bool:
    """Whether there are complete shards: the manifest is written last. Raises StorageError where nothing answers."""
    uri = absolute(shards_uri)
    filesystem, path = open_filesystem(uri)
    info = patiently(filesystem, lambda: filesystem.get_file_info(f"{path}/{MANIFEST_NAME}"), uri, 0)
    return bool(info.type == pyarrow.fs.FileType.File)


def manifest_text(manifest: Manifest) -> bytes:
    """Return a manifest as JSON whose first key is the SHA-256 of all that follows it."""
    body = manifest.model_dump_json(indent=1).encode()[1:]
    return CHECKSUM + hashlib.sha256(body).hexdigest().encode() + AFTER_CHECKSUM + body


def parse_manifest(text: bytes) -> Manifest:
    """Return the manifest in a text, which has no checksum if it is from before there were any.

    Raises DamagedError where the text has another checksum than it says, and ValueError where it is no manifest.
    """
    if not text.startswith(CHECKSUM):
        return parsed(_MANIFEST, text)
    digits, comma, body = text[len(CHECKSUM) :].partition(AFTER_CHECKSUM)
    found = hashlib.sha256(body).hexdigest()
    if not comma or digits != found.encode():
        raise DamagedError(f"its SHA-256 is {found}, and {digits[:64].decode(errors='replace')} was written with it")
    return parsed(_MANIFEST, b"{" + body)


def read_manifest(shards_uri: str, patience: float = 0) -> Manifest:
    """Read the manifest of a folder of shards and check that its shards are there.

    An object store that does not answer is asked again for `patience` seconds; then this raises StorageError. Raises
    ValueError when the manifest or shards are missing, incomplete, or of another format.
    """
    uri = absolute(shards_uri)
    filesystem, path = open_filesystem(uri)
    remedy = f"make the shards with `python -m study shard SOURCE {shards_uri}`"
    name = f"{path}/{MANIFEST_NAME}"
    try:
        manifest = read_parsed(
            parse_manifest, filesystem, name, f"{uri}/{MANIFEST_NAME}", most=MOST_BYTES, patience=patience
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"there are no shards at {shards_uri!r} ({MANIFEST_NAME} is missing); {remedy}") from error
    except BadFileError as error:
        raise ValueError(
            f"{MANIFEST_NAME} at {shards_uri!r} is damaged, or not a manifest of this version: {error.reason}; put it "
            f"back from a copy, or delete the folder and {remedy}"
        ) from error
    names = [f"{path}/{file.name}" for file in manifest.files]
    infos = patiently(filesystem, lambda: filesystem.get_file_info(names), uri, patience)
    broken = [file.name for file, info in zip(manifest.files, infos, strict=True) if info.size != file.bytes]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(infos)} shards at {shards_uri!r} are missing or cut short "
            f"({', '.join(broken[:10])}); delete the folder and {remedy}"
        )
    return manifest


def read_labels(shards_uri: str, file: ShardFile) -> pa.Table:
    """Read the columns `id`, `label` and `label_rank` of one shard.

    Raises DamagedError for bytes that are not those that were written.
    """
    uri = f"{absolute(shards_uri)}/{file.name}"
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_file(path) as stream:
        groups = range(len(file.checksums.others)) if file.checksums else ()
        shard = open_shard(stream, uri, file, groups, images=False)
        return shard.read(columns=["id", "label", "label_rank"])


def change_times(shards_uri: str, names: list[str]) -> list[int | None]:
    """Return when shards were last written, in nanoseconds; None where a file system does not say."""
    filesystem, path = open_filesystem(absolute(shards_uri))
    return [info.mtime_ns for info in filesystem.get_file_info([f"{path}/{name}" for name in names])]
