"""Writes simulator/tests/golden/mma.bin: products of Turing's tensor cores as MMA-Sim computes them.

    python -m venv .venv && .venv/bin/pip install torch mmasim==2.1.1 numpy ninja
    .venv/bin/python simulator/tests/peers/make_mma_golden.py simulator/tests/golden/mma.bin

MMA-Sim (Xie et al., arXiv:2511.10909) was fitted to cards bit by bit. The file has, for each case, little-endian: A [16, 8] and
B [8, 8] f16, C and D [16, 8] f32, then C and D of the same A and B in f16.
"""

import sys

import numpy as np
import torch
from mmasim.nv_ptx import sim

CASES = 96


def halves(random, shape, kind):
    if kind == 0:  # any bits that are numbers
        bits = random.integers(0, 1 << 16, shape, dtype=np.uint16)
        bits = np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits)
    elif kind == 1:  # around one
        return random.normal(0, 1, shape).astype(np.float16)
    elif kind == 2:  # subnormal, and many zeros
        bits = random.integers(0, 1 << 16, shape, dtype=np.uint16) & 0x83FF
        bits = np.where(random.random(shape) < 0.3, 0, bits).astype(np.uint16)
    else:  # of very different sizes
        return (random.normal(0, 1, shape) * 2.0 ** random.integers(-12, 13, shape)).astype(np.float16)
    return bits.astype(np.uint16).view(np.float16)


def singles(random, shape, kind):
    if kind == 0:
        return np.zeros(shape, np.float32)
    if kind == 1:
        return random.normal(0, 1, shape).astype(np.float32)
    return (random.normal(0, 1, shape) * 2.0 ** random.integers(-30, 20, shape)).astype(np.float32)


def main(path):
    random = np.random.default_rng(75)
    f32 = sim.MMA("Turing", "m16n8k8.f32.f16.f16.f32")
    f16 = sim.MMA("Turing", "m16n8k8.f16.f16.f16.f16")
    with open(path, "wb") as file:
        for case in range(CASES):
            a, b = halves(random, (16, 8), case % 4), halves(random, (8, 8), case // 4 % 4)
            c = singles(random, (16, 8), case // 16 % 3)
            c16 = halves(random, (16, 8), 1 if case % 2 else 3)
            tensors = [torch.from_numpy(x.copy()) for x in (a, b, c, c16)]
            d = f32(tensors[0], tensors[1], tensors[2])
            d16 = f16(tensors[0], tensors[1], tensors[3])
            for array in (a, b, c, d.numpy(), c16, d16.numpy()):
                file.write(np.ascontiguousarray(array).tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
