"""Small studies for tests, as plain mappings."""

from __future__ import annotations

from typing import Any

from study.config import Study
from study.load import parse_study


def tiny(**changes: Any) -> dict[str, Any]:
    """A study of every stage on the digits, seconds long; keyword arguments replace top-level keys."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_scaling": "linear"}
    plain: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "name": "digits-tiny",
            "source": "digits",
            "image_size": 8,
            "train_images": 1438,
            "classes": 10,
            "train_limit": 200,
            "test_limit": 100,
        },
        "grid": {"architecture": ["r10w0.0625"], "label_fraction": [0.1], "head_layer": [1], "temperature": [0.1]},
        "stages": {
            "pretrain": {
                "augmentation": {"flip": False, "color_strength": 0.0, "blur": False},
                "optimization": {"learning_rate": 0.3, "global_batch_size": 100, "epochs": 2},
            },
            "linear": {"optimization": {**sgd, "global_batch_size": 20, "epochs": 2}},
            "finetune": {"optimization": {"learning_rate": 0.02, "global_batch_size": 20, "epochs": 2}},
            "supervised": {"optimization": {**sgd, "global_batch_size": 20, "epochs": 2}},
            "distill": {"optimization": {"learning_rate": 0.1, "global_batch_size": 100, "epochs": 2}},
        },
        "execution": {"workers": 1, "per_worker": {"CPU": 1}},
    }
    return {**plain, **changes}


def tiny_study(**changes: Any) -> Study:
    return parse_study(tiny(**changes))
