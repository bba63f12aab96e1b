from __future__ import annotations

import math
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import trials
from datasets.batches import Batch
from gloo import run_ranks
from trainables.checkpoint import State, load_state, save_state
from trainables.context import Context, InterruptedTrainingError
from trainables.heads import LinearClassifier
from trainables.loop import NonFiniteLossError, Task, train
from trainables.losses import classification_loss
from trainables.networks.encoder import Encoder
from trainables.spec import STAGES, DistillSettings, Memory, Optimization, Settings, Stage
from trainables.stages import run_stage


class InterruptionError(Exception):
    """The worker is gone."""


def dying_at(share: float) -> Callable[[float], None]:
    """A report after which the worker is gone: the step is done, its checkpoint is not written."""

    def report(done: float) -> None:
        if done == share:
            raise InterruptionError

    return report


@dataclass
class DyingAfterSaves(Context):
    """A worker that is gone as soon as it has written some checkpoints."""

    saves: int = 1

    def save_checkpoint(self, state: State) -> None:
        super().save_checkpoint(state)
        self.saves -= 1
        if self.saves == 0:
            raise InterruptionError


def equal_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_training_interrupted_at_any_step_ends_as_if_undisturbed(shards: str, tmp_path: Path, optimizer: str) -> None:
    assignment = trials.assignment(shards, trials.settings("pretrain", {"optimizer": optimizer, "warmup_epochs": 1}))
    whole = run_stage("pretrain", assignment, Context(str(tmp_path / "whole"))).progress
    weights = trials.model(tmp_path / "whole")["module"]
    assert whole.step == 6 and len(whole.history) == 6 and whole.sessions == 1
    for step in range(1, 7):
        folder = tmp_path / str(step)
        with pytest.raises(InterruptionError):
            run_stage("pretrain", assignment, Context(str(folder), checkpoint_seconds=0, report=dying_at(step / 6)))
        saved = load_state(f"{folder}/latest.pt")
        assert (0 if saved is None else saved["progress"]["step"]) == step - 1
        resumed = run_stage("pretrain", assignment, Context(str(folder))).progress
        assert resumed.history == whole.history
        assert (resumed.images, resumed.sessions) == (whole.images, 1 if step == 1 else 2)
        assert equal_weights(trials.model(folder)["module"], weights), f"interrupted at step {step}"


class Told(Context):
    """A worker that is told to end when it has reported so often; it does so if it has not ended by then."""

    after: int = 0

    def attend(self, share: float) -> None:
        self.after -= 1
        self.ending = lambda: self.after <= 0
        super().attend(share)


@pytest.mark.parametrize("stage", STAGES)
def test_training_told_to_end_saves_its_last_step_and_goes_on_to_the_same_end(
    shards: str, parents: Path, tmp_path: Path, stage: Stage
) -> None:
    """At any step, and in any pass over images for features or an evaluation."""
    assignment = trials.assignment(shards, trials.settings(stage), trials.parent_of(stage, parents))
    reported: list[float] = []
    whole = run_stage(stage, assignment, Context(str(tmp_path / "whole"), report=reported.append))
    weights = trials.model(tmp_path / "whole")["module"]
    for number in range(1, len(reported) + 1):
        folder = tmp_path / str(number)
        told = Told(str(folder), checkpoint_seconds=1000)
        told.after = number
        with pytest.raises(InterruptedTrainingError):
            run_stage(stage, assignment, told)
        saved = load_state(f"{folder}/latest.pt")
        assert (0 if saved is None else saved["progress"]["step"]) == told.saved_step
        assert told.saved_step == round(reported[number - 1] * whole.progress.step)
        resumed = run_stage(stage, assignment, Context(str(folder)))
        assert resumed.metrics == whole.metrics and resumed.progress.history == whole.progress.history
        assert equal_weights(trials.model(folder)["module"], weights), f"told to end at its report {number}"


def test_only_rank_0_ends_by_being_told(tmp_path: Path) -> None:
    told = {"ending": lambda: True, "world_size": 2}
    Context(str(tmp_path), rank=1, **told).attend(0.5)
    with pytest.raises(InterruptedTrainingError, match="50%"):
        Context(str(tmp_path), rank=0, **told).attend(0.5)


def test_trial_interrupted_before_its_record_is_not_trained_again(shards: str, tmp_path: Path) -> None:
    outcome, weights = trials.run("pretrain", shards, tmp_path, tmp_path)
    (tmp_path / "model.pt").unlink()
    shares: list[float] = []
    context = Context(str(tmp_path), report=shares.append)
    again = run_stage("pretrain", trials.assignment(shards, trials.settings("pretrain")), context)
    assert set(shares) == {1.0}, "only the evaluation runs again"
    assert again.progress.sessions == 2
    assert again.metrics == outcome.metrics and again.progress.history == outcome.progress.history
    assert equal_weights(trials.model(tmp_path)["module"], weights)
    context.delete_checkpoint()
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_training_interrupted_many_times_between_rows_of_its_history(shards: str, tmp_path: Path) -> None:
    assignment = trials.assignment(shards, trials.settings("supervised", {"epochs": 60}))
    whole = run_stage("supervised", assignment, Context(str(tmp_path / "whole"))).progress
    assert whole.step == 127 and len(whole.history) == 64  # a row for every two steps, and one for the last
    folder, interruptions = str(tmp_path / "interrupted"), 0
    while True:
        try:
            context = DyingAfterSaves(folder, checkpoint_seconds=0, saves=13)
            resumed = run_stage("supervised", assignment, context).progress
            break
        except InterruptionError:
            interruptions += 1
    assert interruptions == 9 and resumed.sessions == 10
    assert resumed.history == whole.history
    assert 0 < resumed.resumed_seconds < resumed.seconds
    weights = trials.model(tmp_path / "whole")["module"]
    assert equal_weights(trials.model(tmp_path / "interrupted")["module"], weights)


def test_a_training_that_goes_on_with_other_threads_notes_it_and_says_so(shards: str, tmp_path: Path) -> None:
    said: list[str] = []
    assignment = trials.assignment(shards, trials.settings("supervised", {"epochs": 10}))
    threads = torch.get_num_threads()
    for folder, number in (("same", threads), ("other", threads + 1)):
        with pytest.raises(InterruptionError):
            run_stage("supervised", assignment, DyingAfterSaves(str(tmp_path / folder), checkpoint_seconds=0, saves=3))
        torch.set_num_threads(number)
        try:
            progress = run_stage("supervised", assignment, Context(str(tmp_path / folder), note=said.append)).progress
        finally:
            torch.set_num_threads(threads)
        assert progress.layout == (1, number)
        assert progress.earlier_layouts == ([] if number == threads else [(1, threads)])
    assert len(said) == 1 and f"after 1 of {threads}: its result is no longer" in said[0]


def test_time_is_noted_by_the_node_types_that_sessions_paid_for(shards: str, tmp_path: Path) -> None:
    assignment = trials.assignment(shards, trials.settings("supervised", {"epochs": 10}))
    for node_type in ("spot", "on demand", "spot"):
        dying = DyingAfterSaves(str(tmp_path), checkpoint_seconds=0, saves=3, node_type=node_type)
        with pytest.raises(InterruptionError):
            run_stage("supervised", assignment, dying)
    ended_at_once = DyingAfterSaves(str(tmp_path), report=dying_at(10 / 22), node_type="a reserved one")
    with pytest.raises(InterruptionError):  # what it did is lost, and so is its time
        run_stage("supervised", assignment, ended_at_once)
    progress = run_stage("supervised", assignment, Context(str(tmp_path), node_type="on demand")).progress
    assert progress.sessions == 4 and progress.earlier.keys() == {"spot", "on demand"}
    assert sum(progress.earlier.values()) == pytest.approx(progress.resumed_seconds)
    assert progress.seconds_on(progress.resumed_seconds + 60) == pytest.approx(
        {"spot": progress.earlier["spot"], "on demand": progress.earlier["on demand"] + 60}
    )


def test_checkpoint_for_which_there_is_no_space_leaves_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    uri = str(tmp_path / "latest.pt")
    save_state(uri, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # it would end the process instead of the write
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="larger than may be written"):
            save_state(uri, {"step": 2, "filler": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert load_state(uri) == {"step": 1} and [path.name for path in tmp_path.iterdir()] == ["latest.pt"]


def test_checkpoint_that_was_being_written_is_not_read(shards: str, tmp_path: Path) -> None:
    (tmp_path / f".latest.pt.{32 * '0'}").write_bytes(b"half a checkpoint")
    outcome, _ = trials.run("supervised", shards, tmp_path, tmp_path)
    assert outcome.progress.sessions == 1


@dataclass(frozen=True)
class Rows:
    """Batches of features (steps, n, d) and labels (steps, n) that a test chose."""

    features: Tensor
    labels: Tensor

    def iterate(self, first_step: int) -> Iterator[Batch]:
        for features, labels in zip(self.features[first_step:], self.labels[first_step:], strict=True):
            yield Batch(labels, labels, features, labels, labels)


def linear_task(steps: int, optimization: Optimization, rows: int) -> Task:
    """Softmax regression from 5 features to 3 classes, in float64."""
    random = np.random.default_rng(0)
    stream = Rows(
        torch.from_numpy(random.normal(size=(steps, 4, 5))), torch.from_numpy(random.integers(0, 3, (steps, 4)))
    )
    torch.manual_seed(0)
    return Task(
        LinearClassifier(5, 3).double(),
        lambda batch: (batch.images, batch.labels),
        lambda outputs, labels: (classification_loss(outputs[0], labels), {}),
        stream,
        rows,
        optimization,
        lambda done: {},
    )


def softmax_regression(task: Task, rates: list[float]) -> tuple[NDArray[Any], NDArray[Any], list[float]]:
    """Weights (3, 5) and biases (3,) after SGD with Nesterov momentum, and the loss of each step, in NumPy."""
    assert isinstance(task.stream, Rows)
    parameters = [parameter.detach().numpy().copy() for parameter in task.module.parameters()]
    velocities = [np.zeros_like(parameter) for parameter in parameters]
    losses = []
    for features, labels, rate in zip(task.stream.features.numpy(), task.stream.labels.numpy(), rates, strict=True):
        logits = features @ parameters[0].T + parameters[1]
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        losses.append(-np.log(probabilities[range(4), labels]).mean())
        error = (probabilities - np.eye(3)[labels]) / 4
        for index, gradient in enumerate((error.T @ features, error.sum(0))):
            gradient = gradient + 0.01 * parameters[index]
            velocities[index] = 0.9 * velocities[index] + gradient
            parameters[index] = parameters[index] - rate * (gradient + 0.9 * velocities[index])
    return parameters[0], parameters[1], losses


@pytest.mark.parametrize(("epochs", "every"), [(2, 1), (68, 3)])
def test_trains_like_a_plain_loop_in_numpy(tmp_path: Path, epochs: int, every: int) -> None:
    rows, steps = 12, 3 * epochs + 1  # batches of 4
    optimization = Optimization(
        optimizer="sgd",
        learning_rate=0.5,
        learning_rate_scaling="none",
        weight_decay=0.01,
        global_batch_size=4,
        epochs=epochs,
        warmup_epochs=1,
        precision="float64",
    )
    task = linear_task(steps, optimization, rows)
    cosine = [0.25 * (1 + math.cos(math.pi * step / (steps - 3))) for step in range(steps - 3)]
    rates = [0.0, 0.5 / 3, 1.0 / 3, *cosine]
    weight, bias, losses = softmax_regression(task, rates)
    reported: list[float] = []
    progress = train(task, Context(str(tmp_path), report=reported.append))
    trained = [parameter.detach().numpy() for parameter in task.module.parameters()]
    np.testing.assert_allclose(trained[0], weight, rtol=0, atol=1e-12)
    np.testing.assert_allclose(trained[1], bias, rtol=0, atol=1e-12)

    ends = [*range(every, steps, every), steps]
    starts = [0, *ends[:-1]]
    assert [row["step"] for row in progress.history] == ends
    assert [row["epoch"] for row in progress.history] == pytest.approx([end / 3 for end in ends])
    assert [row["learning_rate"] for row in progress.history] == pytest.approx([rates[end - 1] for end in ends])
    means = [np.mean(losses[start:end]) for start, end in zip(starts, ends, strict=True)]
    assert [row["loss"] for row in progress.history] == pytest.approx(means, abs=1e-12)
    assert reported == [step / steps for step in range(1, steps + 1)]
    assert (progress.step, progress.images) == (steps, 4 * steps)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_before_it_spreads(tmp_path: Path, poison: float) -> None:
    optimization = Optimization(learning_rate=0.1, learning_rate_scaling="none", global_batch_size=4, epochs=2)
    task = linear_task(7, optimization, 12)
    assert isinstance(task.stream, Rows)
    task.stream.features[3, 1, 2] = poison
    seen: list[list[Tensor]] = []

    def keep(share: float) -> None:
        seen.append([parameter.detach().clone() for parameter in task.module.parameters()])

    with pytest.raises(NonFiniteLossError, match=r"trial-7: the loss is .* at step 3 \(learning rate 0\.06"):
        train(task, Context(f"{tmp_path}/trial-7", report=keep))
    assert len(seen) == 3 and not torch.equal(seen[1][0], seen[2][0])
    assert all(map(torch.equal, task.module.parameters(), seen[-1]))


def test_the_same_trial_twice_has_the_same_ten_losses(shards: str, tmp_path: Path) -> None:
    chosen = trials.settings("pretrain", {"epochs": 4, "global_batch_size": 88})
    one, other = (trials.run("pretrain", shards, tmp_path / name, tmp_path, chosen) for name in ("one", "other"))
    assert one[0].progress.step == 10 and len({row["loss"] for row in one[0].progress.history}) == 10
    assert one[0].progress.history == other[0].progress.history
    assert one[0].metrics == other[0].metrics and equal_weights(one[1], other[1])


@contextmanager
def forward_passes() -> Iterator[dict[bool, list[torch.dtype]]]:
    """The types of what encoders return in a block, with gradient and without."""
    dtypes: dict[bool, list[torch.dtype]] = {True: [], False: []}

    def note(module: torch.nn.Module, _: object, features: Tensor) -> None:
        if isinstance(module, Encoder):
            dtypes[torch.is_grad_enabled()].append(features.dtype)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        yield dtypes
    finally:
        hook.remove()


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "distill"])
def test_bfloat16_computes_in_half_width_on_float32_weights(
    shards: str, parents: Path, tmp_path: Path, stage: Stage
) -> None:
    with forward_passes() as dtypes:
        half, weights = trials.run(
            stage, shards, tmp_path / "half", parents, trials.settings(stage, {"precision": "bfloat16"})
        )
    single, _ = trials.run(stage, shards, tmp_path / "single", parents)
    assert set(dtypes[True]) == {torch.bfloat16} and len(dtypes[True]) == half.progress.step
    assert dtypes[False][-1] == torch.float32, "evaluation is in full width"
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights.values())
    assert all(math.isfinite(row["loss"]) for row in half.progress.history)
    assert half.progress.history[0]["loss"] == pytest.approx(single.progress.history[0]["loss"], rel=0.05)


@pytest.mark.parametrize(
    "chosen",
    [
        trials.settings("distill", {"precision": "bfloat16"}),
        trials.settings("pretrain", {"precision": "bfloat16"}, memory=Memory(size=80, decay=0.9)),
    ],
    ids=["teacher", "momentum encoder"],
)
def test_network_that_is_not_trained_computes_in_half_width_in_training(
    shards: str, parents: Path, tmp_path: Path, chosen: Settings
) -> None:
    stage: Stage = "distill" if isinstance(chosen, DistillSettings) else "pretrain"
    with forward_passes() as passes:
        outcome, _ = trials.run(stage, shards, tmp_path, parents, chosen)
    assert passes[False].count(torch.bfloat16) == outcome.progress.step
    assert torch.float32 in passes[False], "evaluation is in full width"


def test_momentum_encoder_sees_the_micro_batches(shards: str, parents: Path, tmp_path: Path) -> None:
    rows: dict[int, list[int]] = {}  # of each encoder's passes in training

    def note(module: torch.nn.Module, _: object, features: Tensor) -> None:
        if isinstance(module, Encoder) and module.training:
            rows.setdefault(id(module), []).append(len(features))

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        chosen = trials.settings("pretrain", micro_batches=2, memory=Memory(size=80, decay=0.9))
        outcome, _ = trials.run("pretrain", shards, tmp_path, parents, chosen)
    finally:
        hook.remove()
    trained, momentum = sorted(rows.values(), key=len, reverse=True)
    assert len(trained) == 4 * outcome.progress.step, "each part twice, once for the loss and once for the gradient"
    assert momentum == [80] * 2 * outcome.progress.step, "two views of half a batch of 80"


@dataclass
class Keeping(Context):
    """Keeps the trained model in memory, on every rank."""

    kept: State = field(default_factory=dict)

    def save_model(self, state: State) -> None:
        self.kept = state


def three_steps(stage: Stage) -> Settings:
    rows = 200 if stage in ("pretrain", "distill") else 42
    batch = {200: 100, 42: 20}[rows]
    return trials.settings(stage, {"global_batch_size": batch, "epochs": 1, "precision": "float64"})


def train_all(rank: int, world_size: int, shards: str, parents: Path, folder: Path) -> dict[str, Any]:
    """History, metrics and weights of every stage, as one rank has them."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        context = Keeping(f"{folder}/{stage}-{world_size}", rank, world_size)
        assignment = trials.assignment(shards, three_steps(stage), trials.parent_of(stage, parents))
        outcome = run_stage(stage, assignment, context)
        assert outcome.progress.step == 3
        found[stage] = {
            "history": [
                torch.tensor([row[name] for name in sorted(row)], dtype=torch.float64)
                for row in outcome.progress.history
            ],
            "metrics": outcome.metrics,
            "weights": context.kept["module"],
        }
    return found


def test_two_ranks_train_the_weights_of_one_process(shards: str, parents: Path, tmp_path: Path) -> None:
    one = train_all(0, 1, shards, parents, tmp_path)
    for rank in run_ranks(train_all, 2, 2, shards, parents, tmp_path):
        for stage, expected in one.items():
            found = rank[stage]
            torch.testing.assert_close(found["weights"], expected["weights"], atol=1e-10, rtol=0)
            torch.testing.assert_close(found["history"], expected["history"], atol=1e-9, rtol=1e-9)
            assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-9)


def resumed_step(rank: int, world_size: int, shards: str, folders: list[str]) -> int:
    """The step from which a rank trains on that finds the checkpoint in a folder of its own."""
    steps: list[float] = []
    context = Context(folders[rank], rank, world_size, report=steps.append)
    run_stage("supervised", trials.assignment(shards, trials.settings("supervised")), context)
    return round(5 * steps[0]) - 1


def test_all_ranks_begin_anew_where_one_cannot_read_the_checkpoint(shards: str, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("zero", "one")]
    for folder in folders:
        context = Context(folder, checkpoint_seconds=0, report=dying_at(3 / 5))
        with pytest.raises(InterruptionError):
            run_stage("supervised", trials.assignment(shards, trials.settings("supervised")), context)
    assert run_ranks(resumed_step, 2, 2, shards, folders) == [2, 2]
    (tmp_path / "one" / "latest.pt").write_bytes(b"half a checkpoint")
    assert run_ranks(resumed_step, 2, 2, shards, folders) == [0, 0]
