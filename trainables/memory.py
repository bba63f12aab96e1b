"""The memory of contrastive pretraining: a queue of past keys, and a momentum encoder that makes the keys."""

from __future__ import annotations

import copy
from typing import assert_never

import torch
from torch import Tensor, nn

from trainables.architecture import PROJECTION_DIM
from trainables.losses import gather_views, unit_rows
from trainables.norm import moving_share
from trainables.spec import Memory


class ContrastiveMemory(nn.Module):
    """A queue of up to `settings.size` past keys (MoCo, He et al. 2020; section 3.1), empty at first.

    With `settings.decay` above 0 a momentum encoder and head, at first equal to `encoder` and `head`, make the keys.
    One step of training:

        memory.follow(encoder, head)
        keys = memory.keys(views, micro_batches)  # None without a momentum encoder
        z1, z2 = head(encoder(views)).chunk(2)
        nt_xent(z1, z2, temperature, keys=memory.batch_keys(keys), queue=memory.negatives())
        memory.enqueue(torch.stack([z1, z2]) if keys is None else keys)

    `state_dict` has the queue, how much was written to it, and the momentum network, so that a training resumes
    exactly. The queue is the same on every rank.
    """

    queue: Tensor

    def __init__(self, settings: Memory, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self.network = _frozen_copy(encoder, head) if settings.decay else None
        self.register_buffer("queue", torch.zeros(settings.size, PROJECTION_DIM))
        self._written = 0  # keys ever enqueued; the next one's place is this modulo the queue's size

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module) -> None:
        """Momentum network <- decay * itself + (1 - decay) * encoder and head; moving statistics are copied.

        Averaged, these would be those of the start, mean 0 and variance 1, for thousands of steps. Called once at the
        start of each step, before its keys are made.
        """
        if self.network is None:
            return
        theirs = nn.Sequential(encoder, head)
        torch._foreach_lerp_(
            list(self.network.parameters()), [p.detach() for p in theirs.parameters()], 1 - self.settings.decay
        )
        for ours, buffer in zip(self.network.buffers(), theirs.buffers(), strict=True):
            ours.copy_(buffer)

    @torch.no_grad()
    def keys(self, views: Tensor, micro_batches: int = 1) -> Tensor | None:
        """The momentum network's keys (2, n, d) of views (2n, 3, S, S), all first views before all second ones.

        None without a momentum network. Not normalized, without gradient, and without a trace in the moving statistics.
        Part j of `micro_batches` M is rows j::M, as for the encoder; `key_batch_norm` "batch" normalizes each part by
        its own moments over all ranks.
        """
        if self.network is None:
            return None
        match self.settings.key_batch_norm:
            case "batch":
                self.network.train()
            case "moving":
                self.network.eval()
            case _:
                assert_never(self.settings.key_batch_norm)
        keys = self.queue.new_empty(len(views), self.queue.shape[1])
        with moving_share(self.network, 1.0):
            for part in range(micro_batches):
                keys[part::micro_batches] = self.network(views[part::micro_batches])
        return torch.stack(keys.chunk(2))

    def batch_keys(self, keys: Tensor | None) -> Tensor | None:
        """What the loss contrasts the current batch with: `keys`, or None where the encoder makes the batch's keys."""
        match self.settings.batch_keys:
            case "momentum":
                return keys
            case "encoder":
                return None
            case _:
                assert_never(self.settings.batch_keys)

    def negatives(self) -> Tensor:
        """The last `size` keys enqueued, or as many as there are, at unit length (q, d); `enqueue` overwrites them."""
        return self.queue[: self._written]

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest keys by all ranks' `keys` (2, n, d), normalized here: first views, then second views.

        `enqueue` "first" leaves the second views out. Of a batch larger than the queue the last `size` keys stay.
        """
        size = len(self.queue)
        if not size:
            return
        match self.settings.enqueue:
            case "first":
                views = 1
            case "both":
                views = 2
            case _:
                assert_never(self.settings.enqueue)
        new = gather_views(unit_rows(keys[:views]))
        kept = new[-size:]
        self._written += len(new)
        places = torch.arange(self._written - len(kept), self._written, device=new.device) % size
        self.queue[places] = kept.to(self.queue.dtype)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self._written)

    def set_extra_state(self, state: Tensor) -> None:
        self._written = int(state)


def _frozen_copy(encoder: nn.Module, head: nn.Module) -> nn.Sequential:
    return copy.deepcopy(nn.Sequential(encoder, head)).requires_grad_(False)
