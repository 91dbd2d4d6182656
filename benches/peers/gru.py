"""A packed GRU for the CPU in eager PyTorch, for timing against: the same numbers as `nn.GRU`, sooner.

`nn.GRU` on a `PackedSequence` slices each time step out of the whole input product; autograd answers each slice
with a full-sized tensor of zeros, so its backward pass moves memory in proportion to rows times steps. Here
the recurrence is one `autograd.Function` with its backward pass written out: every element is touched once,
each weight's gradient is one matrix product over all steps, and the pointwise factors of the backward pass are
formed for all steps at once. The parameters stay those of an `nn.GRU`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class _Recurrence(torch.autograd.Function):
    """Step 2's cell over packed rows in both directions, given the input products of all rows."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # as the library's under autocast
    def forward(ctx: Any, from_x: Tensor, sizes: tuple[int, ...], *weights: Tensor) -> Tensor:
        """States [R, 2d] from `from_x` [R, 6d] (x W + b of r, z, n, forward and then backward) and
        `weights`: recurrent weight [3d, d] and bias [3d] of either direction."""
        d = weights[0].shape[1]
        rows = from_x.shape[0]
        states = from_x.new_empty(rows, 2 * d)
        saved = []
        for side, (weight, bias) in enumerate((weights[:2], weights[2:])):
            product = from_x.new_empty(rows, 3 * d)  # h W + b; then r, z and the recurrent part of n
            n = from_x.new_empty(rows, d)
            before = from_x.new_zeros(rows, d)  # a sequence starts from zeros
            transposed = weight.t()
            x_side = from_x[:, 3 * d * side : 3 * d * (side + 1)]
            states_side = states[:, d * side : d * (side + 1)]
            steps = _steps(sizes, reverse=side == 1)
            for step, following in zip(steps, [*steps[1:], None]):
                torch.addmm(bias, before[step], transposed, out=product[step])
                rz = product[step, : 2 * d].add_(x_side[step, : 2 * d]).sigmoid_()
                n_now = torch.addcmul(x_side[step, 2 * d :], rz[:, :d], product[step, 2 * d :], out=n[step]).tanh_()
                h = torch.lerp(n_now, before[step], rz[:, d:], out=states_side[step])
                if following is not None:
                    shared = min(step.stop - step.start, following.stop - following.start)
                    before[following.start : following.start + shared] = h[:shared]
            saved += [weight, before, product, n]
        ctx.save_for_backward(*saved)
        ctx.sizes = sizes
        return states

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, d = d_states.shape[0], d_states.shape[1] // 2
        d_x = d_states.new_empty(rows, 6 * d)
        gradients: list[Tensor] = []
        for side in (0, 1):
            weight, before, product, n = ctx.saved_tensors[4 * side : 4 * side + 4]
            r, z, recurrent = product[:, :d], product[:, d : 2 * d], product[:, 2 * d :]
            # The gates' pre-activation gradients per unit of the state's gradient (r's: per unit of n's).
            not_z = 1 - z
            n_factor = torch.addcmul(not_z, not_z * n, n, value=-1)
            z_factor = (before - n).mul_(z).mul_(not_z)
            r_factor = torch.addcmul(r, r, r, value=-1).mul_(recurrent)
            d_product = torch.empty_like(product)
            d_n = d_x[:, 3 * d * side + 2 * d : 3 * d * (side + 1)]
            d_side = d_states[:, d * side : d * (side + 1)]
            dh = before.new_zeros(ctx.sizes[0], d)
            for step in _steps(ctx.sizes, reverse=side == 0):
                now = dh[: step.stop - step.start].add_(d_side[step])
                d_n_now = torch.mul(now, n_factor[step], out=d_n[step])
                torch.mul(d_n_now, r_factor[step], out=d_product[step, :d])
                torch.mul(now, z_factor[step], out=d_product[step, d : 2 * d])
                torch.mul(d_n_now, r[step], out=d_product[step, 2 * d :])
                now.mul_(z[step]).addmm_(d_product[step], weight)
            d_x[:, 3 * d * side : 3 * d * side + 2 * d] = d_product[:, : 2 * d]
            gradients += [d_product.t() @ before, d_product.sum(dim=0)]
        return d_x, None, *gradients


def _steps(sizes: tuple[int, ...], reverse: bool) -> list[slice]:
    """The packed rows of each time step, in the order given."""
    steps, start = [], 0
    for size in sizes:
        steps.append(slice(start, start + size))
        start += size
    return steps[::-1] if reverse else steps


def packed_gru(gru: nn.GRU, x: PackedSequence) -> PackedSequence:
    """What `gru(x)[0]` gives for a bidirectional GRU of one layer."""
    weight = torch.cat([gru.weight_ih_l0, gru.weight_ih_l0_reverse])
    bias = torch.cat([gru.bias_ih_l0, gru.bias_ih_l0_reverse])
    states = _Recurrence.apply(
        torch.nn.functional.linear(x.data, weight, bias),
        tuple(x.batch_sizes.tolist()),
        gru.weight_hh_l0,
        gru.bias_hh_l0,
        gru.weight_hh_l0_reverse,
        gru.bias_hh_l0_reverse,
    )
    return PackedSequence(states, x.batch_sizes)
