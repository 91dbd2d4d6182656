"""Checks the PyTorch model against other ways to the same numbers, on every golden file.

    python benches/peers/verify.py tests/golden

1. `plain.py`, the equations one sample and one step at a time: logits, losses, perturbation, gradients and the
   parameters after three Adam steps agree with the file to 1e-12 (of the tensor's largest entry, or of one).
2. Finite differences (five-point, central) of the training objective along random directions, of each parameter,
   of all together and of the input, with the perturbation held constant: agree with the file's gradients to 1e-9.
3. The model with the recurrence of `gru.py`, and with padded windows (`padded.py`), in place of packed `nn.GRU`, its
   parameters loaded from the file by name: everything agrees with the file to 1e-12.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

import plain
import tensor_file
from batch import Batch
from coin_torch import Coin, Config
from make_golden import Conversations, evaluate

TOLERANCE = 1e-12
DIFFERENCE_TOLERANCE = 1e-9
DIFFERENCE_STEP = 1e-4  # along a direction of unit length


def read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """A golden file's config and tensors."""
    metadata, tensors = tensor_file.read(path)
    return json.loads(metadata["config"]), {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, which is cut off."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest entry where that is above one."""
    if found.shape != expected.shape:
        raise ValueError(f"shape is {tuple(found.shape)}; expected {tuple(expected.shape)}")
    if expected.numel() == 0:
        return 0.0
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))


def check_plain(config: dict, tensors: dict[str, Tensor]) -> float:
    """The worst error of `plain.py` over all of the file's results."""
    features = (tensors["data.features"] - tensors["features.mean"]) / tensors["features.deviation"]
    columns = [tensors[name].tolist() for name in ("data.conversation", "data.speaker", "data.label", "targets")]
    parameters = below(tensors, "parameter.")
    found = plain.objective(parameters, config, features, *columns)
    after = plain.adam_steps(parameters, config, 3, features, *columns)
    found |= {f"adam.{name}": tensor for name, tensor in after.items()}
    return worst_error(found, tensors)


def worst_error(found: dict[str, Tensor], tensors: dict[str, Tensor]) -> float:
    """The worst error over all of the file's results, each of which must be there."""
    given = {name for name in tensors if not name.startswith(("data.", "features.", "parameter.")) and name != "targets"}
    if given != set(found):
        raise ValueError(f"the file and the computation differ in their tensors: {sorted(given ^ set(found))}")
    return max(error(found[name], tensors[name]) for name in sorted(found))


def load_model(config: dict, tensors: dict[str, Tensor], recurrence: str = "packed") -> Coin:
    """The model with the file's parameters."""
    width, classes = tensors["data.features"].shape[1], len(config["classes"])
    model = Coin(width, classes, Config.of(config), recurrence).double()
    features = {f"features.{name}": tensor for name, tensor in below(tensors, "features.").items()}
    model.load_state_dict(below(tensors, "parameter.") | features, strict=True)
    return model


def check_recurrence(config: dict, tensors: dict[str, Tensor], recurrence: str) -> float:
    """The worst error of the model with another form of the recurrences over all of the file's results."""
    names = ("data.features", "data.conversation", "data.speaker", "data.label")
    data = Conversations(*(tensors[name].numpy() for name in names))
    found = evaluate(load_model(config, tensors, recurrence), data, tensors["targets"].numpy())
    return worst_error(found, tensors)


def check_differences(config: dict, tensors: dict[str, Tensor], directions: int = 4) -> float:
    """The worst error of the file's gradients along random directions of unit length, by finite differences."""
    model = load_model(config, tensors)
    batch = Batch.build(
        tensors["data.conversation"].numpy(), tensors["data.speaker"].numpy(), tensors["targets"].numpy(),
        config["history_length"],
    )
    labels = tensors["data.label"][batch.target_row]
    standardised = model.features(tensors["data.features"])
    perturbation = torch.empty_like(tensors["perturbation"])
    perturbation[batch.sample_order] = tensors["perturbation"]  # from sample order to role order, then targets
    moves = perturbation.split([len(batch.history_row), len(batch.target_row)])

    def loss(features: Tensor) -> float:
        history, target = features[batch.history_row], features[batch.target_row]
        clean = model(history, target, batch)[0]
        adversarial = model(history + moves[0], target + moves[1], batch)[0]
        cross_entropy = torch.nn.functional.cross_entropy
        return float(cross_entropy(clean, labels) + cross_entropy(adversarial, labels))

    def slope(value_at: Callable[[float], float]) -> float:
        """The derivative at zero, to the fourth order in the step."""
        h = DIFFERENCE_STEP
        near, far = value_at(h) - value_at(-h), value_at(2 * h) - value_at(-2 * h)
        return (8 * near - far) / (12 * h)

    generator = torch.Generator().manual_seed(1)

    def direction(like: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = {name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in like.items()}
        length = sum(float(t.square().sum()) for t in drawn.values()) ** 0.5
        return {name: t / length for name, t in drawn.items()}

    initial = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def loss_moved(toward: dict[str, Tensor], move: float) -> float:
        for name, tensor in toward.items():
            model.get_parameter(name).copy_(initial[name] + move * tensor)
        value = loss(standardised)
        for name in toward:
            model.get_parameter(name).copy_(initial[name])
        return value

    with torch.no_grad():
        logits = model(standardised[batch.history_row], standardised[batch.target_row], batch)[0]
        worst = error(logits, tensors["logits"])
        for names in [[name] for name in initial] + [list(initial)] * directions:
            toward = direction({name: initial[name] for name in names})
            expected = sum(float((toward[name] * tensors[f"gradient.{name}"]).sum()) for name in names)
            worst = max(worst, abs(slope(lambda move: loss_moved(toward, move)) - expected))
        for _ in range(directions):
            toward = direction({"u": standardised})
            expected = float((toward["u"] * tensors["input_gradient"]).sum())
            worst = max(worst, abs(slope(lambda move: loss(standardised + move * toward["u"])) - expected))
    return worst


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
    torch.set_num_threads(1)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        print(f"no golden files in {folder}; make them with make_golden.py")
        return 1
    failed = False
    print(f"{'case':20} {'plain.py':>10} {'differences':>12} {'gru.py':>10} {'padded.py':>10}")
    for path in files:
        config, tensors = read(path)
        finite = all(bool(torch.isfinite(t).all()) for t in tensors.values())
        by_plain, by_differences = check_plain(config, tensors), check_differences(config, tensors)
        by_written, by_padded = (check_recurrence(config, tensors, name) for name in ("written", "padded"))
        worst = max(by_plain, by_written, by_padded)
        good = finite and worst <= TOLERANCE and by_differences <= DIFFERENCE_TOLERANCE
        failed |= not good
        figures = f"{by_plain:10.1e} {by_differences:12.1e} {by_written:10.1e} {by_padded:10.1e}"
        print(f"{path.stem:20} {figures}{'' if good else '   FAILED'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
