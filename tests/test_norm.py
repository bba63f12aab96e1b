from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gloo import run_ranks
from trainables.architecture import parse_architecture
from trainables.networks.encoder import Encoder
from trainables.norm import GlobalBatchNorm, moving_share, set_moving_variance

ROWS = (3, 5)  # of the two ranks


def _images(rows: int, channels: int, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, channels, size, size, generator=generator, dtype=dtype) * 3 + 5


def _encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = parse_architecture("r14w0.0625sk").build(16).double()
    for module in encoder.modules():
        if isinstance(module, GlobalBatchNorm):  # weights of 0 would hide most gradients
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return encoder


def _unbiased(norm: GlobalBatchNorm) -> GlobalBatchNorm:
    set_moving_variance(norm, "unbiased")
    return norm


def _outcome(module: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Output, gradients and moving statistics after one pass in training mode."""
    x = x.requires_grad_()
    y = module(x)
    (y * weight).sum().backward()
    assert x.grad is not None
    state = {name: buffer.clone() for name, buffer in module.named_buffers()}
    gradients = {f"d {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **state, **gradients}


def _outcomes(rows: slice) -> dict[str, dict[str, Tensor]]:
    images, small = _images(sum(ROWS), 3, 16), _images(sum(ROWS), 6, 4)
    weights = _images(sum(ROWS), 6, 4)
    encoder = _encoder()
    feature_weights = torch.linspace(-1, 1, sum(ROWS), dtype=torch.float64)[:, None].expand(-1, encoder.feature_dim)
    return {
        "norm": _outcome(GlobalBatchNorm(6).double(), small[rows], weights[rows]),
        "rows": _outcome(GlobalBatchNorm(6, bias=False).double(), small[rows, :, 0, 0], weights[rows, :, 0, 0]),
        "unbiased": _outcome(_unbiased(GlobalBatchNorm(6).double()), small[rows], weights[rows]),
        "encoder": _outcome(encoder, images[rows], feature_weights[rows]),
    }


def _on_rank(rank: int) -> dict[str, dict[str, Tensor]]:
    outcomes = _outcomes(slice(0, ROWS[0]) if rank == 0 else slice(ROWS[0], None))
    x = _images(4, 6, 4, torch.bfloat16).contiguous(memory_format=torch.channels_last)
    y = GlobalBatchNorm(6)(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    return outcomes


def test_two_ranks_of_unequal_rows_equal_one_process() -> None:
    one = _outcomes(slice(None))
    first, second = run_ranks(_on_rank, 2)
    for module, expected in one.items():
        for name, value in expected.items():
            ours, other = first[module][name], second[module][name]
            if name in ("y", "dx"):
                ours = torch.cat([ours, other])
            elif name.startswith("d "):
                ours = ours + other
            else:
                assert torch.equal(ours, other), (module, name)
            torch.testing.assert_close(ours, value, atol=1e-10, rtol=1e-10, msg=lambda m, k=(module, name): f"{k}: {m}")


@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3, 2)])
def test_training_normalizes_and_keeps_biased_moving_statistics(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64) * 2 + 3
    norm = GlobalBatchNorm(4).double()
    rows = x.transpose(0, 1).flatten(1)
    mean, variance = rows.mean(1), rows.var(1, correction=0)
    y = norm(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(y, (rows - mean[:, None]) / (variance[:, None] + 1e-5).sqrt(), atol=1e-12, rtol=0)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(7, 4), (7, 4, 3, 2), (1, 4)])
def test_unbiased_moving_variance_is_that_of_all_values_but_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64) * 2 + 3
    biased, unbiased = GlobalBatchNorm(4).double(), _unbiased(GlobalBatchNorm(4).double())
    assert torch.equal(biased(x), unbiased(x)) and torch.equal(biased.running_mean, unbiased.running_mean)
    values = x.transpose(0, 1).flatten(1).numpy()
    variance = values.var(1, ddof=1) if values.shape[1] > 1 else np.zeros(4)  # of one value: none to be had
    expected = torch.from_numpy(0.9 + 0.1 * variance)
    torch.testing.assert_close(unbiased.running_var, expected, atol=1e-12, rtol=0)
    set_moving_variance(nn.ModuleList([unbiased]), "biased")
    unbiased(x)
    expected = 0.9 * expected + 0.1 * torch.from_numpy(values.var(1))
    torch.testing.assert_close(unbiased.running_var, expected, atol=1e-12, rtol=0)


def test_share_of_the_moving_statistics_that_stays_can_be_chosen_for_a_while() -> None:
    x = _images(5, 2, 3)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    norm = GlobalBatchNorm(2).double()
    network = nn.Sequential(norm)
    y = network(x)
    norm.load_state_dict(GlobalBatchNorm(2).state_dict())
    with moving_share(network, 0.6):
        assert torch.equal(network(x), y)
        with moving_share(network, 1.0):
            assert torch.equal(network(x), y)
        torch.testing.assert_close(norm.running_mean, 0.4 * mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(norm.running_var, 0.6 + 0.4 * variance, atol=1e-12, rtol=0)
        network(x)
    torch.testing.assert_close(norm.running_mean, 0.64 * mean, atol=1e-12, rtol=0)
    with pytest.raises(ZeroDivisionError), moving_share(network, 1.0):
        raise ZeroDivisionError
    network(x)
    torch.testing.assert_close(norm.running_mean, (0.9 * 0.64 + 0.1) * mean, atol=1e-12, rtol=0)


def test_evaluation_uses_the_moving_statistics_and_leaves_them() -> None:
    norm = GlobalBatchNorm(2).double().eval()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    y = norm(torch.tensor([[3.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(
        y, torch.tensor([[2 / (4 + 1e-5) ** 0.5, 1 / (0.25 + 1e-5) ** 0.5]], dtype=torch.float64)
    )
    assert norm.running_mean.tolist() == [1.0, 2.0]


def test_bias_can_be_left_out_and_weight_can_start_at_zero() -> None:
    assert [n for n, _ in GlobalBatchNorm(2, bias=False).named_parameters()] == ["weight"]
    assert GlobalBatchNorm(2, zero_weight=True)(torch.randn(4, 2)).abs().max() == 0


def test_bfloat16_input_keeps_float32_statistics_and_its_memory_format() -> None:
    x = _images(4, 6, 4, torch.bfloat16).contiguous(memory_format=torch.channels_last)
    norm = GlobalBatchNorm(6)
    y = norm(x)
    assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
    exact = x.double()
    torch.testing.assert_close(norm.running_mean.double(), 0.1 * exact.mean((0, 2, 3)), atol=1e-6, rtol=0)
    variance = exact.var((0, 2, 3), correction=0)
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * variance, atol=1e-5, rtol=0)


SHAPES = {  # up to 2^22 values a channel
    "rows": (4096, 3),
    "few": (64, 5, 2, 2),
    "odd": (7, 6, 31, 43),
    "many": (72, 4, 128, 128),
    "most": (16, 2, 512, 512),
}


def _in_float64(x: Tensor, dy: Tensor, norm: GlobalBatchNorm) -> dict[str, Tensor]:
    """What batch norm should be, by the definitions and NumPy's float64: channels first in each array."""
    gamma, beta = (p.detach().double().numpy()[:, None] for p in (norm.weight, norm.bias))  # type: ignore[union-attr]
    rows, gradient = (t.detach().double().transpose(0, 1).flatten(1).numpy() for t in (x, dy))
    mean, variance = rows.mean(1, keepdims=True), rows.var(1, keepdims=True)
    centred = (rows - mean) / np.sqrt(variance + 1e-5)
    dgamma, dbeta = (gradient * centred).sum(1), gradient.sum(1)
    others = dbeta[:, None] + centred * dgamma[:, None]
    dx = gamma / np.sqrt(variance + 1e-5) * (gradient - others / rows.shape[1])
    values = {"y": centred * gamma + beta, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, "variance": variance[:, 0]}
    return {name: torch.from_numpy(value) for name, value in values.items()}


def _in_training(x: Tensor, dy: Tensor, norm: GlobalBatchNorm) -> dict[str, Tensor]:
    found = _outcome(norm, x, dy)
    variance = (found["running_var"].double() - 0.9) / 0.1
    y, dx = (found[name].transpose(0, 1).flatten(1) for name in ("y", "dx"))
    return {"y": y, "dx": dx, "dgamma": found["d weight"], "dbeta": found["d bias"], "variance": variance}


def _case(shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values far from mean 0, and gradients."""
    generator = torch.Generator().manual_seed(sum(shape))
    x, dy = (torch.randn(shape, generator=generator) for _ in range(2))
    return tuple((t * 3 + 5 * (t is x)).to(dtype).to(memory_format=layout) for t in (x, dy))  # type: ignore[return-value]


def _norm(channels: int) -> GlobalBatchNorm:
    norm = GlobalBatchNorm(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        assert norm.bias is not None
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


def _check_close(found: dict[str, Tensor], exact: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, value in exact.items():
        ours = found[name].detach().double()
        if dtype == torch.bfloat16 and name in ("y", "dx"):  # the nearest number of eight bits, or its neighbour
            torch.testing.assert_close(ours, value, rtol=2**-7, atol=1e-6 * value.abs().max().item(), msg=name)
            assert (ours == value.bfloat16().double()).float().mean() > 0.99, name
        else:
            error = (ours - value).abs().max() / value.abs().max()
            assert error < 1e-6, (name, error.item())


@pytest.mark.parametrize(
    ("name", "threads"), [("rows", 4), ("few", 1), ("odd", 2), ("many", 1), ("many", 4), ("most", 3)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_is_exact_for_any_number_of_values(
    name: str, layout: torch.memory_format, dtype: torch.dtype, threads: int
) -> None:
    shape = SHAPES[name]
    if len(shape) == 2 and layout == torch.channels_last:
        layout = torch.preserve_format
    x, dy = _case(shape, layout, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        norm = _norm(shape[1])
        found = _in_training(x, dy, norm)
    finally:
        torch.set_num_threads(before)
    _check_close(found, _in_float64(x, dy, norm), dtype)


def _half_on_rank(rank: int) -> list[dict[str, Tensor]]:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x, dy = _case(SHAPES["many"], layout, torch.float32)
        half = slice(0, 40) if rank == 0 else slice(40, None)
        found.append(_in_training(x[half].clone(), dy[half], _norm(4)))
    return found


def test_batch_norm_over_two_ranks_is_as_exact() -> None:
    for first, second in zip(*run_ranks(_half_on_rank, 2), strict=True):
        whole = {name: torch.cat([first[name], second[name]], 1) for name in ("y", "dx")}
        whole |= {name: first[name].double() + second[name].double() for name in ("dgamma", "dbeta")}
        norm = _norm(4)
        x, dy = _case(SHAPES["many"], torch.contiguous_format, torch.float32)
        _check_close(whole | {"variance": first["variance"]}, _in_float64(x, dy, norm), torch.float32)


def test_variance_far_below_epsilon_is_kept_exactly() -> None:
    x, _ = _case(SHAPES["odd"], torch.channels_last, torch.float64)
    norm = GlobalBatchNorm(6).double()
    norm.running_var.zero_()
    norm(x * 1e-7)
    exact = x.transpose(0, 1).flatten(1).var(1, correction=0)
    torch.testing.assert_close(norm.running_var, 0.1 * 1e-14 * exact, rtol=1e-9, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", SHAPES)
def test_batch_norm_on_a_gpu_is_exact_for_any_number_of_values(name: str, layout: torch.memory_format) -> None:
    x, dy = _case(SHAPES[name], layout if len(SHAPES[name]) == 4 else torch.preserve_format, torch.float32)
    norm = _norm(SHAPES[name][1]).cuda()
    found = _in_training(x.cuda(), dy.cuda(), norm)
    exact = _in_float64(x, dy, norm.cpu())
    _check_close({key: value.cpu() for key, value in found.items()}, exact, torch.float32)


def test_gradients_of_any_layout_are_taken() -> None:
    """The mean over pixels, say, hands back one number for all of them."""
    torch.manual_seed(0)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = _images(5, 3, 4).to(memory_format=layout).requires_grad_()
        norm = _norm(3).double()
        weight = torch.randn(5, 3, dtype=torch.float64)
        (norm(x).mean((2, 3)) * weight).sum().backward()
        assert x.grad is not None
        exact = _in_float64(x, weight[:, :, None, None].expand(5, 3, 4, 4) / 16, norm)
        torch.testing.assert_close(x.grad.transpose(0, 1).flatten(1), exact["dx"], atol=1e-12, rtol=1e-12)
