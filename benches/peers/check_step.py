"""Compares one training step that `coin` computed in float64 with the same step by the PyTorch model.

    coin step --dtype f64 --checkpoint C --data F --modalities text,audio --samples 0..64 --out step.safetensors
    python benches/peers/check_step.py --checkpoint C --data F --modalities text,audio --samples 0..64 \\
        --step step.safetensors

`C` is a checkpoint: a safetensors file whose metadata key `config` is a JSON object of settings, holding the
parameters and the buffers `features.mean` and `features.deviation`; tensors named `optimizer.*` are left aside.
`--samples A..B` are sample indices from A up to but not including B (see `data.Conversations.samples`).

The step file holds `sample_index` [B], `logits`, `loss_clean`, `gradient.<parameter>` (of loss_clean +
loss_adversarial) and, unless the checkpoint's `adversarial` is false, `logits_adversarial`, `loss_adversarial` and
`input_gradient_norm` [B]. Dropout is off. An error is the largest difference within a tensor over the largest entry
of PyTorch's, or over 1e-8 where all are smaller; the worst one decides.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import torch
from torch import Tensor

import data
import tensor_file
from batch import Corpus
from coin_torch import Coin, Config, fill_missing_gradients, objective

SMALLEST_SCALE = 1e-8  # a gradient that is zero but for rounding has no relative error


def load_checkpoint(path: Path, recurrence: str = "packed") -> tuple[Coin, dict[str, Any]]:
    """The model of a checkpoint, in float64, and the checkpoint's settings."""
    metadata, tensors = tensor_file.read(path)
    if "config" not in metadata:
        raise ValueError(f"{path} has no `config` in its metadata, so it is not a checkpoint")
    settings = json.loads(metadata["config"])
    state = {name: torch.from_numpy(t) for name, t in tensors.items() if not name.startswith("optimizer.")}
    classes, width = state["classifier.weight"].shape[0], state["features.mean"].shape[0]
    model = Coin(width, classes, Config.of(settings), recurrence).double().eval()
    if not model.config.interaction:
        # The ablated model does not read these; a checkpoint may leave them out.
        state = {name: t for name, t in model.state_dict().items() if name.startswith("interaction.")} | state
    model.load_state_dict(state, strict=True)
    return model, settings


def compute_step(
    model: Coin, conversations: data.Conversations, targets: np.ndarray, adversarial: bool
) -> dict[str, Tensor]:
    """The step's results under the step file's names."""
    features = model.features(torch.from_numpy(conversations.features))
    corpus = Corpus.of(features, conversations.label, conversations.speaker, conversations.conversation)
    batch = model.batch(corpus, torch.from_numpy(targets))
    result = objective(model, corpus, batch, adversarial)
    fill_missing_gradients(model)
    tensors = {"logits": result.logits, "loss_clean": result.loss_clean}
    if adversarial:
        square = batch.add_by_sample(
            result.gradient_target.square().sum(dim=-1), result.gradient_history.square().sum(dim=-1)
        )
        tensors |= {
            "logits_adversarial": result.logits_adversarial,
            "loss_adversarial": result.loss_adversarial,
            "input_gradient_norm": square.sqrt(),
        }
    return tensors | {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest entry expected."""
    found, expected = found.double().reshape(-1), expected.reshape(-1)
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max()) / max(SMALLEST_SCALE, float(expected.abs().max()))


def relative_errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Of each tensor expected; infinite where it is missing or not a number."""
    errors = {name: relative_error(found[name], t) if name in found else math.inf for name, t in expected.items()}
    return {name: error if error == error else math.inf for name, error in errors.items()}


def read_step(path: Path) -> dict[str, Tensor]:
    """The tensors that `coin step` wrote."""
    return {name: torch.from_numpy(tensor) for name, tensor in tensor_file.read(path)[1].items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare a step of coin with PyTorch's.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--modalities", default="text,audio", help="comma-separated (default: text,audio)")
    parser.add_argument("--samples", required=True, metavar="A..B", help="sample indices, B not included")
    parser.add_argument("--step", type=Path, required=True, help="what `coin step --dtype f64` wrote")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="largest relative error (default: 1e-9)")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    first, last = (int(bound) for bound in arguments.samples.split(".."))
    model, settings = load_checkpoint(arguments.checkpoint)
    conversations = data.load(arguments.data, arguments.modalities.split(","))
    step = read_step(arguments.step)
    indices = np.arange(first, last)
    samples = conversations.samples()
    if not 0 <= first < last <= len(samples):
        print(f"samples {arguments.samples} are not within 0..{len(samples)}")
        return 1
    if step["sample_index"].reshape(-1).tolist() != indices.tolist():
        print(f"the step is of other samples than {arguments.samples}")
        return 1

    expected = compute_step(model, conversations, samples[indices], settings.get("adversarial", True))
    if not model.config.interaction:
        unused = [name for name in expected if name.startswith("gradient.interaction.") and name not in step]
        expected = {name: tensor for name, tensor in expected.items() if name not in unused}
    errors = relative_errors(step, expected)
    for name, error in errors.items():
        print(f"{error:10.1e}  {name} {list(expected[name].shape)}")
    worst = max(errors.values())
    good = worst <= arguments.tolerance
    print(f"worst relative error {worst:.1e}, tolerance {arguments.tolerance:.0e}: {'ok' if good else 'FAILED'}")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
