"""A plan as text: its stages with what they cost, how long a launch takes, and every trial."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from reports.prices import money_text
from study.adaptive import Search
from study.estimate import Estimate, WallClock
from study.plan import ExpectedImages, Plan, PlannedTrial
from trainables.spec import STAGES


def describe_plan(plan: Plan, estimate: Estimate | None = None) -> Iterator[str]:
    """The plan as lines of text: a table by stage, what a launch takes (of an estimate), then every trial."""
    study = plan.study
    yield f"study    {study.name}"
    if study.question:
        yield f"question {' '.join(study.question.split())}"
    images = ExpectedImages.of(study)
    yield f"data     {study.data.name}: {images.train_images:,} training images, {images.classes:,} classes"
    explored = study.explore is not None  # its cells count with what measures them, others without
    to_choose = sum(trial.spec.dev is not None and not explored for trial in plan.trials.values())
    merged, more = len(plan.trials) - to_choose, f", and {to_choose:,} to choose by" if to_choose else ""
    yield (
        f"grid     {plan.cells:,} cells: {sum(plan.naive.values()):,} trainings if each cell ran its own, "
        f"{merged:,} with shared ones merged{more}"
    )
    yield from _open_choices(plan)
    yield ""
    known = estimate if estimate and any(not math.isnan(seconds) for seconds in estimate.seconds.values()) else None
    yield from _stages(plan, known)
    if estimate is not None:
        yield ""
        yield from _cost(plan, estimate)
    yield from _trials(plan, known)


def _open_choices(plan: Plan) -> Iterator[str]:
    """What is not decided yet, and how the plan counts it."""
    listed = [choice for choice in plan.open_choices if choice.search is None]
    if listed:
        options = sum(len(choice.options) for choice in listed)
        yield f"open     {len(listed):,} choices among {options:,} options in all, by accuracy on held-out images"
    kinds = Counter(
        _kind_of_search(search, len(choice.base)) for choice in plan.open_choices if (search := choice.search)
    )
    for kind, count in kinds.items():
        yield f"open     {count:,} searches {kind}, by accuracy on held-out images"
    if any(choice.search and choice.search.device_hours for choice in plan.open_choices):
        yield "         searches with a budget in hours are not in the table below"
    if plan.open_choices:
        yield "         the rest is counted as if the first option of each were the best"


def _kind_of_search(search: Search, trainings: int) -> str:
    budget = f"{search.device_hours:g} device-hours" if search.device_hours else f"{search.most_trials} samples"
    each = f", {trainings} trainings each" if trainings > 1 else ""
    return f"({search.sampler}) of {budget}{each}"


def _stages(plan: Plan, estimate: Estimate | None) -> Iterator[str]:
    more = f"{'device time':>14}{'to do':>12}{'money to do':>16}" if estimate else ""
    yield f"{'stage':<12}{'naive':>8}{'trials':>8}{'finished':>10}{'train FLOPs':>14}{'to do':>14}{more}"
    by_stage: dict[str, list[PlannedTrial]] = {stage: [] for stage in STAGES}
    for trial in plan.trials.values():
        by_stage[trial.spec.stage].append(trial)
    for stage in STAGES:
        if by_stage[stage] or plan.naive[stage]:
            yield _stage_line(stage, plan.naive[stage], by_stage[stage], plan, estimate)
    yield _stage_line("total", sum(plan.naive.values()), list(plan.trials.values()), plan, estimate)


def _stage_line(name: str, naive: int, trials: list[PlannedTrial], plan: Plan, estimate: Estimate | None) -> str:
    todo = [trial for trial in trials if trial.id not in plan.finished]
    flops = [sum(trial.train_flops for trial in chosen) for chosen in (trials, todo)]
    line = f"{name:<12}{naive:>8,}{len(trials):>8,}{len(trials) - len(todo):>10,}{flops[0]:>14.2e}{flops[1]:>14.2e}"
    if estimate is None:
        return line
    total, left = (_device_time(estimate, chosen) for chosen in (trials, todo))
    return f"{line}{total:>14}{left:>12}{_money(estimate, todo):>16}"


def _device_time(estimate: Estimate, trials: Iterable[PlannedTrial]) -> str:
    """Time of the trials whose time is known, marked by > where it is not known of all."""
    seconds = [estimate.seconds.get(trial.id, math.nan) for trial in trials]
    known = [value for value in seconds if not math.isnan(value)]
    if seconds and not known:
        return "unknown"
    return f"{'>' if len(known) < len(seconds) else ''}{duration(sum(known))}"


def _money(estimate: Estimate, trials: Iterable[PlannedTrial]) -> str:
    seconds = [estimate.seconds.get(trial.id, math.nan) for trial in trials]
    known = sum(value for value in seconds if not math.isnan(value))
    if math.isnan(estimate.price.per_hour) or (seconds and not known):
        return "unknown"
    more = ">" if any(map(math.isnan, seconds)) else ""
    return f"{more}{money_text(known / 3600 * estimate.price.per_hour)} {estimate.price.currency}"


def _cost(plan: Plan, estimate: Estimate) -> Iterator[str]:
    """What a launch takes, where that is from, and what is missing to know it."""
    if not plan.missing():
        return
    unknown = estimate.sources[""]
    if unknown == len(plan.missing()):
        yield (
            f"hours    unknown: no trial has finished and nothing is calibrated on {estimate.device or 'such devices'}"
            "; plan --calibrate measures a few steps"
        )
    else:
        for source, trials in estimate.sources.most_common():
            if source:
                yield f"hours    of {trials:,} trial{'s' if trials > 1 else ''} by {source}"
        if unknown:
            yield f"hours    of {unknown:,} trials unknown; plan --calibrate measures a few steps of each architecture"
    if estimate.wall_clock is None:
        yield f"launch   wall clock unknown: {estimate.why_none}"
    else:
        yield from _wall_clock(estimate, estimate.wall_clock)
    if not math.isnan(estimate.price.per_hour):
        yield f"money    {estimate.price.per_hour:.4g} {estimate.price.currency} a device-hour ({estimate.price.told})"
    elif estimate.device:
        yield f"money    unknown: the price table has no price of {estimate.device}; --prices FILE, --node TYPE"


def _wall_clock(estimate: Estimate, clock: WallClock) -> Iterator[str]:
    simulation, devices = clock.simulation, clock.devices
    on = f"{devices:,} device{'s' if devices > 1 else ''} of {estimate.device} ({estimate.hardware.where})"
    yield (
        f"launch   {duration(simulation.makespan)} on {on}, simulated in the launch's own order; "
        f"devices busy {simulation.busy:.0%} of it"
    )
    yield f"critical {duration(clock.chain_seconds)}: {' -> '.join(clock.chain)}"
    if estimate.node is not None:
        nodes, rent = estimate.nodes(), f"{money_text(estimate.bill())} {estimate.price.currency}"
        yield f"rent     {rent} for {nodes:,} {estimate.node.type} from launch to end, idle devices included"


def _trials(plan: Plan, estimate: Estimate | None) -> Iterator[str]:
    for stage in STAGES:
        mine = [trial for trial in plan.trials.values() if trial.spec.stage == stage]
        if not mine:
            continue
        width = max(len(trial.id) for trial in mine)
        more = f"  {'device time':>12}" if estimate else ""
        yield ""
        yield (
            f"{stage:<{width}}  {'':8}  {'params':>8}  {'images':>11}  {'steps':>9}  {'FLOPs':>9}  {'workers':>7}{more}"
        )
        for trial in mine:
            state = "finished" if trial.id in plan.finished else "to do"
            if estimate:
                more = f"  {duration(estimate.seconds.get(trial.id, math.nan)):>12}"
            yield (
                f"{trial.id:<{width}}  {state:<8}  {count(trial.parameters):>8}  {trial.rows:>11,}  {trial.steps:>9,}  "
                f"{trial.train_flops:>9.2e}  {trial.workers:>7}{more}"
            )


def count(number: float) -> str:
    """A count in three digits or so: 812, 45.2k, 23.6M, 795M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            scaled = number / limit
            return f"{scaled:.0f}{suffix}" if scaled >= 100 else f"{scaled:.1f}{suffix}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.31 s, 42 s, 3.5 min, 12.4 h, 1,234 h; unknown for NaN."""
    if math.isnan(seconds):
        return "unknown"
    for limit, unit in ((7200, "h"), (120, "min")):
        if seconds >= limit:
            scaled = seconds / (3600 if unit == "h" else 60)
            return f"{scaled:,.0f} {unit}" if scaled >= 100 else f"{scaled:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
