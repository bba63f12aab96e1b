"""Mutations of the data's side and of the study: (file, text as it is, text as it is changed, tests that notice)."""

from __future__ import annotations

SPLITS, STREAM = "tests/test_splits.py", "tests/test_stream.py"
SCHEDULE, BUDGET = "tests/test_graph_searcher.py tests/test_simulate.py", "tests/test_budget.py"

MUTANTS = [
    # Label fractions and held-out images
    (
        "datasets/splits.py",
        "np.nextafter(np.arange(1, len(order) + 1) / max(1, len(order)), 0)",
        "np.arange(1, len(order) + 1) / max(1, len(order))",
        SPLITS,
    ),
    ("datasets/splits.py", "ranks[labelled[rounds == 0]] = 0.0", "", SPLITS),
    (
        "datasets/splits.py",
        "np.count_nonzero(ranks < fraction)",
        "np.count_nonzero(ranks <= fraction)",
        "tests/test_dev_split.py -k below_the_fraction",
    ),
    ("datasets/splits.py", "np.random.default_rng([seed, int(label)])", "np.random.default_rng([int(label)])", SPLITS),
    ("datasets/splits.py", "order = np.lexsort((turn, rounds))", "order = np.lexsort((rounds, turn))", SPLITS),
    (
        "datasets/splits.py",
        "rows - (fold + 1) * rows // folds",
        "rows - (fold + 1) * (rows // folds)",
        f"{SPLITS} tests/test_dev_split.py",
    ),
    ("datasets/splits.py", "round(count / 10)", "round(count / 5)", f"{SPLITS} tests/test_sources.py"),
    ("datasets/splits.py", "[np.argsort(ids)]", "", SPLITS),
    (
        "datasets/splits.py",
        "return ids[:rows], labels[:rows]",
        "return ids, labels",
        f"{SPLITS} tests/test_stages.py -k 'hash or subset or outside'",
    ),
    ("datasets/splits.py", "last = files[-1]", "last = files[0]", "tests/test_dev_split.py -k below_the_fraction"),
    # Order of images
    ("datasets/stream.py", "step * global_batch_size + share.rank * size", "step * global_batch_size", STREAM),
    (
        "datasets/stream.py",
        "np.random.default_rng([seed, epoch]).permutation(rows)",
        "np.random.default_rng([seed]).permutation(rows)",
        STREAM,
    ),
    (
        "datasets/stream.py",
        "np.random.default_rng([seed, epoch]).permutation(rows)",
        "np.random.default_rng([epoch]).permutation(rows)",
        STREAM,
    ),
    (
        "datasets/stream.py",
        "first_row + (rank + 1) * rows // world_size",
        "first_row + (rank + 1) * (rows // world_size)",
        STREAM,
    ),
    (
        "datasets/stream.py",
        "return share.positions(positions), epochs",
        "return positions, epochs",
        f"{STREAM} tests/test_dev_split.py",
    ),
    (
        "datasets/windows.py",
        "index + len(self.held_out) * (index >= self.held_out.start)",
        "index",
        f"{STREAM} tests/test_dev_split.py",
    ),
    (
        "datasets/windows.py",
        "[share.seed, number, share.rank, window + offset]",
        "[share.seed, share.rank, window + offset]",
        STREAM,
    ),
    (
        "datasets/windows.py",
        "[share.seed, number, share.rank, window + offset]",
        "[share.seed, number, share.rank, offset]",
        STREAM,
    ),
    ("datasets/windows.py", "order[skip if offset == 0 else 0 :]", "order", STREAM),
    (
        "datasets/windows.py",
        "np.random.default_rng([share.seed, epoch]).permutation",
        "np.random.default_rng([share.seed]).permutation",
        STREAM,
    ),
    ("datasets/windows.py", "share.rank * share.rows_per_epoch + first", "first", STREAM),
    # Identity of trials
    (
        "study/trial.py",
        "sort_keys=True",
        "sort_keys=False",
        "tests/test_ids_of_presets.py tests/test_grid.py tests/test_properties.py -k 'id or canonical'",
    ),
    (
        "study/trial.py",
        "max(own or 0.0, self.dev.label_fraction)",
        "own",
        "tests/test_dev_split.py tests/test_choices.py",
    ),
    ("study/trial.py", "digest[:8]", "digest[:4]", "tests/test_ids_of_presets.py"),
    ("study/trial.py", "{fraction * 100:g}pct", "{fraction * 10:g}pct", "tests/test_ids_of_presets.py"),
    (
        "study/trial.py",
        'canonical_json(spec.model_dump(mode="json", context=IDENTITY))',
        'canonical_json(spec.model_dump(mode="json", exclude_defaults=True))',
        "tests/test_ids_of_presets.py",
    ),
    # The schedule
    (
        "study/schedule.py",
        "(-self.chains[id], self.numbers[id], id)",
        "(self.chains[id], self.numbers[id], id)",
        SCHEDULE,
    ),
    ("study/schedule.py", "if first.workers <= free:", "if first.workers < free:", SCHEDULE),
    ("study/schedule.py", "self.workers_in_flight -= self.trials[id].workers", "self.workers_in_flight -= 1", SCHEDULE),
    ("study/schedule.py", "trial.workers <= spare or now + self.seconds(trial) <= start", "True", SCHEDULE),
    (
        "study/schedule.py",
        "skipped += [child, *self._skip_children(child)]",
        "skipped += [child]",
        f"{SCHEDULE} tests/test_growth.py",
    ),
    (
        "study/schedule.py",
        '("pruned", "failed", "skipped") for other',
        '("failed", "skipped") for other',
        f"{SCHEDULE} tests/test_growth.py",
    ),
    (
        "study/schedule.py",
        'self.unmet[id] == 0 and self.states[id] == "waiting"',
        'self.states[id] == "waiting"',
        SCHEDULE,
    ),
    (
        "study/schedule.py",
        "max(chain[other], trials[other].train_flops + chain[id])",
        "chain[other] + chain[id]",
        f"{SCHEDULE} tests/test_simulate.py",
    ),
    # The budget
    (
        "study/budget.py",
        "self.hours * 3600 - self.spent_by_ended - promised",
        "self.hours * 3600 - self.spent_by_ended",
        BUDGET,
    ),
    ("study/budget.py", "return left >= expected", "return left > 0", BUDGET),
    ("study/budget.py", "max(0.0, self._spent(id), self._expected(one))", "max(0.0, self._spent(id))", BUDGET),
    ("study/budget.py", "min(self._taken(id), device_seconds * self._devices)", "self._taken(id)", BUDGET),
    (
        "study/budget.py",
        "return self._before[id] if id in self._waiting else self._taken(id)",
        "return self._taken(id)",
        BUDGET,
    ),
    (
        "study/expectation.py",
        "trial.train_flops * known[0] / known[1]",
        "known[0]",
        BUDGET + " tests/test_throughput.py",
    ),
    (
        "study/expectation.py",
        "self.device_seconds(trial) / trial.workers",
        "self.device_seconds(trial)",
        f"{BUDGET} tests/test_simulate.py tests/test_growth.py tests/test_following.py",
    ),
    # Claims on a storage
    (
        "study/lease.py",
        "yields = any(rival.claim.name < mine.name for rival in rivals)",
        "yields = False",
        "tests/test_lease.py",
    ),
]
