"""torch_block_bench.py [--native PROGRAM]: what the torch bridge costs, and what it saves.

1. selective_scan_fn on a tiny tensor: the native call, and through torch's autograd.
2. One Mamba block, d_model 256, 4 sequences of 1024 tokens, forward and backward: coluber.torch.Mamba against the same
   block in plain torch operations (a scan token by token; and by mambapy's pscan where that is installed), and against
   the native block without Python, which PROGRAM (build/.../bench/mamba_block_bench) runs.

All take turns in one run, and the best of each counts: figures of this machine's speed cancel in the ratios.
"""

import argparse
import subprocess
import time
from functools import partial

import torch
import torch.nn.functional as F
from host_time import best_us

import coluber
from coluber.torch import Mamba, reference, selective_scan_fn


def overhead():
    b, d, l, n = 1, 4, 8, 4
    u, delta = torch.randn(b, d, l), torch.randn(b, d, l)
    A, B, C, D = -torch.rand(d, n), torch.randn(b, n, l), torch.randn(b, n, l), torch.randn(d)
    swapped = [coluber.array(t.transpose(1, 2)) for t in (u, delta, B, C)]
    arrays = swapped[:2] + [coluber.array(A)] + swapped[2:] + [coluber.array(D)]
    native = coluber._native.selective_scan_forward
    us = partial(best_us, rounds=8, calls=2500)
    print(f"selective_scan of ({b},{d},{l}), n {n}:")
    print(f"  native call                 {us(lambda: native(*arrays)):7.2f} us")
    with torch.no_grad():
        print(f"  selective_scan_fn, no grad  {us(lambda: selective_scan_fn(u, delta, A, B, C, D)):7.2f} us")
    u.requires_grad_()
    print(f"  selective_scan_fn, autograd {us(lambda: selective_scan_fn(u, delta, A, B, C, D)):7.2f} us")


def plain_block(model, x, scan):
    x, z = model.in_proj(x).chunk(2, dim=-1)
    length = x.shape[1]
    x = F.silu(model.conv1d(x.transpose(1, 2))[..., :length])
    dt, B, C = model.x_proj(x.transpose(1, 2)).split([model.dt_rank, model.d_state, model.d_state], dim=-1)
    dt = F.linear(dt, model.dt_proj.weight).transpose(1, 2)
    A = -torch.exp(model.A_log)
    y = scan(x, dt, A, B.transpose(1, 2), C.transpose(1, 2), model.D, z.transpose(1, 2), model.dt_proj.bias)
    return model.out_proj(y.transpose(1, 2))


def parallel_scan(pscan):
    def scan(u, delta, A, B, C, D, z, bias):
        u, delta = u.transpose(1, 2), F.softplus(delta.transpose(1, 2) + bias)
        B, C = B.transpose(1, 2), C.transpose(1, 2)
        states = pscan(torch.exp(delta.unsqueeze(-1) * A), (delta * u).unsqueeze(-1) * B.unsqueeze(2))
        y = (states @ C.unsqueeze(-1)).squeeze(-1) + u * D
        return (y * F.silu(z.transpose(1, 2))).transpose(1, 2)

    return scan


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--native", help="the program mamba_block_bench")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--plain-rounds", type=int, default=2)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; coluber {coluber.__version__}, "
          f"{coluber.get_num_threads()} threads, {coluber.cpu_isa()}")
    overhead()

    torch.manual_seed(0)
    model = Mamba(256)
    x = torch.randn(4, 1024, 256, requires_grad=True)
    seed = torch.ones(4, 1024, 256)

    def timed(forward):
        model.zero_grad(set_to_none=True)
        x.grad = None
        begin = time.perf_counter()
        forward().backward(seed)
        return (time.perf_counter() - begin) * 1e3

    ways = {"coluber.torch.Mamba": (lambda: timed(lambda: model(x)), options.rounds)}
    if options.native:
        program = subprocess.Popen(
            [options.native, "256", "1024", "4"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

        def native():
            program.stdin.write("\n")
            program.stdin.flush()
            return float(program.stdout.readline())

        ways["native block"] = (native, options.rounds)
    plain = lambda *args: reference.selective_scan_ref(*args, delta_softplus=True)  # noqa: E731
    ways["plain torch, token by token"] = (lambda: timed(lambda: plain_block(model, x, plain)), options.plain_rounds)
    try:
        from mambapy.pscan import pscan

        parallel = parallel_scan(pscan)
        ways["plain torch, mambapy's pscan"] = (
            lambda: timed(lambda: plain_block(model, x, parallel)), options.plain_rounds)
    except ImportError:
        print("mambapy is not installed: no pscan")

    best = {}
    for i in range(max(options.rounds, options.plain_rounds) + 1):
        for name, (run, rounds) in ways.items():
            if i <= rounds:
                ms = run()
                if i > 0:  # the first round is for warming up
                    best[name] = min(best.get(name, ms), ms)
    ours = best["coluber.torch.Mamba"]
    print("Mamba block, d_model 256, (4,1024), forward + backward:")
    for name, ms in best.items():
        print(f"  {name:30s} {ms:9.2f} ms  {ms / ours:6.2f} x ours")


if __name__ == "__main__":
    main()
