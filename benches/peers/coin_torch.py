"""COIN in PyTorch: the model of docs/model.md, batched, for checking against and for timing against.

Nothing here is shared with the engine: it is written from the paper's equations with `nn.GRU`, `nn.Linear`
and autograd, and the adversarial perturbation is computed as eq. 6 states it, on the D-wide features of
every sample. Parameters carry the names and the shapes of the engine's checkpoints, so
`Coin.load_state_dict(checkpoint, strict=True)` loads one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from batch import Batch
from gru import packed_gru


@dataclass(frozen=True)
class Config:
    """The settings of docs/model.md, under the names a checkpoint's `config` uses."""

    embedding_size: int = 100  # d
    history_length: int = 40  # K
    stacks: int = 3  # L
    interaction: bool = True
    stack_input: str = "attention"  # or "gru"
    dropout_keep: float = 1.0
    adversarial_norm: str = "sample"  # or "utterance", "batch"
    epsilon: float = 1.0
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.stack_input not in ("attention", "gru"):
            raise ValueError(f"stack_input is {self.stack_input!r}; it is 'attention' or 'gru'")
        if self.adversarial_norm not in ("sample", "utterance", "batch"):
            raise ValueError(f"adversarial_norm is {self.adversarial_norm!r}; it is 'sample', 'utterance' or 'batch'")

    @staticmethod
    def of(settings: Mapping[str, Any]) -> "Config":
        """The settings this model knows, out of a larger set."""
        known = Config.__dataclass_fields__
        return Config(**{name: value for name, value in settings.items() if name in known})


class Features(nn.Module):
    """Mean and population deviation of each of the D feature dimensions; `u = (raw - mean) / deviation`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, raw: Tensor) -> Tensor:
        return (raw - self.mean) / self.deviation


class Gate(nn.Module):
    """`s(h_Q W_Q + b_Q)` of eq. 1 for one role Q, with weights of its own in each direction."""

    def __init__(self, d: int) -> None:
        super().__init__()
        bound = d**-0.5
        for suffix in ("", "_reverse"):
            self.register_parameter(f"weight{suffix}", nn.Parameter(torch.empty(d, d).uniform_(-bound, bound)))
            self.register_parameter(f"bias{suffix}", nn.Parameter(torch.empty(d).uniform_(-bound, bound)))

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Gates [rows + 1, d] of both directions for a role's states [rows, 2d]; the last row is the gate of
        the state of zeros, which is what a role that has not spoken yet has."""
        forward, backward = F.pad(states, (0, 0, 0, 1)).chunk(2, dim=1)
        return (
            torch.sigmoid(F.linear(forward, self.weight, self.bias)),
            torch.sigmoid(F.linear(backward, self.weight_reverse, self.bias_reverse)),
        )


class Stack(nn.Module):
    """One contextual interaction stack (docs/model.md, "Forward", step 4)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gru = nn.GRU(2 * d, d, bidirectional=True)
        self.query = nn.Linear(2 * d, 2 * d, bias=False)
        self.key = nn.Linear(2 * d, 2 * d, bias=False)
        self.value = nn.Linear(2 * d, 2 * d, bias=False)


class Coin(nn.Module):
    """COIN of docs/model.md for D-wide features and C classes."""

    def __init__(self, width: int, classes: int, config: Config, written_gru: bool = False) -> None:
        """`written_gru` runs the recurrences by `gru.py` rather than by `nn.GRU`: the same numbers, faster."""
        super().__init__()
        d = config.embedding_size
        self.written_gru = written_gru
        self.config = config
        self.features = Features(width)
        self.history_embedding = nn.Linear(width, d)
        self.target_embedding = nn.Linear(width, 2 * d)
        self.speaker_gru = nn.ModuleDict({role: nn.GRU(d, d, bidirectional=True) for role in "ab"})
        self.interaction = nn.ModuleDict({role: Gate(d) for role in "ab"})
        self.context = nn.ModuleList(Stack(d) for _ in range(config.stacks))
        self.classifier = nn.Linear(2 * d, classes)

    def forward(self, history: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Logits [B, C] in batch order, from standardised features: `history` [R, D] in role order and
        `target` [B, D] in batch order."""
        q = self.target_embedding(target)[batch.sorted_samples]
        if batch.occupied == 0:
            for _ in self.context:
                q = torch.tanh(q)
        else:
            m = self.dropout(self.interact(self.history_embedding(history), batch))
            for stack in self.context:
                m, c = self.contextual(stack, m, q, batch)
                q = torch.tanh(q + c)
        return self.classifier(self.dropout(q))[batch.unsorted_samples]

    def interact(self, x: Tensor, batch: Batch) -> Tensor:
        """Speaker GRUs and mutual interaction (eq. 1): `M^0` [R, 2d] in window order, from `x` in role order.

        The roles' recurrences do not feed each other, so each runs over its own turns and the interaction is
        applied to all steps at once: a step's state times the gate of the other role's latest state.
        """
        turns = x.split([batch.rows_a, x.shape[0] - batch.rows_a])
        states = [
            self.recur(self.speaker_gru[role], PackedSequence(rows, sizes)) if rows.shape[0] else rows.repeat(1, 2)
            for role, rows, sizes in zip("ab", turns, batch.role_sizes)
        ]
        own = torch.cat(states).index_select(0, batch.own_state)
        if not self.config.interaction:
            return own
        gates_a, gates_b = self.interaction["a"](states[0]), self.interaction["b"](states[1])
        forward, backward = (
            torch.cat([a, b]).index_select(0, latest) for a, b, latest in zip(gates_a, gates_b, batch.other_gate)
        )
        return own * torch.cat([forward, backward], dim=1)

    def contextual(self, stack: Stack, m: Tensor, q: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """One stack: the next stack's input `M^l` [R, 2d], and `c` [B, 2d], zero where the window is empty."""
        g = self.dropout(self.recur(stack.gru, PackedSequence(m, batch.window_sizes)))
        query, key, value = batch.pad(stack.query(g)), batch.pad(stack.key(g)), batch.pad(stack.value(g))

        scores = query @ key.transpose(1, 2) * self.config.embedding_size**-0.5
        weights = torch.softmax(scores.masked_fill(batch.padding[:, None, :], -torch.inf), dim=2)
        m_att = weights @ value

        readout = (m_att @ q[: batch.occupied, :, None]).squeeze(2)
        a = torch.softmax(readout.masked_fill(batch.padding, -torch.inf), dim=1)
        c = (a[:, None, :] @ m_att).squeeze(1)
        c = F.pad(c, (0, 0, 0, q.shape[0] - batch.occupied))
        return (g if self.config.stack_input == "gru" else batch.unpad(m_att)), c

    def recur(self, gru: nn.GRU, x: PackedSequence) -> Tensor:
        """Both directions' states [rows, 2d] of packed sequences."""
        return (packed_gru(gru, x) if self.written_gru else gru(x)[0]).data

    def dropout(self, x: Tensor) -> Tensor:
        """Inverted dropout, while training.

        As `F.dropout`, but drawing 16 random bits an element, four to a number, instead of a number an element:
        on the CPU the generator is otherwise a tenth of the step.
        """
        keep = self.config.dropout_keep
        if not self.training or keep == 1.0:
            return x
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: x.numel()].view_as(x) < round(keep * 65536) - 32768
        return x * kept.to(x.dtype).mul_(1.0 / keep)


def perturb(
    history_gradient: Tensor, target_gradient: Tensor, batch: Batch, config: Config
) -> tuple[Tensor, Tensor]:
    """`eps g / ||g||` of eq. 6 for the history [R, D] and the target [B, D] rows; zero where the norm is."""
    history = history_gradient.square().sum(dim=1)
    target = target_gradient.square().sum(dim=1)
    if config.adversarial_norm == "sample":
        target = target.index_add(0, batch.history_sample, history)
        history = target[batch.history_sample]
    elif config.adversarial_norm == "batch":
        whole = history.sum() + target.sum()
        history, target = whole.expand_as(history), whole.expand_as(target)

    def scale(square: Tensor) -> Tensor:
        return torch.where(square > 0, config.epsilon / square.sqrt(), 0.0).unsqueeze(1)

    return history_gradient * scale(history), target_gradient * scale(target)


@dataclass
class Objective:
    """What one evaluation of the training objective leaves, besides the parameters' gradients.

    The adversarial entries are None where the adversarial pass was left out; `*_history` are in role order,
    `*_target` in batch order.
    """

    logits: Tensor
    loss_clean: Tensor
    gradient_history: Tensor | None = None  # g, of the mean clean loss
    gradient_target: Tensor | None = None
    perturbation_history: Tensor | None = None
    perturbation_target: Tensor | None = None
    logits_adversarial: Tensor | None = None
    loss_adversarial: Tensor | None = None
    adversarial_gradient_history: Tensor | None = None  # of the adversarial loss, if asked for
    adversarial_gradient_target: Tensor | None = None


def objective(
    model: Coin,
    features: Tensor,
    labels: Tensor,
    batch: Batch,
    adversarial: bool = True,
    adversarial_input_gradient: bool = False,
) -> Objective:
    """Eq. 6: clean and adversarial cross entropy, each a mean over the batch; adds to the parameters' gradients.

    `features` [N, D] are standardised and `labels` [N]. Every sample gets rows of its own, so an utterance that
    stands in two samples has two gradients and two perturbations. One clean backward pass yields the
    parameters' gradients and g; the adversarial pass takes g as a constant.
    """
    wanted = labels[batch.target_row]
    history = features.index_select(0, batch.history_row).requires_grad_(adversarial)
    target = features.index_select(0, batch.target_row).requires_grad_(adversarial)
    logits = model(history, target, batch)
    loss = F.cross_entropy(logits, wanted)
    loss.backward()
    result = Objective(logits.detach(), loss.detach())
    if not adversarial:
        return result

    g_history = history.grad if history.grad is not None else torch.zeros_like(history)
    g_target = target.grad if target.grad is not None else torch.zeros_like(target)
    with torch.no_grad():
        p_history, p_target = perturb(g_history, g_target, batch, model.config)
        history, target = history + p_history, target + p_target
    history.requires_grad_(adversarial_input_gradient)
    target.requires_grad_(adversarial_input_gradient)
    logits = model(history, target, batch)
    loss = F.cross_entropy(logits, wanted)
    loss.backward()

    result.gradient_history, result.gradient_target = g_history, g_target
    result.perturbation_history, result.perturbation_target = p_history, p_target
    result.logits_adversarial, result.loss_adversarial = logits.detach(), loss.detach()
    if adversarial_input_gradient:
        result.adversarial_gradient_history = history.grad if history.grad is not None else torch.zeros_like(history)
        result.adversarial_gradient_target = target.grad
    return result


def fill_missing_gradients(model: nn.Module) -> None:
    """Gives a parameter that the batch did not reach a gradient of zeros, which to Adam is not the same as none."""
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def adam(model: Coin) -> torch.optim.Adam:
    """Adam with the settings of docs/model.md."""
    return torch.optim.Adam(
        model.parameters(), lr=model.config.learning_rate, betas=(0.9, 0.999), eps=1e-8, foreach=True
    )
