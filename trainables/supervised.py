"""Stage `supervised`: the baseline, encoder and linear classifier from scratch on the labelled images."""

from __future__ import annotations

from typing import assert_never

from trainables.classifier import Classifier, ModelSpec
from trainables.context import Context
from trainables.finetune import train_supervised
from trainables.networks.architecture import Architecture
from trainables.norm import set_moving_variance
from trainables.spec import DistillSettings, SupervisedSettings
from trainables.stage import Assignment, Outcome


def build(
    architecture: Architecture, image_size: int, classes: int, settings: SupervisedSettings | DistillSettings
) -> Classifier:
    """A randomly initialized encoder with a linear classifier: what this stage and distillation train.

    In distillation LARS scales the steps of the classifier's weights, too (official notebook).
    """
    classifier = Classifier(ModelSpec(architecture.name, image_size, classes, 0, 0))
    if isinstance(settings, DistillSettings):
        classifier.classifier.trust_ratio = True
    elif not isinstance(settings, SupervisedSettings):
        assert_never(settings)
    set_moving_variance(classifier, settings.moving_variance)
    return classifier


def run(assignment: Assignment, context: Context) -> Outcome:
    """Train from a random initialization on the labelled images, with label smoothing if the settings ask for it."""
    settings = assignment.settings
    assert isinstance(settings, SupervisedSettings)
    classifier = build(assignment.architecture, assignment.image_size, assignment.classes, settings)
    return train_supervised(assignment, settings, classifier, settings.label_smoothing, context)
