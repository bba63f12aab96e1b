"""Shards, pretrained models and an object store that several test modules use, made once.

Imports are within the fixtures: tests of plans and reports do without torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from reports.tables import trials

if TYPE_CHECKING:
    from object_store import ObjectStore


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """200 training digits of which 140 are labelled, and 270 test digits."""
    from digit_shards import digits, write

    return write(digits(), tmp_path_factory.mktemp("digits") / "shards")


@pytest.fixture(scope="session")
def parents(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model of the stage `pretrain` and one of `finetune`, which descends from it."""
    from trials import run

    folder = tmp_path_factory.mktemp("parents")
    run("pretrain", shards, folder / "pretrain", folder)
    run("finetune", shards, folder / "finetune", folder)
    return folder


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which launches make theirs: its path is short, as Ray's sockets need it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    """The tidy table of a study like the demo."""
    from drawn import RECORDS

    return trials(RECORDS)


@pytest.fixture(scope="session")
def ablations() -> pd.DataFrame:
    """The tidy table of a study with every ablation."""
    from drawn import ABLATIONS

    return trials(ABLATIONS)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    """An object store with the buckets of all tests of a module."""
    from object_store import running_store

    with running_store() as running:
        yield running


@pytest.fixture
def store(server: ObjectStore) -> Iterator[ObjectStore]:
    """The module's object store, without the requests and the fault of the test before."""
    server.requests.clear()
    yield server
    server.fault = None
