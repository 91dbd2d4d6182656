"""Holds every way of ways.py against the float64 reference, before anything is timed; `bench_step.py --check` runs it.

The reference is `coin_torch.Coin` with packed `nn.GRU`, in float64 on the CPU, dropout off. First `coin step` is held
against it, from a fresh checkpoint. Then each way takes STEPS updates on as many different batches, from the same
parameters: the losses of every step, the gradients of the last one (after the updates before it) and predictions on
yet other targets must agree. An error is the largest difference within a tensor over its largest entry; the worst
one of all decides:

    coin, float64              1e-9
    float32                    1e-3, which rounding alone leaves two orders below
    mixed precision            6e-2 on a card (float16), 2e-1 on the CPU (bfloat16: 8 bits); losses and logits 2e-2

Captured steps see other targets than they were captured with. On the CPU nothing is captured: the step that would be
runs as it is on its static buffer.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import data
from batch import Corpus
from check_step import compute_step, load_checkpoint, read_step, relative_errors
from coin_torch import Coin, adam, fill_missing_gradients, objective
from padded import without_flag
from ways import Predictor, Trainer, Way, set_precision

STEPS = 3
SAMPLES = 48
COIN = 1e-9
F32 = 1e-3
MIXED = {"cuda": (6e-2, 2e-2), "cpu": (2e-1, 2e-2)}  # gradients; losses and logits


def corpus_of(conversations: data.Conversations, model: Coin, device: torch.device, dtype: torch.dtype) -> Corpus:
    """The conversations, standardised as the model's checkpoint says, on a device."""
    features = model.features.double().forward(torch.from_numpy(conversations.features))
    return Corpus.of(
        features.to(device, dtype), conversations.label, conversations.speaker, conversations.conversation
    )


def targets_of(conversations: data.Conversations) -> list[Tensor]:
    """A batch for each step and one to predict, windows of every length among them."""
    random = np.random.default_rng(3)
    samples = conversations.samples()
    return [torch.from_numpy(random.choice(samples, SAMPLES, replace=False)) for _ in range(STEPS + 1)]


def expected_of(checkpoint: Path, conversations: data.Conversations, adversarial: bool) -> dict[str, Tensor]:
    """What every way must find, by the reference."""
    model = load_checkpoint(checkpoint)[0]
    corpus = corpus_of(conversations, model, torch.device("cpu"), torch.float64)
    optimizer = adam(model)
    *batches, last = targets_of(conversations)
    found: dict[str, Tensor] = {}
    for number, targets in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        result = objective(model, corpus, model.batch(corpus, targets), adversarial)
        fill_missing_gradients(model)
        found[f"loss_clean {number}"] = result.loss_clean
        if result.loss_adversarial is not None:
            found[f"loss_adversarial {number}"] = result.loss_adversarial
        optimizer.step()
    found |= {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    batch = model.batch(corpus, last)
    with torch.no_grad():
        found["logits"] = model(corpus.features[batch.history_row], corpus.features[batch.target_row], batch)[0]
    return found


def found_by(
    way: Way, checkpoint: Path, conversations: data.Conversations, device: torch.device, mixed: bool, adversarial: bool
) -> dict[str, Tensor]:
    """The same by one of the ways."""
    set_precision(mixed)
    torch.compiler.reset()  # or the models before this one count against the limit of recompilations
    model = load_checkpoint(checkpoint, way.recurrence)[0]
    corpus = corpus_of(conversations, model, device, torch.float32)
    model = model.float().to(device)
    trainer = Trainer(way, model, corpus, mixed, adversarial)
    *batches, last = targets_of(conversations)
    found: dict[str, Tensor] = {}
    for number, targets in enumerate(batches):
        clean, disturbed = trainer.step(trainer.prepare(targets))
        found[f"loss_clean {number}"] = clean.cpu()
        if disturbed is not None:
            found[f"loss_adversarial {number}"] = disturbed.cpu()
    found |= {
        f"gradient {name}": without_flag(model, name, parameter.grad).cpu()
        for name, parameter in model.named_parameters()
    }
    predictor = Predictor(way, model, corpus, mixed)
    for targets in (batches[0], last):
        found["logits"] = predictor.predict(predictor.prepare(targets))[0].cpu()
    return found


def check_coin(coin: Path, file: Path, modalities: str, checkpoint: Path, scratch: Path) -> float:
    """The worst error of `coin step` in float64."""
    step = scratch / "check-step.safetensors"
    command = [coin, "step", "--checkpoint", checkpoint, "--data", file, "--modalities", modalities]
    subprocess.run([*map(str, command), "--samples", "0..64", "--dtype", "f64", "--out", str(step)], check=True)
    conversations = data.load(file, modalities.split(","))
    model, settings = load_checkpoint(checkpoint)
    expected = compute_step(model, conversations, conversations.samples()[:64], settings.get("adversarial", True))
    return max(relative_errors(read_step(step), expected).values())


def check(
    coin: Path, file: Path, modalities: str, checkpoint: Path, scratch: Path, device: torch.device, known: list[Way]
) -> bool:
    """Prints each of these ways' worst error; whether all of them are small enough. The checkpoint has dropout off."""
    conversations = data.load(file, modalities.split(","))
    worst = check_coin(coin, file, modalities, checkpoint, scratch)
    good = worst <= COIN
    print(f"{'coin step, float64':44} {worst:8.1e}{'' if good else '   FAILED'}", flush=True)
    if device.type != "cuda" and any(way.captured for way in known):
        print("CUDA graphs need a card: here their static step runs uncaptured")
    # Mixed precision and the passes have nothing to do with each other.
    for adversarial, mixed in ((True, False), (True, True), (False, False)):
        expected = expected_of(checkpoint, conversations, adversarial)
        for way in known:
            errors = relative_errors(found_by(way, checkpoint, conversations, device, mixed, adversarial), expected)
            gradients = max(error for name, error in errors.items() if name.startswith("gradient"))
            others = max(error for name, error in errors.items() if not name.startswith("gradient"))
            limits = MIXED[device.type] if mixed else (F32, F32)
            passed = gradients <= limits[0] and others <= limits[1]
            good &= passed
            title = f"{way}, {'mixed' if mixed else 'float32'}{', adversarial' if adversarial else ''}"
            verdict = "" if passed else "   FAILED"
            print(f"{title:44} {gradients:8.1e} gradients {others:8.1e} losses and logits{verdict}", flush=True)
    return good
