"""The windows of a batch at their full length K, for what wants every batch to have the same shapes.

Packed sequences keep their lengths on the host, so a step over them cannot be captured as a CUDA graph, and cuDNN
leaves its persistent kernels for them. Here a window is K steps whatever its length: real ones at the end, padding
before them. Index tensors are made on the device from the targets alone.

A bidirectional recurrence must not move over padding: the backward direction ends in it, but a role's states must
also stay where the other role speaks. cuDNN has no mask, but a GRU has a gate that does this, `h' = (1 - z) n + z h`.
`MaskedGRU` reads one more feature, 1 where a step is to be left out, whose weight is so large in the update gate's row
that `z` is exactly 1 there, and 0 in the others'. Its gradient is exactly zero too, as `z (1 - z)` and `1 - z` are, so
Adam never moves that weight, and `nn.GRU` stays the library's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from batch import Corpus

KEEP = 1e4  # s(KEEP + anything reasonable) is 1 in every precision; float16 holds it


class MaskedGRU(nn.GRU):
    """`nn.GRU` of one layer that can leave steps out; its state dict is that of the plain one."""

    def __init__(self, width: int, d: int, bidirectional: bool) -> None:
        self.width = width
        self.spare = 8 - width % 8  # at least one; tensor cores like multiples of eight
        super().__init__(width + self.spare, d, bidirectional=bidirectional)
        self._register_state_dict_hook(_narrow)
        self._register_load_state_dict_pre_hook(self._widen)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name, weight in self.named_parameters():
            if name.startswith("weight_ih"):
                with torch.no_grad():
                    weight[:, self.width :] = self._columns(weight)

    def forward(self, x: Tensor, left_out: Tensor) -> Tensor:
        """States [T, B, 2d] for `x` [T, B, width]; where `left_out` [T, B] the state is the one before."""
        flag = nn.functional.pad(left_out.unsqueeze(2).to(x.dtype), (0, self.spare - 1))
        return super().forward(torch.cat([x, flag], dim=2))[0]

    def _columns(self, weight: Tensor) -> Tensor:
        """The weights of the additional features."""
        columns = weight.new_zeros(3 * self.hidden_size, self.spare)
        columns[self.hidden_size : 2 * self.hidden_size, 0] = KEEP
        return columns

    def _widen(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        for name in list(state):
            if name.startswith(f"{prefix}weight_ih") and state[name].shape[1] == self.width:
                state[name] = torch.cat([state[name], self._columns(state[name])], dim=1)


def _narrow(module: MaskedGRU, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in list(state):
        if name.startswith(f"{prefix}weight_ih"):
            state[name] = state[name][:, : module.width]


def without_flag(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A tensor shaped like the parameter `name` of `module`, less the columns that a `MaskedGRU` adds."""
    owner, _, parameter = name.rpartition(".")
    gru = module.get_submodule(owner)
    return tensor[:, : gru.width] if isinstance(gru, MaskedGRU) and parameter.startswith("weight_ih") else tensor


@dataclass
class PaddedBatch:
    """Index tensors of B windows of K steps; what `Batch` is for packed ones. Rows are [K, B, ..], time first."""

    target_row: Tensor  # [B] utterance of each target
    history_row: Tensor  # [K, B] utterance of each step; any where there is none
    by_a: Tensor  # [K, B] the step is there and role A, the target's speaker, speaks
    by_b: Tensor  # [K, B] somebody else does
    padding: Tensor  # [B, K] there is no such step

    @staticmethod
    def build(targets: Tensor, corpus: Corpus, history_length: int) -> "PaddedBatch":
        """The batch of `targets` [B], utterances of `corpus`; all of it happens on their device."""
        step = torch.arange(-history_length, 0, device=targets.device).unsqueeze(1)
        present = targets + step >= corpus.first[targets]
        row = torch.where(present, targets + step, targets)
        same = corpus.speaker[row] == corpus.speaker[targets]
        return PaddedBatch(targets, row, present & same, present & ~same, ~present.t())

    @property
    def occupied(self) -> int:
        """Every sample has its place, an empty window too."""
        return self.target_row.shape[0]

    @property
    def window_sizes(self) -> Tensor:
        """[K, B] the steps that the contextual GRUs leave out."""
        return self.padding.t()

    def in_sample_order(self, history: Tensor, target: Tensor) -> Tensor:
        """Rows [R + B, ..]: each sample's history without its padding, then its target."""
        there = torch.nn.functional.pad(~self.padding, (0, 1), value=True)
        return torch.cat([history, target.unsqueeze(0)]).transpose(0, 1)[there]

    def sort(self, rows: Tensor) -> Tensor:
        return rows

    def unsort(self, rows: Tensor) -> Tensor:
        return rows

    def pad(self, rows: Tensor) -> Tensor:
        """[K, B, w] as [B, K, w]."""
        return rows.transpose(0, 1)

    def unpad(self, padded: Tensor) -> Tensor:
        return padded.transpose(0, 1)

    def add_by_sample(self, sums: Tensor, history: Tensor) -> Tensor:
        """`sums` [B] plus, for each sample, what `history` [K, B] has for its steps."""
        return sums + history.sum(dim=0)

    def of_sample(self, values: Tensor) -> Tensor:
        """[K, B]: for each step its sample's entry of `values` [B]."""
        return values.expand_as(self.padding.t())
