"""The encoder f: a vision transformer with the parameters of timm's, and the mean of its patches as features.

Weights of timm's `vit_tiny_patch16_224` and its like load as they are, but for those of the classifier. Images are in
[0, 1], without normalization.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.networks.encoder import Encoder
from trainables.treatment import Treatment

EPSILON = 1e-6  # of layer norm, timm
INIT_STD = 0.02  # of weights and positions, timm
CLASS_STD = 1e-6  # of the class token, timm

LAYER_NORM = Treatment("layer norm", decayed=False, trust_ratio=False)
EMBEDDING = Treatment("embeddings", decayed=False, trust_ratio=False)  # timm decays neither positions nor class token


class LayerNorm(nn.LayerNorm):
    """torch's layer norm, whose parameters are not decayed."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=EPSILON)

    def treatment(self, name: str) -> Treatment:
        return LAYER_NORM


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(linear.weight, std=INIT_STD)
    nn.init.zeros_(linear.bias)
    return linear


class Attention(nn.Module):
    """Self-attention of `heads` heads over tokens (n, tokens, dim)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _linear(dim, 3 * dim)
        self.proj = _linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        qkv = self.qkv(x).view(n, tokens, 3, self.heads, dim // self.heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, tokens, dim))
        return out


class Block(nn.Module):
    """Attention and a network of two layers on each token, each behind a layer norm and added to its input."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = LayerNorm(dim)
        self.mlp = nn.Sequential(OrderedDict(fc1=_linear(dim, mlp_dim), act=nn.GELU(), fc2=_linear(mlp_dim, dim)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class ViTEncoder(Encoder):
    """f: patches as tokens beside a class token, `depth` blocks, layer norm, and the mean of the patches' tokens."""

    def __init__(self, *, patch: int, patches: int, dim: int, depth: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.feature_dim = dim
        self.layers = depth + 1
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + patches, dim))
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, patch, patch)))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_dim) for _ in range(depth)))
        self.norm = LayerNorm(dim)
        nn.init.normal_(self.cls_token, std=CLASS_STD)
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        self.lay_out(torch.channels_last)

    def treatment(self, name: str) -> Treatment:
        return EMBEDDING

    def layer_of(self, name: str) -> int:
        """The embeddings, and each block; the last layer norm is with the last block, as in timm."""
        if name.startswith("blocks."):
            return 1 + int(name.split(".")[1])
        return self.layers - 1 if name.startswith("norm.") else 0

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=self.memory_format)
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        out: Tensor = self.norm(self.blocks(tokens))[:, 1:].mean(1)
        return out
