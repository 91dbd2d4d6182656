"""Writes `tests/golden/<case>.safetensors`: small batches with everything one training step computes.

    python benches/peers/make_golden.py tests/golden

The files are the engine's reference: float64, seeded, the same bytes at each run on one machine. They hold
made-up data only. `verify.py` shows that an independent program, written step by step from docs/model.md,
gives the same numbers.

The metadata key `config` is a JSON object: `embedding_size`, `history_length`, `stacks`, `interaction`,
`stack_input`, `dropout_keep` (1.0), `adversarial_norm`, `epsilon`, `classes` (names) and `learning_rate`. What each
case is for stands beside it in `CASES`.

The tensors, with N utterances, B samples (targets), D features, C classes; float64 unless said otherwise:

    data.features          [N, D]  raw features
    data.conversation      [N]     i64, conversation of each utterance, nondecreasing
    data.speaker           [N]     i64
    data.label             [N]     i64
    targets                [B]     i64, utterances that are the batch's targets, in no order
    features.mean          [D]     mean and population deviation of all N utterances; the last dimension is
    features.deviation     [D]     constant, so its deviation is 1
    parameter.<name>               the parameters before the step, under the checkpoint's names (stacks count from
                                   0: `context.0.`). `interaction.*` is there even where `interaction` is false; its gradient is then zero
    logits                 [B, C]  of the clean pass, in the order of `targets`
    logits_adversarial     [B, C]
    loss_clean             [1]     mean cross entropy
    loss_adversarial       [1]
    input_gradient_norm    [B]     norm of g, the gradient of loss_clean, over all features the sample reads
                                   (history and target), whatever `adversarial_norm` is
    perturbation           [sum of (n + 1), D]  u_adv - u, standardised: for each sample in the order of
                                   `targets` its history's rows in time order, then its target's row
    gradient.<name>                gradient of loss_clean + loss_adversarial, the perturbation held constant
    input_gradient         [N, D]  the same gradient with respect to the standardised features, summed over the
                                   samples that read the utterance
    adam.<name>                    the parameters after three Adam steps on this batch (beta 0.9 and 0.999,
                                   epsilon 1e-8), the perturbation found anew each step
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from batch import Corpus
from coin_torch import Coin, Config, adam, fill_missing_gradients, objective
from padded import without_flag

ADAM_STEPS = 3


@dataclass(frozen=True)
class Case:
    """One golden file. A conversation is a string with a letter for each turn's speaker."""

    name: str
    about: str
    conversations: tuple[str, ...]
    targets: tuple[int, ...]
    width: int
    classes: int
    config: Config
    zeroed: tuple[str, ...] = field(default=())  # parameters set to zero


CASES = (
    Case(
        "empty_windows",
        "every target opens its conversation: no history at all, and no gradient to the history's weights",
        ("ABA", "BB", "A"),
        targets=(5, 0, 3),
        width=5,
        classes=3,
        config=Config(3, 40, 2, True, "attention", 1.0, "sample", 0.5, 0.01),
    ),
    Case(
        "short_windows",
        "windows of no and of one utterance, by either role",
        ("AAB", "AB", "BA"),
        targets=(4, 0, 1, 5, 3),
        width=6,
        classes=3,
        config=Config(2, 40, 1, True, "attention", 1.0, "sample", 0.7, 0.01),
    ),
    Case(
        "silent_role",
        "windows all by role A and windows all by role B, beside an ordinary and an empty one",
        ("AAAAA", "BBBBA", "ABABA", "B"),
        targets=(9, 4, 15, 14, 2),
        width=7,
        classes=4,
        config=Config(4, 40, 2, True, "attention", 1.0, "sample", 0.8, 0.01),
    ),
    Case(
        "absent_role",
        "role B speaks in no window of the batch: its GRU gets no gradient, its gates' biases do",
        ("AAAA", "BBB"),
        targets=(6, 3, 1, 2),
        width=5,
        classes=3,
        config=Config(3, 40, 1, True, "gru", 1.0, "utterance", 0.5, 0.02),
    ),
    Case(
        "three_speakers",
        "conversations of three: role B is everyone but the target's speaker; the next stack reads G",
        ("ABCABCCBA", "CABBAC"),
        targets=(8, 14, 3, 6, 7, 11),
        width=9,
        classes=5,
        config=Config(4, 40, 2, True, "gru", 1.0, "utterance", 0.4, 0.01),
    ),
    Case(
        "short_history",
        "windows cut at K = 3, one norm over the whole batch",
        ("ABBABAABAB", "BABA"),
        targets=(9, 4, 12, 10, 5, 3, 2),
        width=8,
        classes=4,
        config=Config(4, 3, 3, True, "attention", 1.0, "batch", 1.5, 0.01),
    ),
    Case(
        "no_interaction",
        "the ablation without mutual interaction",
        ("ABBAAB", "ABAB"),
        targets=(5, 9, 2, 7, 8),
        width=7,
        classes=6,
        config=Config(5, 40, 2, False, "attention", 1.0, "sample", 0.6, 0.01),
    ),
    Case(
        "zero_gradient",
        "the history's embedding is zero, so no gradient reaches the history's features: their perturbation is "
        "zero, not a quotient of zeros",
        ("ABABB", "BAA"),
        targets=(4, 7, 0, 2),
        width=5,
        classes=3,
        config=Config(3, 40, 1, True, "attention", 1.0, "utterance", 0.5, 0.01),
        zeroed=("history_embedding.weight",),
    ),
    Case(
        "shared_utterances",
        "utterances shared by several samples, conversations interleaved in the batch, one target twice; odd sizes",
        ("ABBABAABBAB", "AABAB", "BABBAAB"),
        targets=(10, 20, 4, 15, 9, 22, 7, 13, 3, 10, 16, 11, 21),
        width=11,
        classes=6,
        config=Config(5, 8, 3, True, "attention", 1.0, "sample", 1.0, 0.01),
    ),
    Case(
        "deep",
        "four stacks that read G, K smaller than the conversation, one norm over the whole batch",
        ("ABABBAABABAB", "BBABAAB"),
        targets=(11, 16, 6, 18, 9, 0),
        width=13,
        classes=6,
        config=Config(7, 9, 4, True, "gru", 1.0, "batch", 2.0, 0.01),
    ),
    Case(
        "deep_attention",
        "four stacks that read the attention's output, a norm for each utterance, without interaction",
        ("ABCBACAB", "ABBA"),
        targets=(7, 11, 5, 10, 4),
        width=10,
        classes=4,
        config=Config(6, 5, 4, False, "attention", 1.0, "utterance", 0.3, 0.01),
    ),
)


@dataclass
class Conversations:
    """The made-up utterances of one case."""

    features: np.ndarray
    conversation: np.ndarray
    speaker: np.ndarray
    label: np.ndarray


def draw(case: Case, random: np.random.Generator) -> tuple[Conversations, Coin]:
    """A case's data and its model, features standardised by the data's own mean and deviation."""
    speakers = "".join(case.conversations)
    utterances = len(speakers)
    scale = random.uniform(0.5, 3.0, case.width)
    shift = random.normal(0.0, 2.0, case.width)
    raw = random.normal(0.0, 1.0, (utterances, case.width)) * scale + shift
    raw[:, -1] = 0.75
    data = Conversations(
        features=raw,
        conversation=np.repeat(np.arange(len(case.conversations)), [len(turns) for turns in case.conversations]),
        speaker=np.array([ord(letter) - ord("A") for letter in speakers]),
        label=random.integers(0, case.classes, utterances),
    )

    model = Coin(case.width, case.classes, case.config).double()
    constant = raw.max(axis=0) == raw.min(axis=0)
    model.features.mean.copy_(torch.from_numpy(raw.mean(axis=0)))
    model.features.deviation.copy_(torch.from_numpy(np.where(constant, 1.0, raw.std(axis=0))))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough that gates, softmaxes and tanh are well away from their linear range.
            spread = 0.3 if "bias" in name else 0.5
            values = random.normal(0.0, spread, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(np.zeros_like(values) if name in case.zeroed else values))
    return data, model


def evaluate(model: Coin, data: Conversations, targets: np.ndarray) -> dict[str, Tensor]:
    """Everything of one training step, then the parameters after three; changes the model."""
    features = model.features(torch.from_numpy(data.features))
    corpus = Corpus.of(features, data.label, data.speaker, data.conversation)
    batch = model.batch(corpus, torch.from_numpy(targets))
    optimizer = adam(model)
    tensors: dict[str, Tensor] = {}
    for step in range(ADAM_STEPS):
        optimizer.zero_grad(set_to_none=True)
        result = objective(model, corpus, batch, adversarial_input_gradient=True)
        fill_missing_gradients(model)
        if step == 0:
            square = batch.add_by_sample(
                result.gradient_target.square().sum(dim=-1), result.gradient_history.square().sum(dim=-1)
            )
            input_gradient = torch.zeros_like(features)
            of_history = result.gradient_history + result.adversarial_gradient_history
            input_gradient.index_add_(0, batch.history_row.flatten(), of_history.reshape(-1, features.shape[1]))
            input_gradient.index_add_(0, batch.target_row, result.gradient_target + result.adversarial_gradient_target)
            tensors = {
                "logits": result.logits,
                "logits_adversarial": result.logits_adversarial,
                "loss_clean": result.loss_clean.reshape(1),
                "loss_adversarial": result.loss_adversarial.reshape(1),
                "input_gradient_norm": square.sqrt(),
                "perturbation": batch.in_sample_order(result.perturbation_history, result.perturbation_target),
                "input_gradient": input_gradient,
            }
            tensors |= {f"gradient.{name}": without_flag(model, name, p.grad).clone() for name, p in model.named_parameters()}
        optimizer.step()
    return tensors | {f"adam.{name}": without_flag(model, name, p.detach()).clone() for name, p in model.named_parameters()}


def config_of(case: Case) -> dict[str, Any]:
    """The `config` of a case's metadata."""
    return asdict(case.config) | {"classes": [f"class_{index}" for index in range(case.classes)]}


def write(case: Case, seed: int, folder: Path) -> Path:
    """Computes one case and writes its file."""
    data, model = draw(case, np.random.default_rng(seed))
    targets = np.array(case.targets, dtype=np.int64)
    tensors = {
        "data.features": torch.from_numpy(data.features),
        "data.conversation": torch.from_numpy(data.conversation),
        "data.speaker": torch.from_numpy(data.speaker),
        "data.label": torch.from_numpy(data.label),
        "targets": torch.from_numpy(targets),
        "features.mean": model.features.mean.clone(),
        "features.deviation": model.features.deviation.clone(),
    }
    tensors |= {f"parameter.{name}": p.detach().clone() for name, p in model.named_parameters()}
    tensors |= evaluate(model, data, targets)
    path = folder / f"{case.name}.safetensors"
    # One metadata key only: the writer orders keys as its hash table happens to, which would change the bytes.
    metadata = {"config": json.dumps(config_of(case))}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    path.chmod(0o644)
    return path


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for seed, case in enumerate(CASES, start=1):
        path = write(case, seed, folder)
        print(f"{path.stat().st_size:8d}  {path.name}")


if __name__ == "__main__":
    main()
