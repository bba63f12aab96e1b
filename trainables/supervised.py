"""Stage `supervised`: the baseline, encoder and linear classifier from scratch on the labelled images."""

from __future__ import annotations

from trainables.classifier import Classifier, ModelSpec
from trainables.context import Context
from trainables.finetune import train_supervised
from trainables.spec import SupervisedSettings
from trainables.stage import Assignment, Outcome


def run(assignment: Assignment, context: Context) -> Outcome:
    """Train from a random initialization on the labelled images, with label smoothing if the settings ask for it."""
    settings = assignment.settings
    assert isinstance(settings, SupervisedSettings)
    spec = ModelSpec(assignment.architecture.name, assignment.image_size, assignment.classes, 0, 0)
    return train_supervised(assignment, settings, Classifier(spec), settings.label_smoothing, context)
