"""Times `coin` against PyTorch in turn, on the same data: training steps, epochs, predictions, live answers.

    cargo build --release
    python benches/peers/bench_step.py --check                            # do all ways compute the same?
    python benches/peers/bench_step.py --data FILE --modalities text,audio --out step.json
    python benches/peers/bench_step.py --device cuda --data synthetic --coin ./coin

It needs Python, PyTorch, numpy and the `coin` binary. PyTorch runs in each of the ways of ways.py that a device has;
every way is a process of its own that takes turns with `coin`, so that whatever else the machine does falls on both,
and the ratio is the median of the ratios of pairs. Reported is each way and the best of them.

* **Steps**, with and without the adversarial pass, in float32 and (on a card) mixed precision, with the windows that
  the data have and with full ones. A step is everything from the targets' indices to the updated parameters: windows,
  clean pass forward and backward, the perturbation, the adversarial pass, Adam; dropout on. A clock is read when the
  device has nothing left to do. On a card the index work of packed windows, which PyTorch does on the host, is left
  out of PyTorch's time: a data loader's workers would have it ready.
* **Epochs**: training alone, over the same targets, PyTorch in the way that was best at steps. `coin train`'s second
  epoch is taken. Losses are read at the end, so either side may run ahead of the device.
* **Predictions**: a batch's logits on the host, from the targets' indices.
* **Live**: one utterance after the other as a line of JSON, answered by a line of JSON before the next one is sent, by
  `coin predict` and by a loop in Python that keeps the last K utterances. Answers must agree.

A worker loads the data, warms up and prints a line; then it answers each line of its input by a line, and at the end of
its input it prints its peak memory:

    {"ready": true, "samples": 5810, ...}                         ours: "gemm_peak_gflops" as well
    {"targets": [..]} -> {"seconds": 1.2, "loss_clean": 1.7, "loss_adversarial": 1.8}       ours: "flops" as well
    {"targets": [..], "predict": true} -> {"seconds": 0.1}
    {"peak_rss_bytes": 1900000000}

A process of ours takes steps with the adversarial pass or without; one of PyTorch's takes both, told by
`"adversarial": true` in the line, and knows `{"epoch": [[..], ..], "adversarial": true} -> {"seconds": 20.1}` too.

On a CPU eager PyTorch was made faster than most would write it. In seconds without and with the adversarial pass, on
IEMOCAP (403 features), two cores, 512 samples, the paper's sizes:

    nn.GRU, pad_packed_sequence, F.dropout                                             3.4   7.2
    nn.GRU; padding by index_copy_, 16 random bits an element for dropout              1.5   2.6
    the recurrence written out with its backward pass (gru.py), the rest as before     0.8   1.65

The second is `packed eager`, the last `written eager`. Within the noise: huge pages (which take more memory), a malloc
that keeps its memory. Embedding an utterance once a batch rather than once a sample would save about one part in a
hundred; autograd on the inputs, which eq. 6 asks for, needs a row for each sample. OMP_WAIT_POLICY=passive makes it
1.2 and 2.35, so PyTorch's threads keep the default: they spin for a moment after a region and then sleep, and an
idle worker takes no time from the other. Letting torch.compile unroll `nn.GRU` (dynamo's allow_rnn) takes five minutes
for one of 40 steps and is no faster; the ways that compile leave the recurrences to the library.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator

import numpy as np

import data

SYNTHETIC = "synthetic"
PREDICTIONS_WARM_UP = 2
LIVE_WARM_UP = 60
LIVE_TOLERANCE = 1e-3  # of probabilities


def peak_rss_bytes() -> int:
    """The process's largest resident set so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def say(message: dict[str, Any]) -> None:
    """One line of the protocol."""
    print(json.dumps(message), flush=True)


def passes(arguments: argparse.Namespace) -> list[bool]:
    """Without and with the adversarial pass, as wanted."""
    return ([] if arguments.adversarial_only else [False]) + ([] if arguments.no_adversarial else [True])


def draw_batch(random: np.random.Generator, samples: np.ndarray, size: int) -> np.ndarray:
    """`size` of these sample indices."""
    return random.choice(samples, min(size, len(samples)), replace=False)


# The PyTorch workers


def steps_worker(arguments: argparse.Namespace) -> None:
    """Speaks the protocol above on standard input and output."""
    import torch

    from batch import Batch, Corpus
    from coin_torch import Coin, Config
    from ways import Predictor, Trainer, Way, set_precision, synchronise

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    device = torch.device(arguments.device)
    mixed = arguments.precision == ["mixed"]
    set_precision(mixed)
    way = Way.parse(arguments.way[0])
    conversations = data.load(arguments.data[0], arguments.modalities.split(","))
    mean, deviation = conversations.training_moments()
    features = torch.from_numpy((conversations.features - mean) / deviation).to(device, torch.float32)
    corpus = Corpus.of(features, conversations.label, conversations.speaker, conversations.conversation)
    samples = torch.from_numpy(conversations.samples())
    config = Config(
        embedding_size=arguments.embedding_size,
        history_length=arguments.history_length,
        stacks=arguments.stacks,
        dropout_keep=arguments.dropout_keep,
    )
    model = Coin(features.shape[1], len(conversations.classes), config, way.recurrence).to(device)
    trainers: dict[bool, Trainer] = {}
    predictor: Predictor | None = None
    loader_takes_it = device.type == "cuda" and way.recurrence != "padded"

    def trainer(adversarial: bool) -> Trainer:
        """The one with or without the adversarial pass; both train one model."""
        if adversarial not in trainers:
            trainers[adversarial] = Trainer(way, model, corpus, mixed, adversarial)
        model.train()
        return trainers[adversarial]

    def begin(runner: Trainer | Predictor, targets: torch.Tensor) -> tuple[float, Any]:
        """The time a step begins, and what it begins with."""
        prepared = runner.prepare(targets) if loader_takes_it else None
        synchronise(device)
        started = time.perf_counter()
        return started, runner.prepare(targets) if prepared is None else prepared

    def step(targets: torch.Tensor, adversarial: bool) -> dict[str, Any]:
        runner = trainer(adversarial)
        started, prepared = begin(runner, targets)
        clean, disturbed = runner.step(prepared)
        answer = {"loss_clean": float(clean)}  # waits for the device, as ours does
        if disturbed is not None:
            answer["loss_adversarial"] = float(disturbed)
        synchronise(device)
        return {"seconds": time.perf_counter() - started, **answer}

    def predict(targets: torch.Tensor) -> dict[str, Any]:
        nonlocal predictor
        predictor = predictor or Predictor(way, model, corpus, mixed)
        model.eval()
        started, prepared = begin(predictor, targets)
        predictor.predict(prepared)[0].cpu()
        return {"seconds": time.perf_counter() - started}

    def prepared_batches(runner: Trainer, batches: list[torch.Tensor]) -> Iterator[Any]:
        """The batches of an epoch; packed ones are built ahead by a data loader's processes on a card."""
        if not loader_takes_it:
            return (runner.prepare(targets) for targets in batches)
        build = lambda targets: Batch.build(
            conversations.conversation, conversations.speaker, targets.numpy(), config.history_length
        )
        loader = torch.utils.data.DataLoader(
            batches, batch_size=None, collate_fn=build, num_workers=2, multiprocessing_context="fork"
        )
        loaded = iter(loader)  # starts the processes
        return (batch.to(device) for batch in loaded)

    def epoch(batches: list[torch.Tensor], adversarial: bool) -> dict[str, Any]:
        runner = trainer(adversarial)
        prepared = prepared_batches(runner, batches)
        total = torch.zeros((), device=device)
        synchronise(device)
        started = time.perf_counter()
        for batch in prepared:
            losses = runner.step(batch)
            total += sum(loss for loss in losses if loss is not None)
        total = float(total)
        synchronise(device)
        return {"seconds": time.perf_counter() - started, "loss": total / len(batches)}

    random = np.random.default_rng(0)
    for adversarial in passes(arguments):
        for _ in range(4 if way.compiled else 2):
            step(samples[draw_batch(random, np.arange(len(samples)), arguments.batch_size)], adversarial)
    say({"ready": True, "samples": len(samples), "torch": torch.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        request = json.loads(line)
        adversarial = request.get("adversarial", False)
        if "epoch" in request:
            say(epoch([samples[torch.tensor(batch)] for batch in request["epoch"]], adversarial))
        else:
            targets = samples[torch.tensor(request["targets"])]
            say(predict(targets) if request.get("predict") else step(targets, adversarial))
    ended = {"peak_rss_bytes": peak_rss_bytes()}
    if device.type == "cuda":
        ended["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    say(ended)


def live_worker(arguments: argparse.Namespace) -> None:
    """Answers lines as `coin predict` does: of each conversation it keeps the last K utterances."""
    import torch

    import tensor_file
    from batch import Corpus
    from check_step import load_checkpoint
    from ways import Predictor, Way, set_precision

    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    set_precision(mixed=False)
    way = Way.parse(arguments.way[0])
    model = load_checkpoint(arguments.checkpoint, way.recurrence)[0]
    metadata = tensor_file.read(arguments.checkpoint)[0]
    classes = json.loads(metadata["classes"])
    modalities = [name for name, _ in json.loads(metadata["modalities"])]
    mean, deviation = model.features.mean.numpy(), model.features.deviation.numpy()
    model = model.float().to(device)
    history = model.config.history_length

    # The window stands at the end of one corpus of K + 1 utterances, the target last.
    rows = np.zeros((history + 1, len(mean)), dtype=np.float32)
    conversation, speaker = np.zeros(history + 1, dtype=np.int64), np.zeros(history + 1, dtype=np.int64)
    corpus = Corpus.of(torch.zeros(rows.shape, device=device), speaker, speaker, conversation)
    predictor = Predictor(way, model, corpus)
    target = torch.tensor([history])
    kept: dict[str, deque[tuple[str, str, np.ndarray]]] = {}

    def answer(line: str) -> dict[str, Any]:
        fields = json.loads(line)
        raw = np.concatenate([np.asarray(fields["features"][name]) for name in modalities])
        window = kept.setdefault(fields["conversation"], deque(maxlen=history + 1))
        window.append((fields["utterance"], fields["speaker"], (raw - mean) / deviation))
        first = history + 1 - len(window)
        conversation[:] = np.arange(history + 1) >= first
        speaker[first:] = [who == fields["speaker"] for _, who, _ in window]
        rows[first:] = [row for *_, row in window]
        corpus.features.copy_(torch.from_numpy(rows))
        corpus.speaker.copy_(torch.from_numpy(speaker))
        corpus.first.fill_(first)
        corpus.host_conversation, corpus.host_speaker = conversation, speaker
        logits, attention = predictor.predict(predictor.prepare(target))
        probabilities = torch.softmax(logits[0], dim=0).tolist()
        weights = attention.flatten().tolist()[-(len(window) - 1) :] if len(window) > 1 else []
        return {
            "conversation": fields["conversation"],
            "utterance": fields["utterance"],
            "class": classes[int(np.argmax(probabilities))],
            "probabilities": dict(zip(classes, probabilities)),
            "attention": [{"utterance": name, "weight": w} for (name, *_), w in zip(window, weights)],
        }

    for line in sys.stdin:
        say(answer(line))


# The workers, as seen from here


class Worker:
    """A process that answers line by line."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> dict[str, Any]:
        """The worker's next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.name} worker ended (exit status {self.process.wait()})")
        return json.loads(line)

    def ready(self) -> dict[str, Any]:
        """Its first line."""
        line = self.hear()
        if not line.get("ready"):
            raise RuntimeError(f"the {self.name} worker's first line is not its ready line: {line}")
        return line

    def ask(self, request: str) -> dict[str, Any]:
        """The answer to one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return self.hear()

    def seconds(self, targets: np.ndarray, **more: bool) -> float:
        """How long a training step on these samples took, or a prediction of them."""
        return self.ask(json.dumps({"targets": targets.tolist(), **more}))["seconds"]

    def finish(self) -> dict[str, Any]:
        """Ends the worker; its last line."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        last = self.hear()
        self.process.wait()
        return last

    def end(self) -> None:
        """Ends a worker that has no last line."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """The number of threads, for every library that asks the environment."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    return {name: str(arguments.threads) for name in names}


def coin_settings(arguments: argparse.Namespace, precision: str, adversarial: bool) -> list[str]:
    """Our settings, as `--set` takes them."""
    return [
        f"batch_size={arguments.batch_size}",
        f"history_length={arguments.history_length}",
        f"embedding_size={arguments.embedding_size}",
        f"stacks={arguments.stacks}",
        f"dropout_keep={arguments.dropout_keep}",
        f"adversarial={str(adversarial).lower()}",
        f"dtype={precision}",
        *arguments.set,
    ]


def computing(arguments: argparse.Namespace) -> list[str]:
    return ["--device", arguments.device, "--threads", str(arguments.threads)]


def coin_worker(arguments: argparse.Namespace, file: Path, precision: str, adversarial: bool) -> Worker:
    """Ours."""
    command = [str(arguments.coin), "bench", "--worker", "--data", str(file)]
    command += ["--modalities", arguments.modalities, *computing(arguments)]
    for value in coin_settings(arguments, precision, adversarial):
        command += ["--set", value]
    return Worker("coin", command, environment(arguments))


def torch_command(arguments: argparse.Namespace, role: str, way: str) -> list[str]:
    """The command line of a PyTorch worker: this script."""
    command = [sys.executable, __file__, "--worker", role, "--way", way]
    for name in (
        "modalities", "batch_size", "history_length", "embedding_size", "stacks", "dropout_keep", "threads", "device"
    ):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return command


def torch_worker(arguments: argparse.Namespace, file: Path, precision: str, way: str) -> Worker:
    """Theirs."""
    command = torch_command(arguments, "steps", way) + ["--data", str(file), "--precision", precision]
    command += ["--no-adversarial"] if arguments.no_adversarial else []
    command += ["--adversarial-only"] if arguments.adversarial_only else []
    return Worker(f"PyTorch ({way})", command, environment(arguments))


def prepare(file: str, coin: Path, folder: Path) -> Path:
    """The file to time on; the name `synthetic` stands for conversations that `coin` makes up."""
    if file != SYNTHETIC:
        return Path(file)
    path = folder / "synthetic.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(coin), "convert", SYNTHETIC, "--out", str(path)], check=True, stdout=subprocess.DEVNULL)
    return path


def fresh_checkpoint(arguments: argparse.Namespace, file: Path, name: str, settings: Iterable[str]) -> Path:
    """A checkpoint with `coin`'s initial values."""
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    path = arguments.scratch / f"{name}.safetensors"
    command = [str(arguments.coin), "init", "--data", str(file), "--modalities", arguments.modalities]
    for value in settings:
        command += ["--set", value]
    subprocess.run([*command, "--out", str(path)], check=True)
    return path


# The measurement


@dataclass
class Pairs:
    """Seconds of ours and theirs, taken in turn."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def add(self, pair: int, ours: Any, theirs: Any) -> None:
        """Runs both, each a function that gives seconds; who goes first alternates."""
        order = [(self.ours, ours), (self.theirs, theirs)]
        for seconds, run in order if pair % 2 == 0 else order[::-1]:
            seconds.append(run())

    def summary(self) -> dict[str, Any]:
        """Medians, and the median of the pairs' ratios."""
        return {
            "pairs": len(self.ours),
            "ours_seconds": statistics.median(self.ours),
            "theirs_seconds": statistics.median(self.theirs),
            "times_faster": statistics.median(b / a for a, b in zip(self.ours, self.theirs)),
            "ours": self.ours,
            "theirs": self.theirs,
        }


def targets_of(arguments: argparse.Namespace, file: Path, windows: str) -> np.ndarray:
    """The sample indices to draw from: all, or those whose window is full."""
    conversations = data.load(file, arguments.modalities.split(","))
    rows = conversations.samples()
    first = np.searchsorted(conversations.conversation, conversations.conversation[rows], side="left")
    least = arguments.history_length if windows == "full" else 0
    wanted = np.flatnonzero(rows - first >= least)
    if len(wanted) < arguments.batch_size:
        raise SystemExit(
            f"{file} has {len(wanted)} samples with a window of at least {least} utterances, fewer than a batch of "
            f"{arguments.batch_size}: choose a smaller --batch-size"
        )
    return wanted


def time_steps(arguments: argparse.Namespace, file: Path, precision: str) -> list[dict[str, Any]]:
    """Every way in turn with ours: training steps and predictions, over all windows and passes."""
    drawn = {windows: targets_of(arguments, file, windows) for windows in arguments.windows}
    ours, ready = {}, {}
    for adversarial in passes(arguments):
        ours[adversarial] = coin_worker(arguments, file, precision, adversarial)
        ready[adversarial] = ours[adversarial].ready()  # one at a time: each measures the processor's peak
    results = []
    for way in arguments.way:
        theirs = torch_worker(arguments, file, precision, way)
        known = theirs.ready()
        counts = {known["samples"], *(line["samples"] for line in ready.values())}
        if len(counts) > 1:
            raise RuntimeError(f"coin and PyTorch have {counts} samples: not the same data")
        common = {"data": file.name, "precision": precision, "way": way, "torch": known["torch"]}
        of_way = []
        for windows in arguments.windows:
            random = np.random.default_rng(arguments.seed)
            draw = lambda: draw_batch(random, drawn[windows], arguments.batch_size)
            for adversarial, worker in ours.items():
                steps, gflops = Pairs(), []

                def step_ours(targets: np.ndarray) -> float:
                    answer = worker.ask(json.dumps({"targets": targets.tolist()}))
                    gflops.append(answer["flops"] / answer["seconds"] / 1e9)
                    return answer["seconds"]

                for pair in range(arguments.steps):
                    targets = draw()
                    steps.add(
                        pair, lambda: step_ours(targets), lambda: theirs.seconds(targets, adversarial=adversarial)
                    )
                rate = {
                    "ours_gflops": statistics.median(gflops),
                    "gemm_peak_gflops": ready[adversarial]["gemm_peak_gflops"],
                }
                of_way.append(
                    {"what": "step", **common, "windows": windows, "adversarial": adversarial, **steps.summary(), **rate}
                )
                show(of_way[-1])
            if arguments.predictions:
                predicted, worker = Pairs(), next(iter(ours.values()))
                for pair in range(arguments.predictions + PREDICTIONS_WARM_UP):
                    targets = draw()
                    both = Pairs() if pair < PREDICTIONS_WARM_UP else predicted
                    both.add(
                        pair,
                        lambda: worker.seconds(targets, predict=True),
                        lambda: theirs.seconds(targets, predict=True),
                    )
                of_way.append(
                    {"what": "predict", **common, "windows": windows, "adversarial": None, **predicted.summary()}
                )
                show(of_way[-1])
        memory = {f"theirs_{name}": value for name, value in theirs.finish().items()}
        results += [result | memory for result in of_way]
    memory = {adversarial: worker.finish()["peak_rss_bytes"] for adversarial, worker in ours.items()}
    return [result | {"ours_peak_rss_bytes": memory.get(result["adversarial"])} for result in results]


def time_epochs(
    arguments: argparse.Namespace, file: Path, precision: str, adversarial: bool, way: str
) -> dict[str, Any]:
    """Whole epochs of `coin train` and of PyTorch's best way in turn."""
    import tensor_file

    run = arguments.scratch / "epoch"
    command = [str(arguments.coin), "train", "--quiet", "--data", str(file), "--modalities", arguments.modalities]
    command += [*computing(arguments), "--epochs", "2", "--out", str(run)]
    for value in coin_settings(arguments, precision, adversarial):
        name, _, value = value.partition("=")
        command += [f"--{name.replace('_', '-')}", value]

    def ours() -> float:
        shutil.rmtree(run, ignore_errors=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment(arguments))
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        return len(trained_on()) / last["time"]["utterances_per_second"]

    def trained_on() -> np.ndarray:
        """The sample indices that `coin train` does not hold out."""
        conversations = data.load(file, arguments.modalities.split(","))
        held_out = set(json.loads(tensor_file.read(run / "best.safetensors")[0]["validation"]))
        of = conversations.conversation[conversations.samples()]
        return np.flatnonzero([conversations.ids[index] not in held_out for index in of])

    pairs = Pairs()
    theirs = torch_worker(arguments, file, precision, way)
    theirs.ready()
    ours()  # says what is held out
    random = np.random.default_rng(arguments.seed)
    size = arguments.batch_size

    def epoch() -> float:
        order = random.permutation(trained_on())
        batches = [order[at : at + size].tolist() for at in range(0, len(order), size)]
        # The last batch is shorter: its capture is not the epoch's.
        theirs.seconds(np.array(batches[-1]), adversarial=adversarial)
        return theirs.ask(json.dumps({"epoch": batches, "adversarial": adversarial}))["seconds"]

    for pair in range(arguments.epochs):
        pairs.add(pair, ours, epoch)
    theirs.finish()
    common = {"data": file.name, "precision": precision, "windows": "real", "way": way}
    return {"what": "epoch", **common, "adversarial": adversarial, **pairs.summary()}


def live_lines(arguments: argparse.Namespace, file: Path) -> list[str]:
    """Utterances as lines, conversation after conversation, in the order of the file's features."""
    wanted = arguments.modalities.split(",")
    conversations = data.load(file, wanted)
    widths = {name: data.load(file, [name]).features.shape[1] for name in data.MODALITIES if name in wanted}
    lines = []
    for row in range(min(arguments.live + LIVE_WARM_UP, len(conversations.label))):
        features, at = {}, 0
        for name, width in widths.items():
            features[name] = conversations.features[row, at : at + width].tolist()
            at += width
        line = {
            "conversation": conversations.ids[conversations.conversation[row]],
            "utterance": str(row),
            "speaker": str(conversations.speaker[row]),
            "features": features,
        }
        lines.append(json.dumps(line))
    return lines


def time_live(arguments: argparse.Namespace, file: Path, way: str) -> dict[str, Any]:
    """The time from a line to its answer, utterance by utterance."""
    checkpoint = fresh_checkpoint(arguments, file, "live", coin_settings(arguments, "f32", True))
    command = [str(arguments.coin), "predict", "--checkpoint", str(checkpoint), *computing(arguments)]
    ours = Worker("coin predict", command, environment(arguments))
    command = [*torch_command(arguments, "live", way), "--checkpoint", str(checkpoint)]
    theirs = Worker(f"PyTorch ({way})", command, environment(arguments))
    answers: dict[str, dict[str, Any]] = {}

    def ask(worker: Worker, line: str) -> float:
        started = time.perf_counter()
        answers[worker.name] = worker.ask(line)
        return time.perf_counter() - started

    pairs = Pairs()
    for number, line in enumerate(live_lines(arguments, file)):
        both = Pairs() if number < LIVE_WARM_UP else pairs
        both.add(number, lambda: ask(ours, line), lambda: ask(theirs, line))
        check_answers(answers[ours.name], answers[theirs.name])
    ours.end()
    theirs.end()
    common = {"data": file.name, "precision": "f32", "windows": "real", "way": way}
    tail = {
        f"{side}_seconds_90th": float(np.quantile(seconds, 0.9))
        for side, seconds in (("ours", pairs.ours), ("theirs", pairs.theirs))
    }
    return {"what": "live", **common, "adversarial": None, **pairs.summary(), **tail}


def check_answers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Both sides must have answered the same."""
    difference = max(abs(p - theirs["probabilities"][name]) for name, p in ours["probabilities"].items())
    weights = [[entry["weight"] for entry in side["attention"]] for side in (ours, theirs)]
    names = [[entry["utterance"] for entry in side["attention"]] for side in (ours, theirs)]
    difference = max([difference, *(abs(a - b) for a, b in zip(*weights))])
    if names[0] != names[1] or not difference <= LIVE_TOLERANCE:
        raise RuntimeError(f"live answers differ by {difference}:\n{ours}\n{theirs}")


# Reading it


HEAD = (
    f"{'what':8} {'data':24} {'precision':9} {'windows':7} {'adv.':4} {'PyTorch':24} {'ours ms':>9} {'theirs ms':>10} "
    f"{'faster':>7}"
)


def row(result: dict[str, Any]) -> str:
    """A result for reading; `faster` is the median of the pairs' ratios, theirs over ours."""
    adversarial = {True: "yes", False: "no", None: ""}[result["adversarial"]]
    return (
        f"{result['what']:8} {result['data'][:24]:24} {result['precision']:9} {result['windows']:7} {adversarial:4} "
        f"{result['way']:24} {result['ours_seconds'] * 1e3:9.2f} {result['theirs_seconds'] * 1e3:10.2f} "
        f"{result['times_faster']:7.2f}"
    )


def show(result: dict[str, Any]) -> None:
    """Progress."""
    print(row(result), file=sys.stderr, flush=True)


def best(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each thing that was timed, PyTorch's best way."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for result in results:
        key = tuple(result[name] for name in ("what", "data", "precision", "windows", "adversarial"))
        if key not in found or result["times_faster"] < found[key]["times_faster"]:
            found[key] = result
    return list(found.values())


def table(results: list[dict[str, Any]]) -> str:
    """All results, and then the best ways alone."""
    lines = [HEAD, *map(row, results), "", "Against PyTorch's best way:", "", HEAD, *map(row, best(results))]
    rates = {
        f"ours: {r['ours_gflops']:.1f} GFLOP/s ({r['ours_gflops'] / r['gemm_peak_gflops']:.0%} of the processor's "
        f"products in the cache), {r['ours_peak_rss_bytes'] / 1e6:.0f} MB; PyTorch ({r['way']}): "
        f"{r['theirs_peak_rss_bytes'] / 1e6:.0f} MB; {'with' if r['adversarial'] else 'without'} the adversarial pass"
        for r in best(results)
        if r["what"] == "step" and r["windows"] == "real" and r["precision"] == "f32"
    }
    return "\n".join([*lines, "", *sorted(rates)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time coin against PyTorch, in turn.")
    parser.add_argument("--data", action="append", help="a file, or `synthetic` (default); may be repeated")
    parser.add_argument("--modalities", default="text,audio", help="comma-separated (default: text,audio)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for both sides (default: cpu)")
    parser.add_argument("--way", action="append", help="one of PyTorch's ways, as in padded:graphs (default: all); may be repeated")
    parser.add_argument("--precision", action="append", choices=["f32", "mixed"], help="default: f32, on a card both; may be repeated")
    parser.add_argument("--windows", action="append", choices=["real", "full"], help="default: both; may be repeated")
    parser.add_argument("--steps", type=int, default=5, help="pairs of steps (default: 5)")
    parser.add_argument("--predictions", type=int, default=5, help="pairs of batches to predict (default: 5)")
    parser.add_argument("--epochs", type=int, default=1, help="pairs of epochs (default: 1)")
    parser.add_argument("--live", type=int, default=200, help="live utterances (default: 200)")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--history-length", type=int, default=40)
    parser.add_argument("--embedding-size", type=int, default=100)
    parser.add_argument("--stacks", type=int, default=3)
    parser.add_argument("--dropout-keep", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-adversarial", action="store_true", help="only without the adversarial pass")
    parser.add_argument("--adversarial-only", action="store_true", help="only with the adversarial pass")
    parser.add_argument("--seed", type=int, default=1, help="of the batches (default: 1)")
    parser.add_argument("--coin", type=Path, default=Path("target/release/coin"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting for coin")
    parser.add_argument("--scratch", type=Path, default=Path("target/bench"), help="where synthetic data and runs are put")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--check", action="store_true", help="compare all ways with the float64 reference, and time nothing")
    parser.add_argument("--worker", choices=["steps", "live"], help="be a worker rather than compare two")
    parser.add_argument("--checkpoint", type=Path, help="what a live worker loads")
    return parser.parse_args()


def with_defaults(arguments: argparse.Namespace) -> argparse.Namespace:
    """Fills in what depends on the device, and refuses ways that do not exist."""
    import torch

    from ways import Way, ways

    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: PyTorch finds no card here")
    if not arguments.coin.is_file():
        raise SystemExit(f"--coin {arguments.coin}: there is no such file; build it with cargo build --release")
    arguments.coin = arguments.coin.resolve()  # a bare name would be looked for on the PATH
    arguments.data = arguments.data or [SYNTHETIC]
    arguments.windows = arguments.windows or ["real", "full"]
    arguments.precision = arguments.precision or (["f32", "mixed"] if device.type == "cuda" else ["f32"])
    if device.type != "cuda" and "mixed" in arguments.precision:
        raise SystemExit("--precision mixed: coin has mixed precision on a card alone")
    try:
        chosen = [Way.parse(way) for way in arguments.way] if arguments.way else ways(device)
    except ValueError as error:
        raise SystemExit(f"--way: {error}")
    if device.type != "cuda" and arguments.check and not arguments.way:
        chosen.append(Way("padded", "graphs"))
    if device.type != "cuda" and not arguments.check and any(way.captured for way in chosen):
        raise SystemExit("--way: CUDA graphs need a card (--check runs their static step uncaptured)")
    arguments.way = [str(way) for way in chosen]
    return arguments


def check(arguments: argparse.Namespace) -> bool:
    """Whether all ways compute the same, on each file."""
    import torch

    import check_ways
    from ways import Way

    torch.set_num_threads(arguments.threads)
    good = True
    for name in arguments.data:
        file = prepare(name, arguments.coin, arguments.scratch)
        arguments.dropout_keep = 1.0
        checkpoint = fresh_checkpoint(arguments, file, "check", coin_settings(arguments, "f32", True))
        good &= check_ways.check(
            arguments.coin, file, arguments.modalities, checkpoint, arguments.scratch, torch.device(arguments.device),
            [Way.parse(way) for way in arguments.way],
        )
    print("all agree" if good else "FAILED")
    return good


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Everything that was asked for."""
    results = []
    for name in arguments.data:
        file = prepare(name, arguments.coin, arguments.scratch)
        for precision in arguments.precision:
            found = time_steps(arguments, file, precision)
            results += found
            steps = best([result for result in found if result["what"] == "step" and result["windows"] == "real"])
            for step in steps if arguments.epochs else []:
                results.append(time_epochs(arguments, file, precision, step["adversarial"], step["way"]))
                show(results[-1])
        for way in arguments.way if arguments.live else []:
            # A window more by each utterance would compile a packed model again and again.
            if way != "packed compile":
                results.append(time_live(arguments, file, way))
                show(results[-1])
    return results


def main() -> int:
    arguments = parse()
    if arguments.worker:
        (steps_worker if arguments.worker == "steps" else live_worker)(arguments)
        return 0
    arguments = with_defaults(arguments)
    if arguments.check:
        return int(not check(arguments))
    results = measure(arguments)
    print(table(results))
    if arguments.out:
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        content = {"arguments": shown, "results": results, "best": best(results)}
        arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
