"""How a training step grows on an RTX 2080 Ti, and what several of them would reach: predicted, without a card.

    cargo build --release && cargo build --release -p simulated-driver
    python benches/scaling.py --dtype mixed

Runs `coin bench --turing` over batch sizes, window lengths, embedding sizes and numbers of stacks, one changed at a time, and prints
docs/scaling.md's tables as Markdown. Data-parallel training is computed from the predicted steps and the bytes of a gradient; what is
assumed of the links is below. Python alone is needed. All of it takes about an hour on two cores.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BASE = {"batch_size": 512, "history_length": 40, "embedding_size": 100, "stacks": 3}
SWEEPS = {
    "batch_size": [32, 64, 128, 256, 512, 1024],
    "history_length": [10, 20, 40, 80],
    "embedding_size": [50, 100, 150, 200, 256],
    "stacks": [1, 2, 3, 6],
}
SYMBOLS = {"batch_size": "B", "history_length": "K", "embedding_size": "d", "stacks": "L"}

# Rows of the smaller simulated batch, as 64 samples of 40 have: whole tiles and whole chunks of sums.
ROWS = 2560

# A ring sends each card's share of the gradient 2 (p - 1) times to its neighbour. Bytes a second that a card sends and receives at
# once, and seconds of a message on the way: PCIe 3.0 x16 through the host as NCCL reaches it with 2080 Tis, which have no direct
# path to each other, and a network of 100 Gb/s among four such hosts.
LINKS = {1: (float("inf"), 0.0), 4: (6e9, 10e-6), 16: (6e9, 20e-6)}
HEAD = re.compile(r"([\d.]+) ms in (\d+) launches, (\d+) MB of memory, (\d+) parameters")


class Predicted:
    def __init__(self, text):
        found = HEAD.search(text)
        if not found:
            sys.exit(f"scaling.py: cannot read what coin bench --turing printed:\n{text}")
        self.milliseconds, self.megabytes = float(found[1]), int(found[3])
        self.launches, self.parameters = int(found[2]), int(found[4])


class Predictor:
    def __init__(self, coin, data, dtype):
        self.coin, self.data, self.dtype, self.known = coin, data, dtype, {}

    def __call__(self, changed):
        settings = {**BASE, **changed}
        key = tuple(settings.items())
        if key not in self.known:
            command = [self.coin, "bench", "--turing", "--data", self.data, "--set", f"dtype={self.dtype}"]
            few = min(ROWS // settings["history_length"], settings["batch_size"] // 2)
            command += ["--turing-samples", f"{few},{2 * few}"]
            for name, value in settings.items():
                command += ["--set", f"{name}={value}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"scaling.py: {' '.join(map(str, command))}: {done.stderr}")
            self.known[key] = Predicted(done.stdout)
            print(f"{settings}: {self.known[key].milliseconds} ms", file=sys.stderr)
        return self.known[key]


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def sweep(predict, name, values):
    rows = []
    base = predict({}).milliseconds / BASE[name]
    for value in values:
        step = predict({name: value})
        batch = value if name == "batch_size" else BASE["batch_size"]
        rows.append([
            value,
            f"{step.milliseconds:.2f}",
            f"{step.milliseconds / (base * value):.2f}",
            f"{batch / step.milliseconds:.0f}",
            step.launches,
            step.megabytes,
            f"{step.parameters / 1e6:.2f}",
        ])
    table([SYMBOLS[name], "ms a step", "of proportional", "samples/ms", "launches", "MB", "M parameters"], rows)


def reduce_seconds(cards, size):
    rate, latency = LINKS[cards]
    return 2 * (cards - 1) * (size / cards / rate + latency)


def cards(predict, gradient_bytes):
    rows = []
    for count in LINKS:
        reducing = 1e3 * reduce_seconds(count, gradient_bytes)
        own = predict({}).milliseconds + reducing
        share = predict({"batch_size": BASE["batch_size"] // count}).milliseconds + reducing
        alone = predict({}).milliseconds
        rows.append([
            count,
            f"{reducing:.2f}",
            f"{own:.2f}",
            f"{count * alone / own:.1f}",
            BASE["batch_size"] // count,
            f"{share:.2f}",
            f"{alone / share:.1f}",
        ])
    head = ["cards", "ms of exchange", f"ms a step of {BASE['batch_size']} each", "times one card's samples/s"]
    table(head + ["samples of each", f"ms a step of {BASE['batch_size']} in all", "times one card's steps/s"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--coin", default="target/release/coin", help="the program (default: %(default)s)")
    parser.add_argument("--dtype", default="mixed", choices=["mixed", "f32"])
    arguments = parser.parse_args()
    if not Path(arguments.coin).exists():
        sys.exit(f"scaling.py: there is no {arguments.coin}: cargo build --release, and -p simulated-driver")
    with tempfile.TemporaryDirectory() as folder:
        # Longer than IEMOCAP's, so that enough windows of 80 are full.
        data = str(Path(folder) / "long.jsonl")
        make = ["convert", "synthetic", "--min-utterances", "60", "--max-utterances", "200", "--widths", "384,19,0"]
        subprocess.run([arguments.coin, *make, "--out", data], check=True, stdout=subprocess.DEVNULL)
        predict = Predictor(arguments.coin, data, arguments.dtype)
        for name, values in SWEEPS.items():
            sweep(predict, name, values)
        base = predict({})
        print(f"{base.parameters} parameters, {4 * base.parameters / 1e6:.1f} MB of gradients\n")
        cards(predict, 4 * base.parameters)


if __name__ == "__main__":
    main()
