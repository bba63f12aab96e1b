"""Outputs of the official code, computed once and kept in `goldens`; its README says how they were made."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.architecture import parse_architecture
from trainables.classifier import count_parameters
from trainables.heads import LinearClassifier, ProjectionHead
from trainables.lars import LARS
from trainables.losses import classification_loss, combined_distillation_loss, distillation_loss, nt_xent
from trainables.networks.encoder import Encoder
from trainables.networks.resnet_layers import conv_layers
from trainables.networks.resnet_module import Block
from trainables.norm import GlobalBatchNorm, set_moving_variance
from trainables.optimizer import parameter_groups
from trainables.schedule import learning_rate_at, peak_learning_rate, total_steps, warmup_steps
from trainables.spec import Optimization

GOLDENS = Path(__file__).parent / "goldens"
NTXENT, LARS_STEPS, FORWARD, DISTILLATION, HEADS = (
    dict(np.load(GOLDENS / f"{name}.npz")) for name in ("ntxent", "lars", "forward", "distillation", "heads")
)
LEARNING_RATES: dict[str, dict[str, Any]] = json.loads((GOLDENS / "learning_rates.json").read_text())
PARAMETERS: dict[str, dict[str, Any]] = json.loads((GOLDENS / "parameters.json").read_text())


def hashed(stream: int, n: int) -> NDArray[np.float64]:
    """n numbers in [-0.5, 0.5), multiples of 2^-32; uint32 arithmetic wraps."""
    bits = np.arange(1, n + 1, dtype=np.uint32)
    bits *= np.uint32(2_654_435_761)
    bits += np.uint32((stream + 1) * 2_246_822_519 % 2**32)
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(2_246_822_507)
    bits ^= bits >> np.uint32(13)
    bits *= np.uint32(3_266_489_909)
    bits ^= bits >> np.uint32(16)
    return bits.astype(np.float64) * 2.0**-32 - 0.5


NAMES_OF_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
RANGES = {  # kind of variable: middle and width
    "gamma": (0.8, 0.4),
    "beta": (0.0, 0.1),
    "moving_mean": (0.0, 0.1),
    "moving_variance": (1.0, 0.4),
    "bias": (0.0, 0.1),
}


def to_torch(array: NDArray[Any]) -> Tensor:
    """A kernel from TensorFlow's layout: HWIO to OIHW, (in, out) to (out, in)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 1 else array))


def variables(modules: Iterable[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Kind and tensor of every variable, in the official code's order within a layer."""
    for module in modules:
        names: tuple[str, ...] = ()
        if isinstance(module, GlobalBatchNorm):
            names = ("weight", "bias", "running_mean", "running_var")
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            names = ("weight", "bias")
        for name in names:
            if getattr(module, name) is not None:
                yield NAMES_OF_NORM[name] if isinstance(module, GlobalBatchNorm) else name, getattr(module, name)


@torch.no_grad()
def fill(modules: Iterable[nn.Module], first: int) -> int:
    """Give the variables the values of streams `first` and following; returns how many there were."""
    count = 0
    for kind, variable in variables(modules):
        numbers = hashed(first + count, variable.numel())
        count += 1
        if kind == "weight":
            shape = variable.shape
            numbers *= math.sqrt(12.0) * math.sqrt(2.0 / variable[0].numel())
            numbers = numbers.reshape(*shape[2:], shape[1], shape[0])
        else:
            middle, width = RANGES[kind]
            numbers = middle + width * numbers
        variable.copy_(to_torch(numbers.astype(np.float32)))
    return count


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize(("normalize", "form"), [(True, ""), (False, "_norm0")])
def test_nt_xent(temperature: float, normalize: bool, form: str) -> None:
    hidden = torch.from_numpy(NTXENT["hidden"].copy()).requires_grad_()
    z1, z2 = hidden.chunk(2)
    loss, accuracy = nt_xent(z1, z2, temperature, normalize=normalize)
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert loss.item() == pytest.approx(NTXENT[f"loss_T{temperature}{form}"], rel=1e-6)
    gradient = NTXENT[f"grad_T{temperature}{form}"]
    np.testing.assert_allclose(hidden.grad.numpy(), gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
    logits = NTXENT[f"logits_ab_T{temperature}{form}"]
    assert accuracy.item() == np.mean(logits.argmax(1) == np.arange(len(logits)))


LARS_VARIABLES = {
    "base_model.conv2d.kernel": "trust_ratio",
    "base_model.batch_normalization.gamma": "not_decayed",
    "head_contrastive.nl_0.dense.kernel": "trust_ratio",
    "some.dense.bias": "not_decayed",
    "head_supervised.linear_layer.dense.kernel": "decayed",
    "zero_init.kernel": "trust_ratio",
}


@pytest.mark.parametrize("decay", ["0", "1e-4"])
def test_lars(decay: str) -> None:
    conv, norm, head = nn.Conv2d(2, 4, 3, bias=False), GlobalBatchNorm(4), nn.Linear(6, 5, bias=False)
    dense, classifier, zero = nn.Linear(1, 5), LinearClassifier(5, 3), nn.Linear(4, 4, bias=False)
    owned = [conv.weight, norm.weight, head.weight, dense.bias, classifier.weight, zero.weight]
    optimizer = LARS(parameter_groups(nn.ModuleList([conv, norm, head, dense, classifier, zero]), float(decay)), lr=0.0)
    for (name, kind), parameter in zip(LARS_VARIABLES.items(), owned, strict=True):
        assert parameter is not None
        assert [g["name"] for g in optimizer.param_groups if any(p is parameter for p in g["params"])] == [kind]
        parameter.data.copy_(to_torch(LARS_STEPS[f"{name}:initial"]))
    for step, learning_rate in enumerate(LARS_STEPS["learning_rates"]):
        for (name, kind), parameter in zip(LARS_VARIABLES.items(), owned, strict=True):
            assert parameter is not None
            parameter.grad = to_torch(LARS_STEPS[f"{name}:gradients"][step])
            if kind == "decayed":  # the official code's loss has its decay, which is in no gradient here
                parameter.grad -= float(decay) * parameter.detach()
        for group in optimizer.param_groups:
            group["lr"] = float(learning_rate)
        optimizer.step()
        for name, parameter in zip(LARS_VARIABLES, owned, strict=True):
            assert parameter is not None
            for value, what in ((parameter.detach(), "weights"), (optimizer.state[parameter]["velocity"], "momentum")):
                expected = to_torch(LARS_STEPS[f"{name}:{what}_decay{decay}"][step])
                torch.testing.assert_close(value, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("recipe", LEARNING_RATES)
def test_learning_rates(recipe: str) -> None:
    golden = LEARNING_RATES[recipe]
    names = ("global_batch_size", "epochs", "warmup_epochs", "learning_rate")
    optimization = Optimization(learning_rate_scaling=golden["scaling"], **{name: golden[name] for name in names})
    rows, batch = golden["rows"], golden["global_batch_size"]
    assert total_steps(rows, golden["epochs"], batch) == golden["total_steps"]
    assert warmup_steps(rows, golden["warmup_epochs"], batch) == golden["warmup_steps"]
    assert peak_learning_rate(optimization) == pytest.approx(golden["peak"], rel=1e-12)
    rates = [learning_rate_at(step, rows=rows, optimization=optimization) for step in golden["steps"]]
    np.testing.assert_allclose(rates, golden["learning_rates"], rtol=0, atol=2e-7 * golden["peak"])


def test_parameter_counts() -> None:
    for key, golden in PARAMETERS.items():
        name, image_size = key.split("/")
        architecture, size = parse_architecture(name), int(image_size)
        trainable = architecture.trainable_parameters(size)
        assert trainable == golden["trainable"], key
        if len(golden) == 1:
            continue
        width = architecture.feature_dim
        with torch.device("meta"):
            heads = [ProjectionHead(width, depth) for depth in (2, 3, 4)]
            classifier = LinearClassifier(width, 1000)
        found = {
            "trainable": trainable,
            "moving_statistics": architecture.parameters(size) - trainable,
            "tensors": sum(1 + 2 * layer.batch_norm for layer in conv_layers(architecture, size)),
            "feature_dim": width,
            "heads": [count_parameters(head) for head in heads],
            "first_head_layer": count_parameters(heads[0].layers[0]),
            "classifier_1000": count_parameters(classifier),
        }
        assert found == golden, key
    assert len(PARAMETERS) == 54


MAPS = ("initial_conv", "initial_max_pool", "block_group1", "block_group2", "block_group3", "block_group4")


def filled_encoder(name: str, image_size: int) -> tuple[Encoder, int]:
    """An encoder in inference mode, with the number of its variables; in each block the shortcut's come first."""
    with torch.device("meta"):  # spares the initialization
        encoder = parse_architecture(name).build(image_size)
    encoder.to_empty(device="cpu").eval()
    modules = list(encoder.stem.modules())
    for block in (module for module in encoder.groups.modules() if isinstance(module, Block)):
        modules += [*block.shortcut.modules(), *block.branch.modules()]
    return encoder, fill(modules, 0)


def keep_output(maps: dict[str, NDArray[Any]], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps[name] = output.permute(0, 2, 3, 1).numpy()

    return hook


@pytest.mark.parametrize("key", [name.removesuffix(":features") for name in FORWARD if name.endswith(":features")])
def test_encoder(key: str) -> None:
    name, size = key.split(":")
    encoder, count = filled_encoder(name, int(size))
    assert count == FORWARD[f"{key}:variables"]
    last_conv = [module for module in encoder.stem.modules() if isinstance(module, nn.Conv2d)][-1]
    maps: dict[str, NDArray[Any]] = {}
    for stage, module in zip(MAPS, (last_conv, encoder.stem, *encoder.groups), strict=True):
        module.register_forward_hook(keep_output(maps, stage))
    shape = (2, int(size), int(size), 3)
    images = (hashed(100_000, math.prod(shape)) + 0.5).reshape(shape).astype(np.float32)
    with torch.inference_mode():
        maps["features"] = encoder(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(maps["features"], FORWARD[f"{key}:features"], rtol=0, atol=5e-5)
    moments = [[np.mean(m, dtype=float), np.std(m, dtype=float), np.abs(m).max()] for m in maps.values()]
    np.testing.assert_allclose(moments, FORWARD[f"{key}:moments"], rtol=5e-6)
    for stage in MAPS:
        if f"{key}:{stage}" in FORWARD:
            values = maps[stage].ravel()[np.arange(256) * 7919 % maps[stage].size]
            np.testing.assert_allclose(values, FORWARD[f"{key}:{stage}"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(("squared", "form"), [(True, ""), (False, "noT2_")])
def test_distillation(temperature: float, squared: bool, form: str) -> None:
    student = torch.from_numpy(DISTILLATION["student_logits"].copy()).requires_grad_()
    teacher = torch.from_numpy(DISTILLATION["teacher_logits"])
    loss = distillation_loss(student, teacher, temperature, squared)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert loss.item() == pytest.approx(DISTILLATION[f"loss_{form}T{temperature}"], rel=1e-6)
    gradient = DISTILLATION[f"grad_{form}T{temperature}"]
    np.testing.assert_allclose(student.grad.numpy(), gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.9, 1.0])
def test_labels_and_teacher_together(temperature: float, weight: float) -> None:
    student, teacher, labels = (
        torch.from_numpy(DISTILLATION[n]) for n in ("student_logits", "teacher_logits", "labels")
    )
    loss = combined_distillation_loss(student, teacher, labels, temperature, weight, True)
    assert loss.item() == pytest.approx(DISTILLATION[f"eq3_alpha{weight}_T{temperature}"], rel=1e-6)
    assert classification_loss(student, labels).item() == pytest.approx(DISTILLATION["supervised_ce"], rel=1e-6)


@pytest.fixture(scope="module")
def head_and_classifier() -> tuple[ProjectionHead, LinearClassifier]:
    head, classifier = ProjectionHead(64, 3, 16), LinearClassifier(64, 10)
    assert fill([*head.modules(), classifier], 500) == 16
    return head, classifier


def first_layers(head: ProjectionHead, number: int) -> ProjectionHead:
    """A copy of the head cut off as for a classifier."""
    head = copy.deepcopy(head)
    del head.layers[number:]
    return head


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_head(head_and_classifier: tuple[ProjectionHead, LinearClassifier], mode: str, layers: int) -> None:
    head = first_layers(head_and_classifier[0], layers).train(mode == "train")
    with torch.no_grad():
        hidden = head(torch.from_numpy(HEADS["head3:input"])).numpy()
    np.testing.assert_allclose(hidden, HEADS[f"head3:{mode}_hidden{layers}"], rtol=0, atol=1e-5)


def test_logits_from_the_heads_first_layer(head_and_classifier: tuple[ProjectionHead, LinearClassifier]) -> None:
    head, classifier = head_and_classifier
    with torch.no_grad():
        logits = classifier(first_layers(head, 1).eval()(torch.from_numpy(HEADS["head3:input"]))).numpy()
    np.testing.assert_allclose(logits, HEADS["head3:sup_logits_from_eval_hidden1"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "name"), [("biased", "bn_global1"), ("unbiased", "bn_global0")])
def test_batch_norm(kind: Literal["biased", "unbiased"], name: str) -> None:
    norm = GlobalBatchNorm(5)
    set_moving_variance(norm, kind)
    with torch.no_grad():
        output = norm(torch.from_numpy(HEADS[f"{name}:input"]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = {"output": output, "moving_mean": norm.running_mean, "moving_variance": norm.running_var}
    for what, value in found.items():
        np.testing.assert_allclose(value.numpy(), HEADS[f"{name}:{what}"], rtol=0, atol=1e-5)
