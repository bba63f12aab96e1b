"""Image folders in ImageNet's layout."""

from __future__ import annotations

import difflib
import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Dataset

from datasets.filesystem import list_files
from datasets.images import Rows, Source
from datasets.splits import held_out_tenth

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
TEST_FOLDERS = ("test", "val")
UNLABELLED = "unlabelled"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderImages:
    """Image files below `uri`; `paths[i]` (relative) and `sizes[i]` (bytes) belong to id i."""

    uri: str
    paths: list[str]
    sizes: NDArray[np.int64]

    def mean_bytes(self, ids: NDArray[np.int64]) -> float:
        """See `images.Images`."""
        return float(self.sizes[ids].mean())

    def blocks(self, ids: NDArray[np.int64], rows_per_block: int) -> Dataset:
        """See `images.Images`."""
        tables = []
        for start in range(0, len(ids), rows_per_block):
            names = [self.paths[index] for index in ids[start : start + rows_per_block]]
            paths = [f"{self.uri}/{name}" for name in names]
            tables.append(pa.table({"position": np.arange(start, start + len(names)), "name": names, "path": paths}))
        return ray.data.from_arrow(tables)


def folder_signature(files: dict[str, int]) -> str:
    """Return a sha256 over the sorted relative paths and sizes of the image files."""
    listing = "".join(f"{name}\0{files[name]}\n" for name in sorted(files) if is_image(name))
    return "folder-" + hashlib.sha256(listing.encode()).hexdigest()


def is_image(name: str) -> bool:
    """Return whether a relative path is listed as an image: by its suffix, and nothing of it hidden."""
    base = name.rsplit("/", 1)[-1]
    return not _is_hidden(name) and "." in base and "." + base.rsplit(".", 1)[-1].lower() in SUFFIXES


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def open_folder(source: str, uri: str) -> Source:
    """List an image folder.

    Either `train/CLASS/...` with `test/CLASS/...` or `val/CLASS/...` (`test` wins where both exist), or class folders
    directly. Images directly or deeper below `unlabelled/` are training images without label. Without test images a
    tenth of every class is held out, and a message says so. Files whose suffix is not an image's, hidden files and
    whatever lies in hidden folders are passed over.

    Raises ValueError for a folder without images, empty class folders, images outside class folders, unknown folders
    beside `train`, and classes in the test images that the training images lack.
    """
    files, folders = list_files(uri, recursive=True)
    images = {name: size for name, size in files.items() if is_image(name)}
    if not images:
        raise ValueError(f"found no images ({', '.join(sorted(SUFFIXES))}) in {source!r}")
    folders = [name for name in folders if not _is_hidden(name)]
    top = {name for name in folders if "/" not in name}
    if "train" in top:
        _check_top(source, top)
        test_folder = next((name for name in TEST_FOLDERS if name in top), None)
        train = _class_folder(source, "train/", images, folders)
        test = _class_folder(source, f"{test_folder}/", images, folders) if test_folder else {}
    else:
        test_folder, test = None, {}
        labelled_folders = [name for name in folders if name.split("/")[0] != UNLABELLED]
        labelled_images = {name: size for name, size in images.items() if not name.startswith(f"{UNLABELLED}/")}
        train = _class_folder(source, "", labelled_images, labelled_folders)
    unlabelled = [name for name in images if name.startswith(f"{UNLABELLED}/")]
    classes = tuple(sorted(set(train.values())))
    _check_classes(source, classes, test)

    paths = [*train, *unlabelled, *test]
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array(
        [index[name] for name in train.values()] + [-1] * len(unlabelled) + [index[name] for name in test.values()],
        np.int32,
    )
    is_test = np.arange(len(paths)) >= len(train) + len(unlabelled)
    if test_folder is None:
        is_test[: len(train)] = held_out_tenth(labels[: len(train)], list(classes))
        logger.warning(
            "%s has no folder `test` or `val`: %d of %d labelled images, a tenth of each class, are its test images",
            source,
            is_test.sum(),
            len(train),
        )
    ids = np.arange(len(paths))
    sizes = np.array([images[name] for name in paths], np.int64)
    return Source(
        name=source,
        signature=folder_signature(files),
        classes=classes,
        train=Rows(ids[~is_test], labels[~is_test]),
        test=Rows(ids[is_test], labels[is_test]),
        images=FolderImages(uri, paths, sizes),
    )


def _check_top(source: str, top: set[str]) -> None:
    known = ["train", *TEST_FOLDERS, UNLABELLED]
    for name in sorted(top - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "; move it elsewhere"
        raise ValueError(
            f"found a folder {name!r} beside `train` in {source!r}; expected only {', '.join(known)}{hint}"
        )


def _class_folder(source: str, prefix: str, images: dict[str, int], folders: list[str]) -> dict[str, str]:
    """Return relative path -> class name, sorted by path, of the images in the class folders below `prefix`."""
    below = [name for name in images if name.startswith(prefix)]
    if loose := [name for name in below if "/" not in name[len(prefix) :]]:
        raise ValueError(
            f"{len(loose)} images in {source!r} lie outside a class folder ({', '.join(loose[:10])}); expected "
            f"{prefix}CLASS/NAME.jpg; images without label belong in {UNLABELLED}/"
        )
    found = {name: name[len(prefix) :].split("/")[0] for name in below}
    expected = {name[len(prefix) :].split("/")[0] for name in folders if name.startswith(prefix)}
    if empty := sorted(expected - set(found.values())):
        raise ValueError(
            f"{len(empty)} class folders in {source!r} hold no image "
            f"({', '.join(prefix + name for name in empty[:10])}); add images or delete the folders"
        )
    if not found:
        raise ValueError(f"found no class folder in {source + '/' + prefix!r}; expected {prefix}CLASS/NAME.jpg")
    return found


def _check_classes(source: str, classes: tuple[str, ...], test: dict[str, str]) -> None:
    for name in sorted(set(test.values()) - set(classes)):
        close = difflib.get_close_matches(name, classes, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"the test images of {source!r} have a class {name!r} that the training images lack{hint}")
