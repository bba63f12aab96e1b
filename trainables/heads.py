"""The projection head g of contrastive pretraining and the linear classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.architecture import PROJECTION_DIM
from trainables.norm import GlobalBatchNorm
from trainables.treatment import BIAS, Treatment

DENSE_INIT_STD = 0.01  # official code


class ProjectionHead(nn.Module):
    """g: `depth` dense layers without bias, each followed by a batch norm and, but for the last, a ReLU.

    Hidden layers keep `in_features`; the last one's batch norm has a weight but no bias. Weights start at N(0, 0.01).
    (Section 3.3 and the official code.)
    """

    def __init__(self, in_features: int, depth: int, out_features: int = PROJECTION_DIM) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"a projection head has at least 1 layer, found {depth}")
        self.layers = nn.ModuleList()
        for index in range(depth):
            last = index == depth - 1
            dense = nn.Linear(in_features, out_features if last else in_features, bias=False)
            nn.init.normal_(dense.weight, std=DENSE_INIT_STD)
            norm = GlobalBatchNorm(dense.out_features, bias=not last)
            self.layers.append(
                nn.Sequential(dense, norm) if last else nn.Sequential(dense, norm, nn.ReLU(inplace=True))
            )

    def forward(self, h: Tensor) -> Tensor:
        """Output (n, out_features) for features h (n, in_features); of layers that are deleted, that of those left."""
        for layer in self.layers:
            h = layer(h)
        return h


class LinearClassifier(nn.Linear):
    """Logits from features: weights from N(0, 0.01) and bias 0, or both 0 with `zero_init` (as for fine-tuning).

    Its weights are decayed; LARS scales their steps by a trust ratio only where `trust_ratio` is set.
    """

    trust_ratio = False

    def __init__(self, in_features: int, num_classes: int, *, zero_init: bool = False) -> None:
        self.zero_init = zero_init
        super().__init__(in_features, num_classes)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.zero_() if self.zero_init else self.weight.normal_(std=DENSE_INIT_STD)
            self.bias.zero_()

    def treatment(self, name: str) -> Treatment:
        return BIAS if name == "bias" else Treatment("kernels", decayed=True, trust_ratio=self.trust_ratio)
