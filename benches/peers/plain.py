"""COIN once more, one sample and one step at a time: docs/model.md as a program, with no regard for speed.

Written apart from `coin_torch.py` and sharing nothing with it (no `nn.GRU`, no packing, no masks), so that
the two can check each other. Only gradients come from autograd; `verify.py` checks those by finite
differences as well.

Weights are stored [out, in], so the row-vector product `x W` of docs/model.md reads `W @ x` here.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]


def cell(parameters: Parameters, name: str, suffix: str, x: Tensor, h: Tensor) -> Tensor:
    """The GRU cell of step 2; the gates' rows are stacked in the order r, z, n."""
    from_x = parameters[f"{name}.weight_ih_l0{suffix}"] @ x + parameters[f"{name}.bias_ih_l0{suffix}"]
    from_h = parameters[f"{name}.weight_hh_l0{suffix}"] @ h + parameters[f"{name}.bias_hh_l0{suffix}"]
    d = h.shape[0]
    r = torch.sigmoid(from_x[:d] + from_h[:d])
    z = torch.sigmoid(from_x[d : 2 * d] + from_h[d : 2 * d])
    n = torch.tanh(from_x[2 * d :] + r * from_h[2 * d :])
    return (1 - z) * n + z * h


def speak(
    parameters: Parameters, interaction: bool, suffix: str, x: Sequence[Tensor], roles: Sequence[str]
) -> list[Tensor]:
    """Steps 2 and 3 in one direction: `m_i` for the steps in the direction's own order."""
    state = {"a": torch.zeros_like(x[0]), "b": torch.zeros_like(x[0])}
    m = []
    for x_i, role in zip(x, roles):
        other = "b" if role == "a" else "a"
        gate = torch.sigmoid(
            parameters[f"interaction.{other}.weight{suffix}"] @ state[other]
            + parameters[f"interaction.{other}.bias{suffix}"]
        )
        state[role] = cell(parameters, f"speaker_gru.{role}", suffix, x_i, state[role])
        m.append(state[role] * gate if interaction else state[role])
    return m


def recur(parameters: Parameters, name: str, suffix: str, x: Sequence[Tensor], d: int) -> list[Tensor]:
    """A GRU's states over `x` in the order given."""
    h, states = x[0].new_zeros(d), []
    for x_i in x:
        h = cell(parameters, name, suffix, x_i, h)
        states.append(h)
    return states


def sample_logits(
    parameters: Parameters, config: Mapping[str, Any], history: Tensor, roles: Sequence[str], target: Tensor
) -> Tensor:
    """Logits [C] of one sample: `history` [n, D] in time order, each step's role ("a" or "b"), `target` [D]."""
    d = config["embedding_size"]
    q = parameters["target_embedding.weight"] @ target + parameters["target_embedding.bias"]
    x = [parameters["history_embedding.weight"] @ u + parameters["history_embedding.bias"] for u in history]
    m: list[Tensor] = []
    if x:
        forward = speak(parameters, config["interaction"], "", x, roles)
        backward = speak(parameters, config["interaction"], "_reverse", x[::-1], roles[::-1])[::-1]
        m = [torch.cat(pair) for pair in zip(forward, backward)]

    for l in range(config["stacks"]):
        c = torch.zeros_like(q)
        if m:
            forward = recur(parameters, f"context.{l}.gru", "", m, d)
            backward = recur(parameters, f"context.{l}.gru", "_reverse", m[::-1], d)[::-1]
            g = [torch.cat(pair) for pair in zip(forward, backward)]
            query = [parameters[f"context.{l}.query.weight"] @ g_i for g_i in g]
            key = [parameters[f"context.{l}.key.weight"] @ g_i for g_i in g]
            value = [parameters[f"context.{l}.value.weight"] @ g_i for g_i in g]
            m_att = []
            for query_i in query:
                p = torch.softmax(torch.stack([query_i @ key_j for key_j in key]) / d**0.5, dim=0)
                m_att.append(sum(p_j * value_j for p_j, value_j in zip(p, value)))
            a = torch.softmax(torch.stack([m_i @ q for m_i in m_att]), dim=0)
            c = sum(a_i * m_i for a_i, m_i in zip(a, m_att))
            m = m_att if config["stack_input"] == "attention" else g
        q = torch.tanh(q + c)

    return parameters["classifier.weight"] @ q + parameters["classifier.bias"]


def cross_entropy(logits: Sequence[Tensor], labels: Sequence[int]) -> Tensor:
    """Mean cross entropy over a batch."""
    losses = [torch.logsumexp(row, dim=0) - row[label] for row, label in zip(logits, labels)]
    return sum(losses) / len(losses)


def perturbations(gradients: Sequence[Tensor], norm: str, epsilon: float) -> list[Tensor]:
    """`eps g / ||g||` for every sample's rows [n + 1, D], history and then target."""

    def towards(g: Tensor, length: Tensor) -> Tensor:
        return torch.zeros_like(g) if length == 0 else epsilon * g / length

    if norm == "sample":
        return [towards(g, g.norm()) for g in gradients]
    if norm == "utterance":
        return [torch.stack([towards(row, row.norm()) for row in g]) for g in gradients]
    whole = torch.sqrt(sum((g * g).sum() for g in gradients))
    return [towards(g, whole) for g in gradients]


def objective(
    parameters: Parameters,
    config: Mapping[str, Any],
    features: Tensor,
    conversation: Sequence[int],
    speaker: Sequence[int],
    label: Sequence[int],
    targets: Sequence[int],
) -> dict[str, Tensor]:
    """Eq. 6 and its gradients on standardised `features` [N, D], under the names of `make_golden.py`."""
    parameters = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
    windows, roles = [], []
    for t in targets:
        window = [i for i in range(t - config["history_length"], t) if i >= 0 and conversation[i] == conversation[t]]
        windows.append(window)
        roles.append(["a" if speaker[i] == speaker[t] else "b" for i in window])
    own = [features[window + [t]].detach().clone().requires_grad_() for window, t in zip(windows, targets)]
    labels = [label[t] for t in targets]

    def evaluate(rows: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        logits = [sample_logits(parameters, config, u[:-1], r, u[-1]) for u, r in zip(rows, roles)]
        return logits, cross_entropy(logits, labels)

    logits, clean = evaluate(own)
    g = [torch.zeros_like(u) if g is None else g for u, g in zip(own, torch.autograd.grad(clean, own, retain_graph=True))]
    perturbation = perturbations(g, config["adversarial_norm"], config["epsilon"])
    moved = [u + p for u, p in zip(own, perturbation)]
    logits_adversarial, adversarial = evaluate(moved)
    whole = torch.autograd.grad(clean + adversarial, [*parameters.values(), *own], allow_unused=True)
    by_parameter = whole[: len(parameters)]

    input_gradient = torch.zeros_like(features)
    for window, t, rows in zip(windows, targets, whole[len(parameters) :]):
        for i, row in zip(window + [t], rows):
            input_gradient[i] += row
    result = {
        "logits": torch.stack(logits),
        "logits_adversarial": torch.stack(logits_adversarial),
        "loss_clean": clean.reshape(1),
        "loss_adversarial": adversarial.reshape(1),
        "input_gradient_norm": torch.stack([rows.norm() for rows in g]),
        "perturbation": torch.cat(perturbation),
        "input_gradient": input_gradient,
    }
    for (name, tensor), gradient in zip(parameters.items(), by_parameter):
        result[f"gradient.{name}"] = torch.zeros_like(tensor) if gradient is None else gradient
    return {name: tensor.detach() for name, tensor in result.items()}


def adam_steps(
    parameters: Parameters, config: Mapping[str, Any], steps: int, *data: Any
) -> dict[str, Tensor]:
    """The parameters after `steps` Adam steps on one batch; `data` as `objective` takes it."""
    parameters = dict(parameters)
    first = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    for step in range(1, steps + 1):
        result = objective(parameters, config, *data)
        for name in parameters:
            gradient = result[f"gradient.{name}"]
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            corrected = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            parameters[name] = parameters[name] - config["learning_rate"] * corrected[0] / (corrected[1].sqrt() + 1e-8)
    return parameters
