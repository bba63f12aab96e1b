"""Vision transformers (Dosovitskiy et al. 2021) of three sizes and three sizes of patches: `vit_ti16`, `vit_s8`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainables.networks.architecture import Architecture, Family

if TYPE_CHECKING:
    from trainables.networks.encoder import Encoder

DEPTH = 12  # blocks, in all sizes
HEAD_DIM = 64
DIMS = {"ti": 192, "s": 384, "b": 768}  # of a token; tiny and small as in Touvron et al. 2021 (DeiT)
PATCHES = (4, 8, 16)  # height = width, pixels
MLP_RATIO = 4
_PATTERN = re.compile(rf"vit_({'|'.join(DIMS)})({'|'.join(map(str, PATCHES))})")


@dataclass(frozen=True)
class ViT(Architecture):
    """A vision transformer of one size (`ti`, `s` or `b`) that cuts images into patches of `patch` x `patch` pixels."""

    size: str
    patch: int

    @property
    def name(self) -> str:
        return f"vit_{self.size}{self.patch}"

    @property
    def feature_dim(self) -> int:
        return DIMS[self.size]

    def patches(self, image_size: int) -> int:
        """Number of patches of an image.

        Raises:
            ValueError: they do not fill it.
        """
        if image_size < self.patch or image_size % self.patch:
            whole = self.patch * max(1, round(image_size / self.patch))
            smaller = [patch for patch in PATCHES if image_size >= patch and image_size % patch == 0]
            other = f"architecture vit_{self.size}{smaller[-1]} or " if smaller else ""
            raise ValueError(
                f"{self.name} cuts images into patches of {self.patch} x {self.patch} pixels, but image_size is "
                f"{image_size}, no multiple of {self.patch}; choose {other}image_size {whole}"
            )
        return (image_size // self.patch) ** 2

    def trainable_parameters(self, image_size: int) -> int:
        """Embeddings of patches, class and positions; the blocks; and the last layer norm."""
        dim, positions = self.feature_dim, self.patches(image_size) + 1
        embedding = 3 * self.patch**2 * dim + dim + dim + positions * dim
        attention = (3 * dim * dim + 3 * dim) + (dim * dim + dim)
        mlp = (MLP_RATIO * dim * dim + MLP_RATIO * dim) + (MLP_RATIO * dim * dim + dim)
        return embedding + DEPTH * (attention + mlp + 2 * 2 * dim) + 2 * dim

    def parameters(self, image_size: int) -> int:
        """As many as are trained: there is no batch norm."""
        return self.trainable_parameters(image_size)

    def forward_flops(self, image_size: int) -> int:
        """Of each block, 4 + 2 x 4 products of all tokens with dim x dim weights, and 2 of all tokens with all."""
        dim, tokens = self.feature_dim, self.patches(image_size) + 1
        block = 2 * tokens * dim * ((4 + 2 * MLP_RATIO) * dim + 2 * tokens)
        return self.first_layer_flops(image_size) + DEPTH * block

    def first_layer_flops(self, image_size: int) -> int:
        return 2 * self.patches(image_size) * 3 * self.patch**2 * self.feature_dim

    def build(self, image_size: int) -> Encoder:
        from trainables.networks.vit_module import ViTEncoder

        return ViTEncoder(
            patch=self.patch,
            patches=self.patches(image_size),
            dim=self.feature_dim,
            depth=DEPTH,
            heads=self.feature_dim // HEAD_DIM,
            mlp_dim=MLP_RATIO * self.feature_dim,
        )


def _parse(name: str) -> ViT | None:
    match = _PATTERN.fullmatch(name)
    return None if match is None else ViT(match[1], int(match[2]))


def _nearest(text: str) -> ViT | None:
    """What a spelling such as `ViT-B/16` or `vit_base_patch16_224` most likely means."""
    text = text.lower()
    if not re.search(r"vi?t|dei|transformer|patch", text):
        return None
    text = re.sub(r"vision|transformer|vi?t|deit?", "", text).replace("patch", "/")
    size = re.search(r"ti|s|b|l|h", text)
    patch = re.search(r"/\D?(\d+)", text) or re.search(r"(\d+)", text)
    wanted = int(patch[1]) if patch else PATCHES[-1]
    return ViT(
        size=("b" if size[0] in "lh" else size[0]) if size else "s",
        patch=min(PATCHES, key=lambda valid: abs(valid - wanted)),
    )


FAMILY = Family(
    pattern=_PATTERN,
    parse=_parse,
    nearest=_nearest,
    spelling=f"vit_<{'|'.join(DIMS)}><{'|'.join(map(str, PATCHES))}>, such as vit_s16, or vit_ti4 for small images",
)
