"""Ranges of the numbers that a study may have: wide enough for any training, and small enough for all that computes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MOST_SEED = 2**63 - 1  # seeds are torch's 64-bit integers with a sign
MOST_BATCH = 10_000_000
MOST_EPOCHS = 1_000_000
MOST_IMAGES = 10_000_000_000
MOST_CLASSES = 1_000_000
MOST_PIXELS = 4_096  # of an image's side
LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1_000.0
LEAST_RATE, MOST_RATE = 1e-12, 1_000_000.0
MOST_HOURS = 1e9
MOST_AT_ONCE = 100_000  # workers, trials, nodes

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
BatchSize = Annotated[int, Field(ge=1, le=MOST_BATCH)]
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
ImageCount = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
Temperature = Annotated[float, Field(ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)]
LearningRate = Annotated[float, Field(ge=LEAST_RATE, le=MOST_RATE)]
Penalty = Annotated[float, Field(ge=0, le=MOST_RATE)]
AtOnce = Annotated[int, Field(ge=1, le=MOST_AT_ONCE)]
Folds = Annotated[int, Field(ge=2, le=1_000)]
LabelFraction = Annotated[float, Field(gt=0, le=1)]
Hours = Annotated[float, Field(gt=0, le=MOST_HOURS)]
