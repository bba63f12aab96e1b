"""Shards and pretrained models that several test modules read, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from digit_shards import digits, write
from trials import run


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """200 training digits of which 140 are labelled, and 270 test digits."""
    return write(digits(), tmp_path_factory.mktemp("digits") / "shards")


@pytest.fixture(scope="session")
def parents(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model of the stage `pretrain` and one of `finetune`, which descends from it."""
    folder = tmp_path_factory.mktemp("parents")
    run("pretrain", shards, folder / "pretrain", folder)
    run("finetune", shards, folder / "finetune", folder)
    return folder
