"""Mutations of networks, views and evaluation: (file, text as it is, text as it is changed, tests that notice)."""

from __future__ import annotations

VALUES = "tests/test_reference_values.py"
IMAGES = "tests/test_reference_images.py"

MUTANTS = [
    # Networks
    ("trainables/heads.py", "DENSE_INIT_STD = 0.01", "DENSE_INIT_STD = 0.02", "tests/test_heads.py"),
    ("trainables/heads.py", "bias=not last", "bias=True", f"tests/test_heads.py {VALUES} -k head"),
    ("trainables/networks/resnet_module.py", "zero_weight=True))", "zero_weight=False))", "tests/test_resnet.py"),
    (
        "trainables/networks/resnet_module.py",
        'F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1)',
        "F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1)",
        f"tests/test_resnet.py {VALUES}",
    ),
    (
        "trainables/networks/resnet_module.py",
        "padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True",
        "padding=1",
        f"tests/test_resnet.py {VALUES}",
    ),
    (
        "trainables/networks/resnet_module.py",
        "math.sqrt(1 / weight[0].numel())",
        "math.sqrt(2 / weight[0].numel())",
        "tests/test_resnet.py",
    ),
    (
        "trainables/networks/resnet_module.py",
        "first * weights[:, 0] + second * weights[:, 1]",
        "first * weights[:, 1] + second * weights[:, 0]",
        f"tests/test_resnet.py {VALUES}",
    ),
    (
        "trainables/networks/resnet_layers.py",
        "SK_RATIO, SK_MIN_CHANNELS = 0.0625, 32",
        "SK_RATIO, SK_MIN_CHANNELS = 0.0625, 16",
        f"{VALUES} tests/test_resnet.py",
    ),
    (
        "trainables/networks/resnet_layers.py",
        '152: ("bottleneck", (3, 8, 36, 3))',
        '152: ("bottleneck", (3, 8, 35, 3))',
        f"{VALUES} -k parameter",
    ),
    ("trainables/architecture.py", "PROJECTION_DIM = 128", "PROJECTION_DIM = 64", f"{VALUES} tests/test_heads.py"),
    # Views
    (
        "trainables/views.py",
        "_ASPECTS = (3 / 4, 4 / 3)",
        "_ASPECTS = (2 / 3, 3 / 2)",
        f"tests/test_views.py {IMAGES} -k crop",
    ),
    (
        "trainables/views.py",
        "_MIN_COVERED = 0.1 ",
        "_MIN_COVERED = 0.05 ",
        f"tests/test_views.py {IMAGES} -k 'crop or area'",
    ),
    ("trainables/views.py", "_TRIES = (8, 92)", "_TRIES = (8, 91)", "tests/test_views.py -k hundred"),
    (
        "trainables/views.py",
        "= 0.8, 0.2, 0.5  # official",
        "= 0.7, 0.2, 0.5  # official",
        "tests/test_views.py -k often",
    ),
    (
        "trainables/views.py",
        "= 0.8, 0.2, 0.5  # official",
        "= 0.8, 0.3, 0.5  # official",
        "tests/test_views.py -k often",
    ),
    (
        "trainables/views.py",
        "= 0.8, 0.2, 0.5  # official",
        "= 0.8, 0.2, 0.6  # official",
        "tests/test_views.py -k often",
    ),
    ("trainables/views.py", "_SIGMAS = (0.1, 2.0)", "_SIGMAS = (0.1, 1.8)", "tests/test_views.py -k sigmas"),
    ("trainables/views.py", "[0.8, 0.8, 0.8, 0.2]", "[0.8, 0.8, 0.4, 0.2]", "tests/test_views.py -k factors"),
    ("trainables/views.py", "draws[:, _FLIP] < 0.5", "draws[:, _FLIP] < 0.4", "tests/test_views.py -k mirrored"),
    (
        "trainables/views.py",
        "(draws[..., 2] * (heights - height)).long()",
        "(draws[..., 2] * (heights - height + 1)).long()",
        f"tests/test_views.py {IMAGES} -k crop",
    ),
    (
        "trainables/views.py",
        "        part.clamp_(0, 1)\n        if augmentation.blur",
        "        if augmentation.blur",
        "tests/test_views.py",
    ),
    (
        "trainables/views.py",
        ".clamp_(0, 1)\n    return views",
        "\n    return views",
        f"{IMAGES} tests/test_views.py -k eval",
    ),
    ("trainables/resample.py", '"tf1": -0.75, "tf2": -0.5', '"tf1": -0.5, "tf2": -0.5', f"{IMAGES} -k resize"),
    (
        "trainables/resample.py",
        "(indices + 0.5) * scales[:, None] - 0.5",
        "indices * scales[:, None]",
        "tests/test_resample.py",
    ),
    ("trainables/resample.py", "_FRACTIONS = 1024", "_FRACTIONS = 4096", f"{IMAGES} tests/test_resample.py"),
    ("trainables/resample.py", "weights = weights * (taps == inside)", "", "tests/test_resample.py"),
    ("trainables/resample.py", "* 0.875).round()", "* 0.9).round()", f"{IMAGES} -k eval"),
    (
        "trainables/resample.py",
        "(sizes - side + 1) // 2",
        "(sizes - side) // 2",
        f"{IMAGES} tests/test_resample.py tests/test_views.py -k 'eval or box'",
    ),
    (
        "trainables/resample.py",
        "return image_size // 10 // 2",
        "return image_size // 8 // 2",
        f"{IMAGES} tests/test_resample.py -k blur",
    ),
    ("trainables/resample.py", "(2 * sigmas.to(", "(3 * sigmas.to(", f"{IMAGES} tests/test_resample.py -k blur"),
    ("trainables/color.py", "(0.2989, 0.5870, 0.1140)", "(0.299, 0.587, 0.114)", "tests/test_views.py -k gray"),
    (
        "trainables/color.py",
        "images[index] = part.clamp_(0, 1)",
        "images[index] = part",
        f"{IMAGES} tests/test_views.py -k 'jitter or pixel'",
    ),
    ("trainables/randomness.py", "keys + part * _GOLDEN", "keys + part", "tests/test_randomness.py"),
    (
        "trainables/randomness.py",
        "(epochs.to(device), ids.to(device), torch.tensor(view, device=device))",
        "(epochs.to(device), ids.to(device))",
        "tests/test_randomness.py",
    ),
    # Evaluation
    (
        "trainables/metrics.py",
        "(logits != own) | (classes < labels[:, None])",
        "(logits != own)",
        "tests/test_metrics.py",
    ),
    ("trainables/metrics.py", "~(logits < own)", "(logits >= own)", "tests/test_metrics.py"),
    ("trainables/metrics.py", "min(5, logits.shape[1])", "min(4, logits.shape[1])", "tests/test_metrics.py"),
    ("trainables/knn.py", "TEMPERATURE = 0.07", "TEMPERATURE = 0.1", "tests/test_knn.py"),
    ("trainables/knn.py", "NEIGHBORS = 20", "NEIGHBORS = 19", "tests/test_knn.py"),
    ("trainables/collapse.py", 'row["step"] > warmup_steps', 'row["step"] >= 0', "tests/test_collapse.py"),
    ("trainables/collapse.py", "PATIENCE = 3", "PATIENCE = 2", "tests/test_collapse.py"),
    (
        "trainables/evaluation.py",
        "module.eval()\n",
        "",
        "tests/test_evaluation.py tests/test_stages.py -k 'evaluat or inference'",
    ),
    (
        "trainables/features.py",
        'seen.check(f"the features of',
        '(lambda *_: None)(f"the features of',
        "tests/test_protocol.py -k features",
    ),
    (
        "trainables/views.py",
        "auto_augment(_levels(part), seeds[rows], policy)",
        'auto_augment(_levels(part), seeds[rows], "cifar10")',
        "tests/test_views.py -k each_policy",
    ),
]
