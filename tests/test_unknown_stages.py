"""A stage, or a type of settings, that a place does not know is refused there, and never taken for another."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import trials
from studies import tiny_study
from study import beside, calibrate, check, check_adaptive, choices, config, durations, explain, grid, plan, trial
from study.cells import TrialMaker, cells, relevant_axes, with_ancestors
from study.grid import Expansion
from study.plan import ExpectedImages, PlannedTrial, make_plan
from study.synthetic import _random_model
from study.throughput import kind_of
from study.trial import TrialSpec
from trainables import explain as networks
from trainables import finetune, stages, supervised
from trainables.architecture import parse_architecture
from trainables.context import Context
from trainables.loop import autocast
from trainables.memory import ContrastiveMemory
from trainables.optimizer import build_optimizer
from trainables.spec import SETTINGS, STAGES, LabelFraction, Memory, Optimization, Spec, settings_of
from trainables.stage import Assignment

ROOT = Path(__file__).resolve().parents[1]
MADE_UP: Any = "pseudo_label"
STUDY = tiny_study()
CELL = next(cells(STUDY.grid[0]))
FOLDER = Path("nowhere")


class MadeUpSettings(Spec):
    """Settings that have what most stages' have, so that they could pass for another stage's."""

    optimization: Optimization
    label_fraction: LabelFraction = 0.1
    head_layer: int = 0
    micro_batches: int = 1
    images: str = "all"


OPTIMIZATION = Optimization(learning_rate=0.1, global_batch_size=20, epochs=2)
SETTINGS_MADE_UP: Any = MadeUpSettings(optimization=OPTIMIZATION)
PLAN = make_plan(STUDY, ExpectedImages.of(STUDY))
KNOWN = next(one for one in PLAN.trials.values() if one.spec.stage == "supervised")
SPEC: TrialSpec = KNOWN.spec.model_copy(update={"stage": MADE_UP, "settings": SETTINGS_MADE_UP})
TRIAL = PlannedTrial("made-up", SPEC, 1, 200, 20, 1000, 1e6)
NOWHERE = Context("nowhere")
SMALL = parse_architecture("r10w0.0625")


def assignment(settings: Any) -> Assignment:
    """A trial on shards that are nowhere: nothing of them is read before it is refused."""
    nothing: Any = None
    return Assignment(SMALL, 8, "tf1", 10, 0, settings, "nowhere", nothing, None)


def expansion() -> Expansion:
    return grid.Expansion(STUDY, choices.NoEvidence(), STUDY.data.labelled)


PLACES: dict[str, Callable[[], Any]] = {
    "study.config.parent_of": lambda: config.parent_of(MADE_UP),
    "study.config.may_have_workers": lambda: STUDY.execution.workers_of(MADE_UP, "r50"),
    "study.cells.with_ancestors": lambda: with_ancestors(MADE_UP),
    "study.cells.relevant_axes": lambda: relevant_axes(MADE_UP, tuple(CELL)),
    "study.cells.specify": lambda: TrialMaker(STUDY).specify(MADE_UP, CELL, None),
    "study.cells.with_parent": lambda: TrialMaker(STUDY).with_parent(MADE_UP, CELL, None, None),
    "study.choices.choice_id": lambda: choices.choice_id(MADE_UP, CELL, {}),
    "study.grid.judged_by": lambda: grid.judged_by((MADE_UP, "finetune")),
    "study.grid.resolve": lambda: expansion().resolve(MADE_UP, CELL),
    "study.grid._dev_splits": lambda: expansion().option({}, MADE_UP, CELL),
    "study.check_adaptive.own_axes": lambda: check_adaptive.axis_of(STUDY, MADE_UP, "head_layer"),
    "study.durations._features": lambda: durations.Durations([durations.Seen(TRIAL, 1.0)]),
    "study.beside.compares_neighbors": lambda: beside.compares_neighbors(SETTINGS_MADE_UP),
    "study.calibrate._timed": lambda: calibrate.measure(TRIAL, kind_of(TRIAL), PLAN, Context("nowhere")),
    "study.synthetic._random_model": lambda: _random_model(SPEC, PLAN, FOLDER),
    "study.trial._slug": lambda: SPEC.trial_id(),
    "study.trial.head_of": lambda: trial.head_of(SPEC, lambda id: SPEC),
    "study.trial.parse_trial": lambda: trial.parse_trial({**KNOWN.spec.plain(), "stage": MADE_UP}),
    "study.plan._rows_read": lambda: plan.training_rows(SPEC, ExpectedImages.of(STUDY)),
    "study.plan.train_flops": lambda: plan.train_flops(SPEC, 20, 200, {}),
    "study.check.micro_batches": lambda: check.micro_batches(SPEC),
    "study.check.check_batch": lambda: check.check_batch("made-up", SPEC, 1, 200),
    "study.explain.explain_trial": lambda: list(explain.explain_trial("made-up", SPEC, 200, lambda id: SPEC)),
    "trainables.explain._networks": lambda: networks.parts(SMALL, 8, 10, SETTINGS_MADE_UP, 3, None),
    "trainables.supervised.build": lambda: supervised.build(SMALL, 8, 10, SETTINGS_MADE_UP),
    "trainables.stages.run_stage": lambda: stages.run_stage(MADE_UP, assignment(SETTINGS_MADE_UP), NOWHERE),
    "trainables.spec.settings_of": lambda: settings_of(MADE_UP),
}
"""Every function that tells stages, or the types of their settings, apart; which they are, the next test finds out."""


TYPES = {"EncoderRecipe", *(kind.__name__ for kind in SETTINGS.values())}
REFUSE_BY_THEMSELVES = {
    "trainables.pretrain.run",
    "trainables.finetune.run",
    "trainables.linear.run",
    "trainables.supervised.run",
    "trainables.distill.run",
}
"""Stages, which assert the type of their own settings."""
BEHIND_A_REFUSAL = {
    "study.cells.settle": "with_parent, which refuses, is the only one to call it",
    "study.grid._choice": "only stages of the study's file are open",
    "study.grid._leaves_open": "called by _choice",
    "study.check_adaptive._check_workers": "called for stages of the study's file",
    "study.calibrate.measure": "goes on to _timed",
    "study.calibrate._line": "says what _timed has measured",
}


def tells_apart(node: ast.AST) -> bool:
    """Whether code compares something with a stage's name, or asks whether it is the settings of one."""
    if isinstance(node, ast.Compare):
        names = {one.value for one in [node.left, *node.comparators] if isinstance(one, ast.Constant)}
        return isinstance(node.ops[0], ast.Eq | ast.NotEq) and not names.isdisjoint(STAGES)
    if isinstance(node, ast.MatchValue):
        return isinstance(node.value, ast.Constant) and node.value.value in STAGES
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        return any(isinstance(one, ast.Name) and one.id in TYPES for one in ast.walk(node.args[1]))
    return False


def functions_that_tell_stages_apart() -> Iterator[str]:
    for package in ("study", "trainables"):
        for file in (ROOT / package).rglob("*.py"):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef) and any(map(tells_apart, ast.walk(node))):
                    yield f"{module}.{node.name}"


def test_every_place_that_tells_stages_apart_is_tried() -> None:
    found = set(functions_that_tell_stages_apart())
    assert len(found) > 20
    assert found - set(PLACES) - REFUSE_BY_THEMSELVES - set(BEHIND_A_REFUSAL) == set()


@pytest.mark.parametrize("place", PLACES)
def test_a_stage_that_is_unknown_to_a_place_is_refused_there(place: str) -> None:
    with pytest.raises((ValueError, AssertionError), match=r"pseudo_label|MadeUpSettings|unreachable"):
        PLACES[place]()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_not_run_with_the_settings_of_another(stage: Any) -> None:
    for settings in [trials.settings(other) for other in STAGES if other != stage]:
        with pytest.raises(ValueError, match=f"stage {stage} cannot be trained with {type(settings).__name__}"):
            stages.run_stage(stage, assignment(settings), NOWHERE)


def memory(**made_up: str) -> ContrastiveMemory:
    settings = Memory(size=4, decay=0.5).model_copy(update=made_up)
    return ContrastiveMemory(settings, torch.nn.Linear(3, 128), torch.nn.Identity())


CHOICES: dict[str, Callable[[], Any]] = {
    "memory.enqueue": lambda: memory(enqueue="x").enqueue(torch.rand(2, 2, 128)),
    "memory.batch_keys": lambda: memory(batch_keys="x").batch_keys(None),
    "memory.key_batch_norm": lambda: memory(key_batch_norm="x").keys(torch.rand(4, 3)),
    "kept_head": lambda: finetune.trains_head(trials.settings("finetune").model_copy(update={"kept_head": "x"})),  # type: ignore[arg-type]
    "images": lambda: plan.training_rows(
        SPEC.model_copy(update={"settings": trials.settings("distill").model_copy(update={"images": "x"})}),
        ExpectedImages.of(STUDY),
    ),
    "optimizer": lambda: build_optimizer(torch.nn.Linear(3, 2), OPTIMIZATION.model_copy(update={"optimizer": "x"})),
    "precision": lambda: autocast(OPTIMIZATION.model_copy(update={"precision": "x"}), torch.device("cpu")),
}


@pytest.mark.parametrize("setting", CHOICES)
def test_a_choice_that_is_unknown_to_a_place_is_refused_there(setting: str) -> None:
    with pytest.raises((ValueError, AssertionError), match="'x'"):
        CHOICES[setting]()
