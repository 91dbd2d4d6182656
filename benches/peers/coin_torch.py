"""COIN in PyTorch: the model of docs/model.md, batched, for checking against and for timing against.

Nothing here is shared with the engine: it is written from the paper's equations with `nn.GRU`, `nn.Linear`
and autograd, and the adversarial perturbation is computed as eq. 6 states it, on the D-wide features of
every sample. Parameters carry the names of the engine's checkpoints, so `Coin.load_state_dict(checkpoint,
strict=True)` loads one.

The recurrences come in three forms that compute the same numbers: `packed` is the reference, `nn.GRU` over
packed sequences; the other two are there to be timed and are held against it (`verify.py`, `check_ways.py`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from batch import Batch, Corpus
from gru import packed_gru
from padded import MaskedGRU, PaddedBatch

RECURRENCES = ("packed", "padded", "written")


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
        """Gates [.., d] of both directions for a role's states [.., 2d]."""
        forward, backward = states.chunk(2, dim=-1)
        return (
            torch.sigmoid(F.linear(forward, self.weight, self.bias)),
            torch.sigmoid(F.linear(backward, self.weight_reverse, self.bias_reverse)),
        )


class Stack(nn.Module):
    """One contextual interaction stack (docs/model.md, "Forward", step 4)."""

    def __init__(self, d: int, gru: type[nn.GRU]) -> None:
        super().__init__()
        self.gru = gru(2 * d, d, bidirectional=True)
        self.query = nn.Linear(2 * d, 2 * d, bias=False)
        self.key = nn.Linear(2 * d, 2 * d, bias=False)
        self.value = nn.Linear(2 * d, 2 * d, bias=False)


class Coin(nn.Module):
    """COIN of docs/model.md for D-wide features and C classes."""

    def __init__(self, width: int, classes: int, config: Config, recurrence: str = "packed") -> None:
        """`recurrence` is `packed`: `nn.GRU` over packed sequences; `padded`: `padded.py`, `nn.GRU` over windows
        of K steps each; or `written`: `gru.py` over packed sequences."""
        super().__init__()
        if recurrence not in RECURRENCES:
            raise ValueError(f"recurrence is {recurrence!r}; it is one of {', '.join(RECURRENCES)}")
        d = config.embedding_size
        gru = MaskedGRU if recurrence == "padded" else nn.GRU
        self.recurrence = recurrence
        self.config = config
        self.features = Features(width)
        self.history_embedding = nn.Linear(width, d)
        self.target_embedding = nn.Linear(width, 2 * d)
        self.speaker_gru = nn.ModuleDict({role: gru(d, d, bidirectional=True) for role in "ab"})
        self.interaction = nn.ModuleDict({role: Gate(d) for role in "ab"})
        self.context = nn.ModuleList(Stack(d, gru) for _ in range(config.stacks))
        self.classifier = nn.Linear(2 * d, classes)

    def batch(self, corpus: Corpus, targets: Tensor) -> Batch | PaddedBatch:
        """The batch of these utterances in the layout that the recurrences want, on the corpus's device."""
        if self.recurrence == "padded":
            return PaddedBatch.build(targets, corpus, self.config.history_length)
        host = targets.cpu().numpy()
        batch = Batch.build(corpus.host_conversation, corpus.host_speaker, host, self.config.history_length)
        return batch.to(corpus.features.device)

    def forward(self, history: Tensor, target: Tensor, batch: Batch | PaddedBatch) -> tuple[Tensor, Tensor]:
        """Logits [B, C] in batch order, and the last readout's weights, in the batch's layout. From standardised
        features: `history` [R, D] in role order, or [K, B, D] if padded, and `target` [B, D] in batch order."""
        q = batch.sort(self.target_embedding(target))
        weights = q[:0]
        if batch.occupied == 0:
            for _ in self.context:
                q = torch.tanh(q)
        else:
            x = self.history_embedding(history)
            m = self.dropout(self.interact_padded(x, batch) if self.recurrence == "padded" else self.interact(x, batch))
            for stack in self.context:
                m, c, weights = self.contextual(stack, m, q, batch)
                q = torch.tanh(q + c)
        return batch.unsort(self.classifier(self.dropout(q))), weights

    def interact(self, x: Tensor, batch: Batch) -> Tensor:
        """Speaker GRUs and mutual interaction (eq. 1): `M^0` [R, 2d] in window order, from `x` in role order.

        The roles' recurrences do not feed each other, so each runs over its own turns and the interaction is
        applied to all steps at once: a step's state times the gate of the other role's latest state.
        """
        turns = x.split([batch.rows_a, x.shape[0] - batch.rows_a])
        states = [
            self.recur(self.speaker_gru[role], rows, sizes) if rows.shape[0] else rows.repeat(1, 2)
            for role, rows, sizes in zip("ab", turns, batch.role_sizes)
        ]
        own = torch.cat(states).index_select(0, batch.own_state)
        if not self.config.interaction:
            return own
        # A role that has not spoken yet has a state of zeros: the row past its states.
        gates_a, gates_b = (self.interaction[role](F.pad(rows, (0, 0, 0, 1))) for role, rows in zip("ab", states))
        forward, backward = (
            torch.cat([a, b]).index_select(0, latest) for a, b, latest in zip(gates_a, gates_b, batch.other_gate)
        )
        return own * torch.cat([forward, backward], dim=1)

    def interact_padded(self, x: Tensor, batch: PaddedBatch) -> Tensor:
        """The same in padded layout: `M^0` [K, B, 2d] from `x` [K, B, d].

        Each role's recurrence passes over all steps and keeps its state where the other role speaks, so at every
        step it has the role's latest state, in either direction.
        """
        states_a = self.recur(self.speaker_gru["a"], x, ~batch.by_a)
        states_b = self.recur(self.speaker_gru["b"], x, ~batch.by_b)
        by_a = batch.by_a.unsqueeze(2)
        own = torch.where(by_a, states_a, states_b)
        if not self.config.interaction:
            return own
        gates_a, gates_b = self.interaction["a"](states_a), self.interaction["b"](states_b)
        return own * torch.cat([torch.where(by_a, b, a) for a, b in zip(gates_a, gates_b)], dim=2)

    def contextual(
        self, stack: Stack, m: Tensor, q: Tensor, batch: Batch | PaddedBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One stack: the next stack's input `M^l`; `c` [B, 2d], zero where the window is empty; the readout's
        weights."""
        g = self.dropout(self.recur(stack.gru, m, batch.window_sizes))
        query, key, value = batch.pad(stack.query(g)), batch.pad(stack.key(g)), batch.pad(stack.value(g))

        scores = query @ key.transpose(1, 2) * self.config.embedding_size**-0.5
        weights = masked_softmax(scores, batch.padding[:, None, :])
        m_att = weights @ value

        readout = (m_att @ q[: batch.occupied, :, None]).squeeze(2)
        a = masked_softmax(readout, batch.padding).masked_fill(batch.padding, 0.0)
        c = (a[:, None, :] @ m_att).squeeze(1)
        c = F.pad(c, (0, 0, 0, q.shape[0] - batch.occupied))
        return (g if self.config.stack_input == "gru" else batch.unpad(m_att)), c, a

    @torch.compiler.disable  # does nothing in eager mode; cuDNN's recurrences are nothing to compile
    def recur(self, gru: nn.GRU, x: Tensor, sizes: Tensor) -> Tensor:
        """Both directions' states [R, 2d] of packed sequences, or [K, B, 2d] of padded ones, whose `sizes` are the
        steps to be left out."""
        if self.recurrence == "padded":
            return gru(x, sizes)
        packed = PackedSequence(x, sizes)
        return (packed_gru(gru, packed) if self.recurrence == "written" else gru(packed)[0]).data

    def dropout(self, x: Tensor) -> Tensor:
        """Inverted dropout, while training.

        On the CPU in eager mode this draws 16 random bits an element, four to a number, instead of a number an
        element as `F.dropout` does: the generator is otherwise a tenth of the step.
        """
        keep = self.config.dropout_keep
        if not self.training or keep == 1.0:
            return x
        if x.is_cuda or torch.compiler.is_compiling():
            return F.dropout(x, 1.0 - keep)
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: x.numel()].view_as(x) < round(keep * 65536) - 32768
        return x * kept.to(x.dtype).mul_(1.0 / keep)


def masked_softmax(scores: Tensor, masked: Tensor) -> Tensor:
    """Softmax over the last dimension with zeros where `masked`; even, not undefined, where all are masked."""
    return torch.softmax(scores.masked_fill(masked, torch.finfo(scores.dtype).min), dim=-1)


def perturb(
    history_gradient: Tensor, target_gradient: Tensor, batch: Batch | PaddedBatch, config: Config
) -> tuple[Tensor, Tensor]:
    """`eps g / ||g||` of eq. 6 for the history's and the target's rows [.., D]; zero where the norm is."""
    history = history_gradient.square().sum(dim=-1)
    target = target_gradient.square().sum(dim=-1)
    if config.adversarial_norm == "sample":
        target = batch.add_by_sample(target, history)
        history = batch.of_sample(target)
    elif config.adversarial_norm == "batch":
        whole = history.sum() + target.sum()
        history, target = whole.expand_as(history), whole.expand_as(target)

    def scale(square: Tensor) -> Tensor:
        return torch.where(square > 0, config.epsilon / square.sqrt(), 0.0).unsqueeze(-1)

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
    corpus: Corpus,
    batch: Batch | PaddedBatch,
    adversarial: bool = True,
    adversarial_input_gradient: bool = False,
    autocast: Callable[[], ContextManager[Any]] = contextlib.nullcontext,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Objective:
    """Eq. 6: clean and adversarial cross entropy, each a mean over the batch; adds to the parameters' gradients.

    Every sample gets rows of its own, so an utterance that
    stands in two samples has two gradients and two perturbations. One clean backward pass yields the
    parameters' gradients and g; the adversarial pass takes g as a constant.

    The passes forward run under `autocast`; `backward` may scale the loss, which does not change the perturbation.
    """
    wanted = corpus.labels[batch.target_row]

    def forward(history: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with autocast():
            logits = model(history, target, batch)[0]
            return logits, F.cross_entropy(logits, wanted)

    history = corpus.features[batch.history_row].requires_grad_(adversarial)
    target = corpus.features[batch.target_row].requires_grad_(adversarial)
    logits, loss = forward(history, target)
    backward(loss)
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
    logits, loss = forward(history, target)
    backward(loss)

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
