"""Which of a study's trials a launch is to run."""

from __future__ import annotations

from dataclasses import dataclass

from study.only import Only, check_matches, with_what_they_need
from study.plan import Plan


@dataclass(frozen=True)
class LaunchOptions:
    """What of a study a launch runs: `only` what matches and what that needs; what failed before if `retry_failed`;
    nothing that would exceed `budget_gpu_hours`."""

    only: Only | None = None
    retry_failed: bool = False
    budget_gpu_hours: float | None = None


def check_only(plan: Plan, options: LaunchOptions) -> None:
    """Refuse to run a part of the plan that is empty; of an exploration it may be known only later."""
    if options.only is not None and not plan.exploring:
        check_matches(options.only, plan.expected().values())


def wanted_trials(plan: Plan, options: LaunchOptions) -> set[str]:
    """Ids of a plan's trials that a launch is to run or finds finished."""
    if options.only is None:
        return set(plan.trials)
    return with_what_they_need(options.only, plan.expected(), plan.assumed) & plan.trials.keys()
