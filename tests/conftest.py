"""Shards and pretrained models that several test modules read, made once.

Imports are within the fixtures: tests of plans and reports do without torch.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from reports.tables import trials


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
