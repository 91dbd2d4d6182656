"""The index work of a batch: which utterance stands in which row.

A *sample* is one target utterance with the utterances before it in its window (docs/model.md,
"Task and symbols"). Everything a forward pass needs to know about who spoke when is worked out here,
once a batch and without a loop over samples, as integer tensors. No feature is touched.

Three orders of the history's rows occur:

* **role order**: first role A's rows, then role B's, each packed as a `PackedSequence` wants it (time
  step by time step, the longest sample first). The features and their embeddings are kept in this order,
  so that the speaker GRUs read them in place.
* **window order**: all of a window's rows interleaved in time, packed the same way. The contextual
  GRUs read this order.
* **sample order**: the samples as the batch lists them, each sample's history in time order and then
  its target. Results are reported in this order.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor


def window_starts(conversation: np.ndarray, targets: np.ndarray, history_length: int) -> np.ndarray:
    """The first utterance of each target's window: `max(1, t-K)` within the target's conversation."""
    first_of = np.searchsorted(conversation, conversation[targets], side="left")
    return np.maximum(first_of, targets - history_length)


@dataclass
class Corpus:
    """N utterances, of which windows are made: what a model reads on its device, and who speaks where on the host too."""

    features: Tensor  # [N, D], standardised
    labels: Tensor  # [N]
    speaker: Tensor  # [N]
    first: Tensor  # [N] the first utterance of each one's conversation
    host_conversation: np.ndarray  # [N] nondecreasing
    host_speaker: np.ndarray  # [N]

    @staticmethod
    def of(features: Tensor, labels: np.ndarray, speaker: np.ndarray, conversation: np.ndarray) -> "Corpus":
        """On the device of `features`."""
        first = np.searchsorted(conversation, conversation, side="left")
        place = lambda array: torch.from_numpy(np.asarray(array, dtype=np.int64)).to(features.device)
        return Corpus(features, place(labels), place(speaker), place(first), conversation, speaker)


@dataclass
class Batch:
    """Index tensors of one batch of B samples with R history rows in all.

    The samples whose window is not empty come first in the *sorted* order, the longest window first;
    there are `occupied` of them.
    """

    target_row: Tensor  # [B] utterance of each target, in batch order
    history_row: Tensor  # [R] utterance of each history row, in role order
    history_sample: Tensor  # [R] sample (batch order) of each history row, in role order
    sample_order: Tensor  # [R + B] see `in_sample_order`

    sorted_samples: Tensor  # [B] batch position of each sample in the sorted order
    unsorted_samples: Tensor  # [B] its inverse
    occupied: int  # samples with at least one history utterance
    window_sizes: Tensor  # batch sizes of the packed windows, one a time step
    padding: Tensor  # [occupied, n_max] true where a window has no such step
    padded_place: Tensor  # [R] window order: the row's place among the occupied * n_max padded ones

    rows_a: int  # rows spoken by role A; the other R - rows_a are role B's
    role_sizes: tuple[Tensor, Tensor]  # batch sizes of each role's packed turns
    own_state: Tensor  # [R] window order: the row, in role order, of the step's own state
    other_gate: tuple[Tensor, Tensor]  # [R] window order, forward and backward: see `Coin.interact`

    def sort(self, rows: Tensor) -> Tensor:
        """From batch order to sorted order."""
        return rows[self.sorted_samples]

    def unsort(self, rows: Tensor) -> Tensor:
        """From sorted order to batch order."""
        return rows[self.unsorted_samples]

    def add_by_sample(self, sums: Tensor, history: Tensor) -> Tensor:
        """`sums` [B] plus, for each sample, what `history` [R] has for its rows."""
        return sums.index_add(0, self.history_sample, history)

    def of_sample(self, values: Tensor) -> Tensor:
        """[R]: for each history row its sample's entry of `values` [B]."""
        return values[self.history_sample]

    def in_sample_order(self, history: Tensor, target: Tensor) -> Tensor:
        """Rows [R + B, ...]: each sample's history (given in role order), then its target."""
        return torch.cat([history, target])[self.sample_order]

    def pad(self, rows: Tensor) -> Tensor:
        """[R, w] in window order as [occupied, n_max, w], zeros where there is no step.

        Indices rather than `pad_packed_sequence`, whose backward pass copies the whole gradient at each step.
        """
        occupied, longest = self.padding.shape
        padded = rows.new_zeros(occupied * longest, rows.shape[1]).index_copy_(0, self.padded_place, rows)
        return padded.view(occupied, longest, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """The inverse of `pad`."""
        return padded.flatten(0, 1).index_select(0, self.padded_place)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, but for the batch sizes, which `PackedSequence` reads on the host."""
        if device.type == "cpu":
            return self
        moved = {
            field.name: value.pin_memory().to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor) and field.name != "window_sizes"
        }
        forward, backward = (gate.pin_memory().to(device, non_blocking=True) for gate in self.other_gate)
        return replace(self, **moved, other_gate=(forward, backward))

    @staticmethod
    def build(
        conversation: np.ndarray, speaker: np.ndarray, targets: np.ndarray, history_length: int
    ) -> "Batch":
        """The batch of `targets`, which index the N utterances described by `conversation` (nondecreasing)
        and `speaker`."""
        targets = np.asarray(targets, dtype=np.int64)
        start = window_starts(conversation, targets, history_length)
        length = targets - start
        order = np.argsort(-length, kind="stable")
        occupied = int(np.count_nonzero(length))

        # A grid of time step x sorted sample; `present` marks the steps that windows have.
        start, length = start[order][:occupied], length[order][:occupied]
        steps = int(length[0]) if occupied else 0
        step = np.arange(steps)[:, None]
        present = step < length[None, :]
        utterance = np.where(present, start[None, :] + step, 0)
        target_speaker = speaker[targets[order][:occupied]]
        by_a = present & (speaker[utterance] == target_speaker[None, :])
        by_b = present & ~by_a

        place_a, sizes_a, before_a, turns_a = _pack_role(by_a)
        place_b, sizes_b, before_b, turns_b = _pack_role(by_b)
        rows_a, rows_b = int(sizes_a.sum()), int(sizes_b.sum())
        column = np.arange(occupied)[None, :]

        # Each step's own state: its role's turn number `before`, counted from the window's start.
        own = np.where(
            by_a,
            _place(place_a, before_a, turns_a, column, absent=0),
            rows_a + _place(place_b, before_b, turns_b, column, absent=0),
        )
        # The other role's latest state: forward its last turn before this step, backward its first
        # turn after it; the row past its states stands for the state of zeros.
        gate_a = lambda turn: _place(place_a, turn, turns_a, column, absent=rows_a)
        gate_b = lambda turn: _place(place_b, turn, turns_b, column, absent=rows_b)
        forward = np.where(by_a, rows_a + 1 + gate_b(before_b - 1), gate_a(before_a - 1))
        backward = np.where(by_a, rows_a + 1 + gate_b(before_b), gate_a(before_a))

        own_state = own[present]
        window_rows, window_samples = utterance[present], np.broadcast_to(order[:occupied], present.shape)[present]
        history_row = np.empty(rows_a + rows_b, dtype=np.int64)
        history_sample = np.empty_like(history_row)
        history_row[own_state] = window_rows
        history_sample[own_state] = window_samples

        # Sample order: a sample's rows by utterance, its target being the last of them.
        all_rows = np.concatenate([history_row, targets])
        all_samples = np.concatenate([history_sample, np.arange(len(targets))])
        sample_order = np.lexsort((all_rows, all_samples))

        integers = lambda array: torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
        return Batch(
            target_row=integers(targets),
            history_row=integers(history_row),
            history_sample=integers(history_sample),
            sample_order=integers(sample_order),
            sorted_samples=integers(order),
            unsorted_samples=integers(np.argsort(order, kind="stable")),
            occupied=occupied,
            window_sizes=integers(present.sum(axis=1)),
            padding=torch.from_numpy(~present.T.copy()),
            padded_place=integers((column * steps + step)[present]),
            rows_a=rows_a,
            role_sizes=(integers(sizes_a), integers(sizes_b)),
            own_state=integers(own_state),
            other_gate=(integers(forward[present]), integers(backward[present])),
        )


def _pack_role(spoken: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Packs one role's turns, given where on the grid [steps, samples] it speaks.

    Returns the packed row of turn k of each sample [turns, samples]; the packed batch sizes, one a turn;
    how many turns the role had strictly before each step [steps, samples]; and its turns in all [samples].
    """
    turns = spoken.sum(axis=0)
    before = np.cumsum(spoken, axis=0) - spoken
    most = int(turns.max()) if turns.size else 0
    sizes = (turns[None, :] > np.arange(most)[:, None]).sum(axis=1)
    rank = np.empty_like(turns)
    rank[np.argsort(-turns, kind="stable")] = np.arange(turns.size)
    first = np.cumsum(sizes) - sizes
    return first[:, None] + rank[None, :], sizes, before, turns


def _place(place: np.ndarray, turn: np.ndarray, turns: np.ndarray, column: np.ndarray, absent: int) -> np.ndarray:
    """The packed row of `turn` [steps, samples], or `absent` where the role has no such turn."""
    exists = (turn >= 0) & (turn < turns[None, :])
    if place.shape[0] == 0:
        return np.full(turn.shape, absent)
    return np.where(exists, place[np.where(exists, turn, 0), column], absent)
