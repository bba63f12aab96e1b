"""A plan as text."""

from __future__ import annotations

from collections.abc import Iterator

from study.plan import ExpectedImages, Plan, PlannedTrial
from trainables.spec import STAGES


def describe_plan(plan: Plan) -> Iterator[str]:
    """The plan as lines of text: a table by stage, then every trial."""
    study = plan.study
    yield f"study    {study.name}"
    if study.question:
        yield f"question {' '.join(study.question.split())}"
    images = ExpectedImages.of(study)
    yield f"data     {study.data.name}: {images.train_images:,} training images, {images.classes:,} classes"
    total_naive, total = sum(plan.naive.values()), len(plan.trials)
    yield (
        f"grid     {plan.cells:,} cells: {total_naive:,} trainings if each cell ran its own, "
        f"{total:,} with shared ones merged"
    )
    yield ""
    yield f"{'stage':<12}{'naive':>8}{'trials':>8}{'finished':>10}{'train FLOPs':>14}{'to do':>14}"
    for stage in STAGES:
        mine = [trial for trial in plan.trials.values() if trial.spec.stage == stage]
        if mine or plan.naive[stage]:
            yield _stage_line(stage, plan.naive[stage], mine, plan)
    yield _stage_line("total", total_naive, list(plan.trials.values()), plan)
    for stage in STAGES:
        mine = [trial for trial in plan.trials.values() if trial.spec.stage == stage]
        if not mine:
            continue
        width = max(len(trial.id) for trial in mine)
        yield ""
        yield f"{stage:<{width}}  {'':8}  {'params':>8}  {'images':>11}  {'steps':>9}  {'FLOPs':>9}  {'workers':>7}"
        for trial in mine:
            state = "finished" if trial.id in plan.finished else "to do"
            yield (
                f"{trial.id:<{width}}  {state:<8}  {count(trial.parameters):>8}  {trial.rows:>11,}  {trial.steps:>9,}  "
                f"{trial.train_flops:>9.2e}  {trial.workers:>7}"
            )


def _stage_line(name: str, naive: int, trials: list[PlannedTrial], plan: Plan) -> str:
    finished = sum(trial.id in plan.finished for trial in trials)
    flops = sum(trial.train_flops for trial in trials)
    todo = sum(trial.train_flops for trial in trials if trial.id not in plan.finished)
    return f"{name:<12}{naive:>8,}{len(trials):>8,}{finished:>10,}{flops:>14.2e}{todo:>14.2e}"


def count(number: float) -> str:
    """A count in three digits or so: 812, 45.2k, 23.6M, 795M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            scaled = number / limit
            return f"{scaled:.0f}{suffix}" if scaled >= 100 else f"{scaled:.1f}{suffix}"
    return f"{number:.0f}"
