"""Mutations of the stages' training: (file, text as it is, text as it is changed, tests that notice)."""

from __future__ import annotations

VALUES = "tests/test_reference_values.py"
SETTINGS = "tests/test_settings.py"
SEEDS = "tests/test_seeds.py"
KEYS = """        with autocast(optimization, context.device):
            keys = module.memory.keys(views, settings.micro_batches)
"""

MUTANTS = [
    # What passed unnoticed once
    (
        "trainables/stage.py",
        "batch.epochs,\n",
        "batch.epochs * 0,\n",
        f"{SETTINGS}::test_every_epoch_has_other_views_of_the_same_images",
    ),
    (
        "trainables/pretrain.py",
        "micro_batches=settings.micro_batches,",
        "micro_batches=1,",
        f"{SETTINGS} -k pretrain-micro_batches",
    ),
    (
        "trainables/finetune.py",
        "micro_batches=settings.micro_batches,",
        "micro_batches=1,",
        f"{SETTINGS} -k finetune-micro_batches",
    ),
    (
        "trainables/distill.py",
        "micro_batches=settings.micro_batches,",
        "micro_batches=1,",
        f"{SETTINGS} -k distill-micro_batches",
    ),
    ("trainables/stage.py", "dtype,\n                    resize=self.resize,", "dtype,", f"{SETTINGS} -k resize"),
    (
        "trainables/stage.py",
        "self.image_size, dtype, resize=self.resize)",
        "self.image_size, dtype)",
        f"{SETTINGS} -k resize",
    ),
    (
        "trainables/finetune.py",
        "assignment.views(1, settings.augmentation,",
        "assignment.views(1, type(settings.augmentation)(),",
        f"{SETTINGS} -k finetune-augmentation",
    ),
    (
        "trainables/distill.py",
        "assignment.views(1, settings.augmentation,",
        "assignment.views(1, type(settings.augmentation)(),",
        f"{SETTINGS} -k distill-augmentation",
    ),
    (
        "trainables/optimizer.py",
        "LARS(groups, lr=0.0, momentum=momentum)",
        "LARS(groups, lr=0.0)",
        f"{SETTINGS} -k momentum",
    ),
    (
        "trainables/views.py",
        "view, sizes, augmentation.crop_min_area)",
        "view, sizes, 0.08)",
        f"{SETTINGS} -k crop_min_area",
    ),
    (
        "trainables/pretrain.py",
        "        module.memory.follow(module.encoder, module.head)\n" + KEYS,
        KEYS + "        module.memory.follow(module.encoder, module.head)\n",
        f"{SETTINGS}::test_the_momentum_encoder_follows_before_it_makes_the_keys_of_a_step",
    ),
    # Settings that a stage reads
    (
        "trainables/pretrain.py",
        "set_moving_variance(self, settings.moving_variance)",
        "set_moving_variance(self, 'biased')",
        f"{SETTINGS} -k pretrain-moving_variance",
    ),
    (
        "trainables/finetune.py",
        "set_moving_variance(classifier, settings.moving_variance)",
        "set_moving_variance(classifier, 'biased')",
        f"{SETTINGS} -k finetune-moving_variance",
    ),
    (
        "trainables/supervised.py",
        "set_moving_variance(classifier, settings.moving_variance)",
        "set_moving_variance(classifier, 'biased')",
        f"{SETTINGS} -k moving_variance",
    ),
    (
        "trainables/pretrain.py",
        "self.temperature = settings.temperature",
        "self.temperature = 0.1",
        f"{SETTINGS} -k pretrain-temperature",
    ),
    (
        "trainables/supervised.py",
        "classifier, settings.label_smoothing, context)",
        "classifier, 0.0, context)",
        f"{SETTINGS} -k label_smoothing",
    ),
    (
        "trainables/distill.py",
        "        settings.scale_by_temperature_squared,\n",
        "        False,\n",
        f"{SETTINGS} -k scale_by_temperature_squared",
    ),
    (
        "trainables/distill.py",
        "        settings.distillation_weight,\n",
        "        0.5,\n",
        f"{SETTINGS} -k distillation_weight",
    ),
    (
        "trainables/distill.py",
        "            rows = labelled\n",
        "            rows = assignment.manifest.train_images\n",
        f"{SETTINGS} -k distill-images",
    ),
    (
        "trainables/distill.py",
        "labels = labels.masked_fill(hidden.to(context.device), UNLABELLED)",
        "",
        "tests/test_stages.py -k labels_outside",
    ),
    (
        "trainables/finetune.py",
        "requires_grad_(trains_head(settings))",
        "requires_grad_(True)",
        f"{SETTINGS} -k kept_head",
    ),
    (
        "trainables/loop.py",
        "    set_rate(optimizer, rate)\n",
        "    set_rate(optimizer, optimization.learning_rate)\n",
        "tests/test_loop.py -k numpy",
    ),
    (
        "trainables/optimizer.py",
        "nesterov=momentum > 0",
        "nesterov=False",
        "tests/test_loop.py tests/test_stages.py -k 'numpy or plain or sgd'",
    ),
    # Batch norm
    ("trainables/norm.py", "EPSILON = 1e-5", "EPSILON = 1e-4", f"{VALUES} -k batch_norm"),
    ("trainables/norm.py", "MOMENTUM = 0.9", "MOMENTUM = 0.99", f"{VALUES} -k batch_norm"),
    (
        "trainables/norm.py",
        "variance * (count / (others",
        "variance * ((count + 1) / (others",
        "tests/test_norm.py -k unbiased",
    ),
    (
        "trainables/norm.py",
        "dweight, dbias = of_rank.to(weight.dtype)",
        "dweight, dbias = sums.to(weight.dtype)",
        "tests/test_norm.py -k ranks",
    ),
    ("trainables/norm.py", "sums = sum_over_ranks(of_rank)", "sums = of_rank", "tests/test_norm.py -k ranks"),
    (
        "trainables/norm.py",
        "offset = -scale * sums[1] / count - slope * mean",
        "offset = -slope * mean",
        "tests/test_norm.py -k exact",
    ),
    ("trainables/norm.py", "(variances + (means - global_mean) ** 2)", "variances", "tests/test_norm.py -k ranks"),
    ("trainables/moments.py", "RUN = 128", "RUN = 2**20", "tests/test_norm.py -k exact_for_any"),
    (
        "trainables/moments.py",
        "(of_runs - mean).square_()",
        "(of_runs - of_runs).square_()",
        "tests/test_norm.py -k exact",
    ),
    # LARS and the schedule
    ("trainables/lars.py", "TRUST_COEFFICIENT = 0.001", "TRUST_COEFFICIENT = 0.002", f"{VALUES} -k lars"),
    (
        "trainables/lars.py",
        "(weight_norms > 0) & (gradient_norms > 0)",
        "gradient_norms > 0",
        "tests/test_lars.py -k five_steps",
    ),
    ("trainables/lars.py", 'alpha=group["weight_decay"]', "alpha=0.0", "tests/test_lars.py -k five_steps"),
    (
        "trainables/lars.py",
        'torch._foreach_mul_(velocities, group["momentum"])',
        'torch._foreach_mul_(velocities, 0.9 * group["momentum"])',
        "tests/test_lars.py -k five_steps",
    ),
    ("trainables/lars.py", "numbers, dtype=torch.float64)", "numbers)", "tests/test_lars.py -k norms"),
    (
        "trainables/treatment.py",
        'BIAS = Treatment("biases", decayed=False',
        'BIAS = Treatment("biases", decayed=True',
        "tests/test_lars.py -k 'groups or decays'",
    ),
    (
        "trainables/heads.py",
        'Treatment("kernels", decayed=True',
        'Treatment("kernels", decayed=False',
        "tests/test_lars.py -k groups",
    ),
    (
        "trainables/supervised.py",
        "trust_ratio = True",
        "trust_ratio = False",
        "tests/test_stages.py -k fixed_teacher",
    ),
    ("trainables/schedule.py", "// global_batch_size + 1", "// global_batch_size", VALUES + " -k learning_rates"),
    (
        "trainables/schedule.py",
        "round(warmup_epochs * rows // global_batch_size)",
        "round(warmup_epochs * (rows // global_batch_size))",
        VALUES + " -k learning_rates",
    ),
    ("trainables/schedule.py", '"linear": batch / 256', '"linear": batch / 512', VALUES + " -k learning_rates"),
    ("trainables/schedule.py", "math.sqrt(batch)", "batch", VALUES + " -k learning_rates"),
    (
        "trainables/schedule.py",
        "return step / warmup * peak",
        "return (step + 1) / warmup * peak",
        VALUES + " -k learning_rates",
    ),
    (
        "trainables/schedule.py",
        "math.cos(math.pi * progress)",
        "math.cos(0.99 * math.pi * progress)",
        VALUES + " -k learning_rates",
    ),
    # Losses
    ("trainables/losses.py", "logits[index, own[start : start + size]] = -torch.inf", "", "tests/test_losses.py"),
    ("trainables/losses.py", "(block / temperature) @ candidates.T", "block @ candidates.T", "tests/test_losses.py"),
    (
        "trainables/losses.py",
        "probabilities[index, target] -= 1 ",
        "probabilities[index, target] -= 0.9 ",
        "tests/test_losses.py",
    ),
    ("trainables/losses.py", "return loss / n, accuracy", "return loss / (2 * n), accuracy", "tests/test_losses.py"),
    ("trainables/losses.py", "clamp_min(1e-12).rsqrt()", "clamp_min(1e-2).rsqrt()", "tests/test_losses.py"),
    (
        "trainables/losses.py",
        "torch.arange(n, device=rows.device) + rank() * n",
        "torch.arange(n, device=rows.device)",
        "tests/test_losses.py -k 'ranks or one_process'",
    ),
    (
        "trainables/losses.py",
        "total * world_size() / sum_over_ranks(",
        "total / sum_over_ranks(",
        "tests/test_losses.py tests/test_stage_losses.py -k 'rank or process'",
    ),
    # The memory
    ("trainables/memory.py", "1 - self.settings.decay", "self.settings.decay", f"{SETTINGS} -k momentum_encoder"),
    ("trainables/memory.py", "self.network.eval()", "self.network.train()", f"{SETTINGS} -k key_batch_norm"),
    ("trainables/memory.py", "views = 1\n", "views = 2\n", f"{SETTINGS} -k enqueue"),
    (
        "trainables/memory.py",
        "                return None\n",
        "                return keys\n",
        f"{SETTINGS} -k batch_keys",
    ),
    ("trainables/memory.py", "kept = new[-size:]", "kept = new[:size]", "tests/test_memory.py"),
    ("trainables/memory.py", "return self.queue[: self._written]", "return self.queue", "tests/test_memory.py"),
    (
        "trainables/memory.py",
        "ours.copy_(buffer)",
        "ours.lerp_(buffer, 0.5) if buffer.is_floating_point() else None",
        "tests/test_memory.py",
    ),
    # Micro-batches
    ("trainables/micro_batches.py", "MOMENTUM ** (1 / parts)", "MOMENTUM", "tests/test_micro_batches.py"),
    (
        "trainables/micro_batches.py",
        "with torch.no_grad(), moving_share(module, 1.0):",
        "with torch.no_grad():",
        "tests/test_micro_batches.py",
    ),
    (
        "trainables/micro_batches.py",
        "torch.stack(tuple(pieces), 1).flatten(0, 1)",
        "torch.cat(tuple(pieces))",
        "tests/test_micro_batches.py",
    ),
    # What a trial's seed decides, and what is in half width
    ("trainables/stage.py", "                    self.seed,\n", "                    0,\n", f"{SEEDS} -k views"),
    ("trainables/stage.py", "seed=self.seed,", "seed=0,", f"{SEEDS} -k order_of_images"),
    ("trainables/stages.py", "torch.manual_seed(assignment.seed)", "torch.manual_seed(0)", f"{SEEDS} -k initial"),
    ("trainables/linear.py", "Share(trained, assignment.seed,", "Share(trained, 0,", f"{SEEDS} -k features"),
    (
        "trainables/distill.py",
        "with torch.no_grad(), autocast(optimization, context.device):",
        "with torch.no_grad():",
        "tests/test_loop.py -k 'half_width and teacher'",
    ),
    (
        "trainables/pretrain.py",
        KEYS,
        KEYS.replace("autocast(optimization, context.device)", "torch.no_grad()"),
        "tests/test_loop.py -k 'half_width and momentum'",
    ),
    (
        "trainables/pretrain.py",
        "module.memory.keys(views, settings.micro_batches)",
        "module.memory.keys(views, 1)",
        "tests/test_loop.py -k momentum_encoder_sees",
    ),
    (
        "study/recording.py",
        "outcome.progress.earlier_layouts or None",
        "None",
        "tests/test_job.py -k earlier_sessions",
    ),
    (
        "study/recording.py",
        "outcome.progress.layout[1]",
        "outcome.progress.layout[0]",
        "tests/test_job.py -k earlier_sessions",
    ),
]
