"""Times one training step of `coin` and of the PyTorch model, in turn, on the same batches.

    cargo build --release
    python benches/peers/bench_step.py --data FILE --modalities text,audio --out step.json

Two worker processes take turns, so that whatever else the machine does falls on both; the ratio is the median of
the ratios of pairs. A worker loads the data, warms up and prints a line; for every line `{"targets": [...]}` it then
takes one training step on those samples and prints another; at the end of its input it prints its peak memory:

    {"ready": true, "samples": 5810, ...}                        ours: "gemm_peak_gflops" as well
    {"seconds": 1.2, "loss_clean": 1.7, "loss_adversarial": 1.8}  ours: "flops" of the step as well
    {"peak_rss_bytes": 1900000000}

A step is everything from the targets' indices to the updated parameters: windows, clean pass forward and
backward, the perturbation, the adversarial pass forward and backward, Adam; float32, dropout on.

The PyTorch step is as fast as eager PyTorch was made to go on a CPU while computing the same thing. In seconds
without and with the adversarial pass, on IEMOCAP (403 features), two cores, 512 samples, the paper's sizes:

    nn.GRU, pad_packed_sequence, F.dropout                                             3.4   7.2
    nn.GRU; padding by index_copy_, 16 random bits an element for dropout              1.5   2.6
    the recurrence written out with its backward pass (gru.py), the rest as before     0.8   1.65

The second is what is timed; --torch-gru written times the last. Within the noise: huge pages (which take more memory), a malloc that
keeps its memory. Embedding an utterance once a batch rather than once a sample would save about one part in a
hundred; autograd on the inputs, which eq. 6 asks for, needs a row for each sample. OMP_WAIT_POLICY=passive makes it
1.2 and 2.35, so PyTorch's threads keep the default: they spin for a moment after a region and then sleep, and an
idle worker takes no time from the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SYNTHETIC = "synthetic"


def peak_rss_bytes() -> int:
    """The process's largest resident set so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


# The PyTorch worker


def torch_worker(arguments: argparse.Namespace) -> None:
    """Speaks the protocol above on standard input and output."""
    import torch

    import data
    from batch import Batch
    from coin_torch import Coin, Config, adam, fill_missing_gradients, objective

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    conversations = data.load(arguments.data[0], arguments.modalities.split(","))
    mean, deviation = conversations.training_moments()
    features = torch.from_numpy((conversations.features - mean) / deviation).float()
    labels = torch.from_numpy(conversations.label)
    samples = conversations.samples()
    config = Config(
        embedding_size=arguments.embedding_size,
        history_length=arguments.history_length,
        stacks=arguments.stacks,
        dropout_keep=arguments.dropout_keep,
    )
    written = arguments.torch_gru == "written"
    model = Coin(features.shape[1], len(conversations.classes), config, written_gru=written).train()
    optimizer = adam(model)

    def step(indices: np.ndarray) -> dict[str, Any]:
        started = time.perf_counter()
        batch = Batch.build(conversations.conversation, conversations.speaker, samples[indices], config.history_length)
        optimizer.zero_grad(set_to_none=True)
        result = objective(model, features, labels, batch, adversarial=not arguments.no_adversarial)
        fill_missing_gradients(model)
        optimizer.step()
        answer: dict[str, Any] = {"seconds": time.perf_counter() - started, "loss_clean": float(result.loss_clean)}
        if result.loss_adversarial is not None:
            answer["loss_adversarial"] = float(result.loss_adversarial)
        return answer

    random = np.random.default_rng(0)
    for _ in range(2):
        step(draw_batch(random, len(samples), arguments.batch_size))
    say({"ready": True, "samples": len(samples), "torch": torch.__version__, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        say(step(np.array(json.loads(line)["targets"])))
    say({"peak_rss_bytes": peak_rss_bytes()})


def say(message: dict[str, Any]) -> None:
    """One line of the protocol."""
    print(json.dumps(message), flush=True)


def draw_batch(random: np.random.Generator, samples: int, size: int) -> np.ndarray:
    """Sample indices of one batch."""
    return random.choice(samples, min(size, samples), replace=False)


# The two workers, as seen from here


class Worker:
    """A worker process and its side of the protocol."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self.hear()
        if not self.ready.get("ready"):
            raise RuntimeError(f"the {name} worker's first line is not its ready line: {self.ready}")

    def hear(self) -> dict[str, Any]:
        """The worker's next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {self.name} worker ended (exit status {self.process.wait()})")
        return json.loads(line)

    def step(self, targets: np.ndarray) -> dict[str, Any]:
        """One training step on these samples."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"targets": targets.tolist()}) + "\n")
        self.process.stdin.flush()
        return self.hear()

    def finish(self) -> int:
        """Ends the worker; its peak memory in bytes."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        peak = self.hear()["peak_rss_bytes"]
        self.process.wait()
        return peak


def thread_environment(threads: int) -> dict[str, str]:
    """The number of threads, for every library that asks the environment."""
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}


def coin_command(arguments: argparse.Namespace, data: Path, adversarial: bool) -> list[str]:
    """The command line of our worker."""
    settings = {
        "batch_size": arguments.batch_size,
        "history_length": arguments.history_length,
        "embedding_size": arguments.embedding_size,
        "stacks": arguments.stacks,
        "dropout_keep": arguments.dropout_keep,
        "adversarial": str(adversarial).lower(),
    }
    command = [str(arguments.coin), "bench", "--worker", "--data", str(data), "--modalities", arguments.modalities]
    command += ["--threads", str(arguments.threads)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    for setting in arguments.set:
        command += ["--set", setting]
    return command


def torch_command(arguments: argparse.Namespace, data: Path, adversarial: bool) -> list[str]:
    """The command line of the PyTorch worker: this script."""
    command = [sys.executable, __file__, "--worker", "torch", "--data", str(data)]
    for name in (
        "modalities", "batch_size", "history_length", "embedding_size", "stacks", "dropout_keep", "threads", "torch_gru"
    ):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    return command if adversarial else [*command, "--no-adversarial"]


def prepare(data: str, coin: Path, folder: Path) -> Path:
    """The file to time on; the name `synthetic` stands for conversations that `coin` makes up."""
    if data != SYNTHETIC:
        return Path(data)
    path = folder / "synthetic.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(coin), "convert", SYNTHETIC, "--out", str(path)], check=True)
    return path


# The measurement


@dataclass
class Comparison:
    """Pairs of steps on one file, with or without the adversarial pass."""

    data: str
    adversarial: bool
    ours: list[dict[str, Any]]
    theirs: list[dict[str, Any]]
    ours_ready: dict[str, Any]
    theirs_ready: dict[str, Any]
    ours_peak_rss_bytes: int
    theirs_peak_rss_bytes: int

    def summary(self) -> dict[str, Any]:
        """Medians, and the medians of the pairs' ratios (ours over theirs)."""
        ours = [step["seconds"] for step in self.ours]
        theirs = [step["seconds"] for step in self.theirs]
        summary = {
            "data": self.data,
            "adversarial": self.adversarial,
            "pairs": len(ours),
            "ours_seconds": statistics.median(ours),
            "theirs_seconds": statistics.median(theirs),
            "time_ratio": statistics.median(a / b for a, b in zip(ours, theirs)),
            "ours_peak_rss_bytes": self.ours_peak_rss_bytes,
            "theirs_peak_rss_bytes": self.theirs_peak_rss_bytes,
            "memory_ratio": self.ours_peak_rss_bytes / self.theirs_peak_rss_bytes,
        }
        if all("flops" in step for step in self.ours):
            summary["ours_gflops"] = statistics.median(step["flops"] / step["seconds"] / 1e9 for step in self.ours)
        if "gemm_peak_gflops" in self.ours_ready:
            summary["gemm_peak_gflops"] = self.ours_ready["gemm_peak_gflops"]
        return summary


def compare(arguments: argparse.Namespace, data: Path, adversarial: bool) -> Comparison:
    """Starts both workers and lets them step in turn; who goes first alternates."""
    environment = thread_environment(arguments.threads)
    theirs = Worker("PyTorch", torch_command(arguments, data, adversarial), environment)
    ours = Worker("coin", coin_command(arguments, data, adversarial), environment)
    samples = theirs.ready["samples"]
    if ours.ready.get("samples", samples) != samples:
        raise RuntimeError(f"coin has {ours.ready['samples']} samples, PyTorch {samples}: not the same data")
    random = np.random.default_rng(arguments.seed)
    steps: dict[str, list[dict[str, Any]]] = {"coin": [], "PyTorch": []}
    for pair in range(arguments.steps):
        targets = draw_batch(random, samples, arguments.batch_size)
        for worker in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            steps[worker.name].append(worker.step(targets))
    return Comparison(
        data=data.name,
        adversarial=adversarial,
        ours=steps["coin"],
        theirs=steps["PyTorch"],
        ours_ready=ours.ready,
        theirs_ready=theirs.ready,
        ours_peak_rss_bytes=ours.finish(),
        theirs_peak_rss_bytes=theirs.finish(),
    )


def table(summaries: list[dict[str, Any]]) -> str:
    """The summaries for reading."""
    head = (
        f"{'data':28} {'adversarial':11} {'ours s':>8} {'torch s':>8} {'ratio':>6} "
        f"{'ours MB':>8} {'torch MB':>8} {'ratio':>6} {'GFLOP/s':>8} {'of GEMM':>8}"
    )
    lines = [head]
    for s in summaries:
        rate = f"{s['ours_gflops']:8.1f}" if "ours_gflops" in s else f"{'':8}"
        known = "ours_gflops" in s and "gemm_peak_gflops" in s
        share = f"{s['ours_gflops'] / s['gemm_peak_gflops']:8.0%}" if known else ""
        lines.append(
            f"{s['data'][:28]:28} {'yes' if s['adversarial'] else 'no':11} "
            f"{s['ours_seconds']:8.3f} {s['theirs_seconds']:8.3f} {s['time_ratio']:6.2f} "
            f"{s['ours_peak_rss_bytes'] / 1e6:8.0f} {s['theirs_peak_rss_bytes'] / 1e6:8.0f} {s['memory_ratio']:6.2f} "
            f"{rate} {share}".rstrip()
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a training step of coin against PyTorch's, in turn.")
    parser.add_argument("--data", action="append", required=True, help="a file, or `synthetic`; may be repeated")
    parser.add_argument("--modalities", default="text,audio", help="comma-separated (default: text,audio)")
    parser.add_argument("--steps", type=int, default=5, help="pairs of steps (default: 5)")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--history-length", type=int, default=40)
    parser.add_argument("--embedding-size", type=int, default=100)
    parser.add_argument("--stacks", type=int, default=3)
    parser.add_argument("--dropout-keep", type=float, default=0.7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-adversarial", action="store_true", help="only without the adversarial pass")
    parser.add_argument("--adversarial-only", action="store_true", help="only with the adversarial pass")
    parser.add_argument("--torch-gru", choices=["library", "written"], default="library")
    parser.add_argument("--seed", type=int, default=1, help="of the batches (default: 1)")
    parser.add_argument("--coin", type=Path, default=Path("target/release/coin"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting for coin")
    parser.add_argument("--scratch", type=Path, default=Path("target/bench"), help="where synthetic data is put")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--worker", choices=["torch"], help="be a worker rather than compare two")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.worker:
        torch_worker(arguments)
        return
    settings = [adversarial for adversarial, wanted in (
        (False, not arguments.adversarial_only),
        (True, not arguments.no_adversarial),
    ) if wanted]
    comparisons = [
        compare(arguments, prepare(data, arguments.coin, arguments.scratch), adversarial)
        for data in arguments.data
        for adversarial in settings
    ]
    summaries = [comparison.summary() for comparison in comparisons]
    print(table(summaries))
    if arguments.out:
        runs = [
            summary | {"ours": c.ours, "theirs": c.theirs, "ours_ready": c.ours_ready, "theirs_ready": c.theirs_ready}
            for summary, c in zip(summaries, comparisons)
        ]
        shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        arguments.out.write_text(json.dumps({"arguments": shown, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
