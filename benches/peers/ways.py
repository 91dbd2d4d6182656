"""The ways in which PyTorch can run COIN's steps and predictions, to be timed: one model, one step, run otherwise.

A way is a form of the recurrences and an execution:

    packed, written, padded     coin_torch.Coin's `recurrence`
    eager                       operation after operation
    compile                     torch.compile; the recurrences stay the library's own
    graphs                      the whole step, optimiser included, as one captured CUDA graph
    compile+graphs              a captured step whose model is compiled

and either float32 or mixed precision: autocast to float16 with a GradScaler on a card, to bfloat16 on the CPU (whose
float16 products are emulated). A graph needs the same shapes and addresses each time, and packed sequences keep their
lengths on the host, where a capture cannot follow: `graphs` is for padded windows alone. Its input is one buffer with
the targets' indices; everything else of a batch is made within the graph.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import Tensor, nn

from batch import Batch, Corpus
from coin_torch import RECURRENCES, Coin, fill_missing_gradients, objective
from padded import PaddedBatch

EXECUTIONS = ("eager", "compile", "graphs", "compile+graphs")
WARM_UP = 3  # runs before a capture


@dataclass(frozen=True)
class Way:
    """One way to run the model; written as in `padded graphs`."""

    recurrence: str
    execution: str

    def __post_init__(self) -> None:
        if self.recurrence not in RECURRENCES or self.execution not in EXECUTIONS:
            raise ValueError(
                f"there is no way {self}; recurrences are {', '.join(RECURRENCES)}, executions {', '.join(EXECUTIONS)}"
            )
        if self.captured and self.recurrence != "padded":
            raise ValueError(
                f"{self}: packed sequences keep their lengths on the host, so a step over them cannot be captured as a "
                "CUDA graph; graphs need padded windows"
            )

    def __str__(self) -> str:
        return f"{self.recurrence} {self.execution}"

    @staticmethod
    def parse(text: str) -> "Way":
        """From `recurrence execution`, with a space or a colon between."""
        parts = text.replace(":", " ").split()
        if len(parts) != 2:
            raise ValueError(f"{text!r} is not a way; write it as in padded:graphs")
        return Way(*parts)

    @property
    def captured(self) -> bool:
        return self.execution.endswith("graphs")

    @property
    def compiled(self) -> bool:
        return self.execution.startswith("compile")


def ways(device: torch.device) -> list[Way]:
    """What is worth timing on a device."""
    names = ["packed:eager", "packed:compile", "padded:eager", "padded:compile"]
    names += ["padded:graphs", "padded:compile+graphs"] if device.type == "cuda" else ["written:eager"]
    return [Way.parse(name) for name in names]


def set_precision(mixed: bool) -> None:
    """Float32 is float32, in cuDNN too; in mixed precision what stays float32 may use TF32."""
    torch.backends.cuda.matmul.allow_tf32 = mixed
    torch.backends.cudnn.allow_tf32 = mixed


def synchronise(device: torch.device) -> None:
    """Waits for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Captured:
    """A function of the targets as a CUDA graph: one buffer in, the same tensors out each time.

    On the CPU, where there is nothing to capture, the function runs on the buffer instead, after the same runs before
    it: so that the static step can be checked without a card, not to be timed.
    """

    def __init__(self, function: Callable[[Tensor], Any], targets: Tensor, restore: Callable[[], None]) -> None:
        """`restore` undoes what the runs before the capture have changed."""
        self.function = function
        self.targets = targets.clone()
        self.graph: torch.cuda.CUDAGraph | None = None
        stream = torch.cuda.Stream() if targets.is_cuda else None
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
            for _ in range(WARM_UP):
                function(self.targets)
            restore()
        if stream:
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = function(self.targets)

    def __call__(self, targets: Tensor) -> Any:
        self.targets.copy_(targets, non_blocking=True)
        if self.graph is None:
            return self.function(self.targets)
        self.graph.replay()
        return self.result


class _Runner:
    """What training and prediction share: the model, compiled or not, under autocast or not, on a corpus."""

    def __init__(self, way: Way, model: Coin, corpus: Corpus, mixed: bool) -> None:
        if model.recurrence != way.recurrence:
            raise ValueError(f"the model's recurrences are {model.recurrence}, the way is {way}")
        self.way, self.model, self.corpus = way, model, corpus
        self.device = corpus.features.device
        if way.compiled:
            # Both passes, predictions and an epoch's last batch are variants of their own.
            torch._dynamo.config.recompile_limit = 64
        # The packed rows of each batch are others in number, so their shapes are left open.
        dynamic = None if way.recurrence != "padded" else False
        self.forward: nn.Module = torch.compile(model, dynamic=dynamic) if way.compiled else model
        dtype = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        self.autocast = (
            functools.partial(torch.autocast, self.device.type, dtype=dtype) if mixed else contextlib.nullcontext
        )
        self._captured: dict[int, Captured] = {}

    def prepare(self, targets: Tensor) -> Batch | Tensor:
        """The targets, or for packed windows the batch itself, on the device: what a data loader's workers would have
        ready before a step."""
        if self.way.recurrence == "padded":
            return targets.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else targets
        return self.model.batch(self.corpus, targets)

    def _batch(self, prepared: Batch | Tensor) -> Batch | PaddedBatch:
        return self.model.batch(self.corpus, prepared) if isinstance(prepared, Tensor) else prepared

    def _run(self, function: Callable[[Any], Any], prepared: Batch | Tensor) -> Any:
        """The function itself, or its graph for so many targets."""
        if not self.way.captured:
            return function(prepared)
        assert isinstance(prepared, Tensor)
        size = prepared.shape[0]
        if size not in self._captured:
            self._captured[size] = Captured(function, prepared, self._saved())
        return self._captured[size](prepared)

    def _saved(self) -> Callable[[], None]:
        """How to undo, in place, what runs from here on change."""
        return lambda: None


class Trainer(_Runner):
    """Training steps: both passes, Adam, and a GradScaler in mixed precision."""

    def __init__(self, way: Way, model: Coin, corpus: Corpus, mixed: bool, adversarial: bool) -> None:
        super().__init__(way, model.train(), corpus, mixed)
        self.adversarial = adversarial
        on_card = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=model.config.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True,
            capturable=on_card,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=mixed)

    def step(self, prepared: Batch | Tensor) -> tuple[Tensor, Tensor | None]:
        """One update; the clean and the adversarial loss, on the device."""
        return self._run(self._step, prepared)

    def _step(self, prepared: Batch | Tensor) -> tuple[Tensor, Tensor | None]:
        self.optimizer.zero_grad(set_to_none=True)
        result = objective(
            self.forward, self.corpus, self._batch(prepared), self.adversarial, autocast=self.autocast,
            backward=lambda loss: self.scaler.scale(loss).backward(),
        )
        fill_missing_gradients(self.model)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return result.loss_clean, result.loss_adversarial

    def _saved(self) -> Callable[[], None]:
        parameters = [parameter.detach().clone() for parameter in self.model.parameters()]
        state = {
            parameter: {name: value.clone() for name, value in entries.items()}
            for parameter, entries in self.optimizer.state.items()
        }
        scale = self.scaler.get_scale()

        @torch.no_grad()
        def restore() -> None:
            for parameter, saved in zip(self.model.parameters(), parameters):
                parameter.copy_(saved)
            for parameter, entries in self.optimizer.state.items():
                for name, value in entries.items():
                    value.copy_(state[parameter][name]) if parameter in state else value.zero_()
            if self.scaler.is_enabled():
                self.scaler.update(scale)

        return restore


class Predictor(_Runner):
    """Predictions: logits [B, C], and the last readout's weights in the layout of the batch."""

    def __init__(self, way: Way, model: Coin, corpus: Corpus, mixed: bool = False) -> None:
        super().__init__(way, model.eval(), corpus, mixed)

    def predict(self, prepared: Batch | Tensor) -> tuple[Tensor, Tensor]:
        return self._run(self._predict, prepared)

    def _predict(self, prepared: Batch | Tensor) -> tuple[Tensor, Tensor]:
        batch = self._batch(prepared)
        with torch.no_grad(), self.autocast():
            return self.forward(
                self.corpus.features[batch.history_row], self.corpus.features[batch.target_row], batch
            )
