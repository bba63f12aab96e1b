"""Where images come from: `open_source` lists a source's images and labels without decoding any of them."""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.filesystem import list_files
from datasets.folder import folder_signature, open_folder
from datasets.images import EncodedImages, Rows, Source
from datasets.parquet import open_parquet, parquet_signature, split_names
from datasets.schema import BUILT_IN_NAMES, MANIFEST_NAME
from datasets.splits import balanced_subset
from datasets.urls import absolute, is_local
from datasets.writer import shard_name

CACHE = Path("~/.cache/labelscale")


def open_source(source: str, *, train_limit: int | None = None, test_limit: int | None = None) -> Source:
    """List the images and labels of a source: `digits`, `cifar10`, an image folder, or a folder of Parquet files.

    `train_limit`, `test_limit`: keep a class-balanced, deterministic subset of that many images. Ids and the signature
    are those of the whole source. See `folder.open_folder` and `parquet.open_parquet` for the layouts. Raises
    ValueError for an unknown source, a missing path, a folder of shards, and whatever is wrong with its layout.
    """
    opened = _open(source)
    if train_limit is not None:
        opened = replace(opened, train=opened.train.take(balanced_subset(opened.train.labels, train_limit)))
    if test_limit is not None:
        opened = replace(opened, test=opened.test.take(balanced_subset(opened.test.labels, test_limit)))
    return opened


def source_signature(source: str) -> str:
    """Return a string that changes when the source does, from names, sizes and row counts only.

    Raises ValueError for an unknown source, a missing path or a folder of shards.
    """
    if source in BUILT_IN_NAMES:
        return BUILT_IN[source][0]
    uri, files = _list(source)
    if not _is_parquet(files):
        return folder_signature(list_files(uri, recursive=True)[0])
    train, tests = split_names(files, source)
    return parquet_signature(uri, [*train, *(name for names in tests for name in names)], files)


def _open(source: str) -> Source:
    if source in BUILT_IN_NAMES:
        return BUILT_IN[source][1](source)
    uri, files = _list(source)
    return open_parquet(source, uri, files) if _is_parquet(files) else open_folder(source, uri)


def _list(source: str) -> tuple[str, dict[str, int]]:
    """Return the absolute URI of a folder and the files directly in it."""
    uri = absolute(source)
    if is_local(uri) and not Path(uri).is_dir():
        kinds = f"expected {', '.join(BUILT_IN_NAMES)}, an image folder or a folder of Parquet files"
        if Path(uri).exists():
            raise ValueError(f"{source!r} is a file; {kinds}")
        if "/" not in source and (close := difflib.get_close_matches(source, BUILT_IN_NAMES, n=1)):
            raise ValueError(f"unknown source {source!r}; did you mean {close[0]!r}? {kinds.capitalize()}")
        beside = [path.name for path in Path(uri).parent.iterdir()] if Path(uri).parent.is_dir() else []
        close = difflib.get_close_matches(Path(uri).name, beside, n=1)
        hint = f"; did you mean {str(Path(source).parent / close[0])!r}?" if close else ""
        raise ValueError(f"there is no folder {source!r}; {kinds}{hint}")
    files = list_files(uri, recursive=False)[0]
    if MANIFEST_NAME in files and shard_name("train", 0) in files:
        raise ValueError(
            f"{source!r} already holds shards, which cannot be sharded again; use the folder as it is as `data.source`"
        )
    return uri, files


def _is_parquet(files: dict[str, int]) -> bool:
    return any(name.endswith(".parquet") for name in files)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 (H, W) or (H, W, 3) losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _open_digits(source: str) -> Source:
    """scikit-learn's 1,797 scanned digits, 8x8, values 0 to 16 made 0 to 255; every fifth image is a test image."""
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    ids = np.arange(len(pixels))
    is_test = ids % 5 == 4
    labels = digits.target.astype(np.int32)
    return Source(
        name=source,
        signature=BUILT_IN[source][0],
        classes=tuple(str(digit) for digit in range(10)),
        train=Rows(ids[~is_test], labels[~is_test]),
        test=Rows(ids[is_test], labels[is_test]),
        images=EncodedImages([f"digit {number}" for number in ids], [encode_png(image) for image in pixels]),
    )


def _open_cifar10(source: str) -> Source:
    """CIFAR-10's 50,000 training and 10,000 test images, 32x32, downloaded by torchvision into `CACHE` on first use."""
    from torchvision.datasets import CIFAR10  # here, because only this source needs it

    cache = CACHE.expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        train, test = (CIFAR10(cache, train=is_train, download=True) for is_train in (True, False))
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a broken archive is a RuntimeError
        raise ValueError(
            f"cannot download CIFAR-10 into {cache}: {error}; connect to the network once, "
            "or give a folder that holds its images"
        ) from error
    labels = np.array([*train.targets, *test.targets], np.int32)
    ids = np.arange(len(labels))
    count = len(train.targets)
    names = [f"train image {number}" for number in range(count)] + [
        f"test image {number}" for number in ids[count:] - count
    ]
    return Source(
        name=source,
        signature=BUILT_IN[source][0],
        classes=tuple(train.classes),
        train=Rows(ids[:count], labels[:count]),
        test=Rows(ids[count:], labels[count:]),
        images=EncodedImages(names, [encode_png(image) for data in (train.data, test.data) for image in data]),
    )


BUILT_IN: dict[str, tuple[str, Callable[[str], Source]]] = {
    "digits": ("digits-1", _open_digits),
    "cifar10": ("cifar10-1", _open_cifar10),
}
"""Name -> signature, and the function that lists it."""

assert tuple(BUILT_IN) == BUILT_IN_NAMES
