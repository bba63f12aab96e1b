"""Images, Parquet files and URLs that come from anywhere, and bits that rot in our own files."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import damage
from datasets.urls import absolute, is_local, split_name
from fuzz import mutate
from fuzz.inputs import Attack
from reports.storage import Storage


def images(folder: Path) -> Attack:
    """Damaged images are examined where a crash is survived; one that passes is then decoded here, as trainings do."""
    from datasets.decode import decode_examined
    from datasets.examine import CRASHED, examined

    pictures = [(name, damage.encoded(name)) for name in damage.FORMATS]

    def attack(draw: random.Random) -> str:
        name, whole = draw.choice(pictures)
        data = damage.damaged(whole, draw.choice(damage.KINDS), draw)
        if name.startswith("png") and draw.random() < 0.5:
            data = damage.with_right_checksums(data)
        (folder / "input.bin").write_bytes(data)
        [found] = examined([data])
        if found.error:
            return "survived" if found.error.startswith(CRASHED) else "refused"
        shape = tuple(decode_examined(data).shape)
        assert shape == (3, found.height, found.width), f"{shape}, examined {found}"
        return "read"

    return attack


def urls(folder: Path) -> Attack:
    """Names of storages and sources with any characters: the name of a name is itself, and leads nowhere else."""
    words = (*mutate.WORDS, "%2F", "?a=b", "#x", "@", "//", "/../", "%", ":", "\ud800")
    valid = [
        "s3://bucket/runs",
        "gs://bucket/x",
        "abfs://c@account/x",
        "file:///tmp/x",
        "/tmp/a%20b",
        "./runs",
        "~/x",
        "hdfs://h:1/x",
    ]

    def attack(draw: random.Random) -> str:
        url = mutate.text(draw, draw.choice(valid), words)
        (folder / "input.txt").write_bytes(url.encode("utf-8", "replace"))
        name = absolute(url)
        assert absolute(name) == name, f"the name of {name!r} is {absolute(name)!r}"
        if is_local(name):
            assert Storage(name).root == name, f"the storage of {name!r} is {Storage(name).root!r}"
        else:
            split_name(name)
        return "read"

    return attack


def flips(folder: Path) -> Callable[[random.Random], Counter[str]]:
    """Flipped bits in weights and checkpoints (and shards): each is refused, or changes nothing of what is read."""
    from flips import flip_bits

    done = 0

    def attack(draw: random.Random) -> Counter[str]:
        nonlocal done
        done += 1
        counts: Counter[str] = Counter()
        for kind, found in flip_bits(draw.randrange(2**32), 50, folder / f"flips-{done}").items():
            for outcome, count in found.items():
                counts[outcome if outcome in ("refused", "harmless") else f"{outcome} in {kind}"] += count
        return counts

    return attack


def manifests(folder: Path) -> Attack:
    """The manifest beside shards is changed: one without a checksum, as older ones are, or with one. Readers use it."""
    from datasets.blocks import row_groups
    from datasets.manifest import read_manifest
    from datasets.schema import MANIFEST_NAME
    from datasets.splits import labelled_rows, subset_hash
    from digit_shards import digits, write

    shards = Path(write(digits(), folder / "shards"))
    path = shards / MANIFEST_NAME
    sealed = path.read_bytes()
    older = {key: value for key, value in json.loads(sealed).items() if key != "sha256"}

    def attack(draw: random.Random) -> str:
        path.write_bytes(mutate.as_json(draw, older) if draw.random() < 0.8 else mutate.raw(draw, sealed))
        manifest = read_manifest(str(shards))
        assert row_groups(str(shards), manifest, "train") and manifest.mean_image_bytes > 0
        assert labelled_rows(str(shards), manifest, 0.5) and subset_hash(str(shards), manifest, 0.5)
        return "read"

    return attack


def parquet(folder: Path) -> Attack:
    """A folder of Parquet files is opened as a source, one of them damaged, or with odd metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from datasets.parquet import ParquetImages
    from datasets.parquet_file import CRASHED, read_images
    from datasets.sources import open_source

    source = folder / "source"
    source.mkdir()
    pictures = [damage.encoded("png")] * 12
    table = pa.table({"image": pictures, "label": [number % 2 for number in range(12)]})
    features = {
        "info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}}
    }

    def written(metadata: bytes) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), buffer, row_group_size=5)
        return buffer.getvalue()

    valid = written(json.dumps(features).encode())
    for split in ("train", "test"):
        (source / f"{split}.parquet").write_bytes(valid)

    def attack(draw: random.Random) -> str:
        path = source / f"{draw.choice(('train', 'test'))}.parquet"
        odd = draw.random() < 0.3
        path.write_bytes(written(mutate.as_json(draw, features)) if odd else mutate.raw(draw, valid))
        try:
            opened = open_source(str(source)).images
            assert isinstance(opened, ParquetImages)
            for name, group, _, rows in opened.groups:
                assert sum(len(images) for images in read_images(str(source), name, group)) == rows
        except ValueError as error:
            if CRASHED in str(error):
                return "survived"
            raise
        finally:
            (folder / "input.parquet").write_bytes(path.read_bytes())
            path.write_bytes(valid)
        return "read"

    return attack
