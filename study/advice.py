"""What a study cannot tell as it stands: said before anything is paid for, and not refused."""

from __future__ import annotations

import re
from collections.abc import Iterator

from study.config import Study

SAVING = re.compile(r"\b(?:save|saves|saved|saving)\b", re.IGNORECASE)


def warnings_of(study: Study) -> Iterator[str]:
    """One sentence for each stage that the study's question needs and no grid runs."""
    named = set(study.stages.named())
    run = {stage for grid in study.grid for stage in (named if grid.stages is None else grid.stages)}
    fractions = {value for grid in study.grid for value in grid.axes["label_fraction"]}
    asks_for_saving = not study.question.strip() or SAVING.search(study.question) is not None
    if run == {"pretrain"}:
        yield "only `pretrain` is run: no classifier is trained on its features; add the stage linear or finetune"
    elif run == {"supervised"}:
        yield "only `supervised` is run: there is nothing to compare it with; add the stages pretrain and finetune"
    elif asks_for_saving and "supervised" not in run:
        yield "no grid runs `supervised`: how many labels pretraining saves cannot be told; add that stage"
    elif asks_for_saving and len(fractions) == 1:
        yield "there is one label_fraction: how many labels are saved cannot be told; take two or more"
