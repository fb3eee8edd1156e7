"""torch_cuda_bench.py [--native PROGRAM]: what the torch bridge costs on a GPU.

1. selective_scan_fn on a tiny tensor, host time of a call (the GPU works meanwhile): with and without autograd, beside
   calls of torch's own that it is made of.
2. One Mamba block in bf16 under autocast, forward and backward, against the native block without Python, which PROGRAM
   (build/.../bench/mamba_block_bench) runs on the same GPU.
3. A decoded token of a language model, eager and as a CUDA graph.

Where two are compared they take turns, and the best of each counts.
"""

import argparse
import subprocess
import time
from functools import partial

import torch
from host_time import best_us

import coluber
from coluber import torch as ct


def overhead():
    b, d, l, n = 1, 4, 8, 4
    u, delta = (torch.randn(b, d, l, device="cuda") for _ in range(2))
    B, C = (torch.randn(b, n, l, device="cuda") for _ in range(2))
    A, D = -torch.rand(d, n, device="cuda"), torch.randn(d, device="cuda")
    ones = torch.ones(b, d, l, device="cuda")

    def scan():
        return ct.selective_scan_fn(u, delta, A, B, C, D)

    # Few calls a round: what a stream has been given but not begun may be a thousand kernels, then the host waits.
    us = partial(best_us, rounds=40, calls=100, before=torch.cuda.synchronize)
    print(f"selective_scan_fn of ({b},{d},{l}), n {n}, host time of a call:")
    with torch.no_grad():
        print(f"  no grad               {us(scan):7.2f} us")
        print(f"  torch.empty           {us(lambda: torch.empty(32, device='cuda')):7.2f} us")
        print(f"  torch's u * delta     {us(lambda: u * delta):7.2f} us")
    u.requires_grad_()
    print(f"  autograd              {us(scan):7.2f} us")
    print(f"  torch's u * delta     {us(lambda: u * delta):7.2f} us")
    print(f"  autograd and backward {us(lambda: torch.autograd.grad(scan(), u, ones)):7.2f} us")


def block(options):
    d_model, length, batch = options.d_model, options.length, options.batch
    torch.manual_seed(0)
    model = ct.Mamba(d_model, device="cuda")
    x = torch.randn(batch, length, d_model, device="cuda").bfloat16().requires_grad_()
    seed = torch.ones_like(x)

    def bridge():
        model.zero_grad(set_to_none=True)
        x.grad = None
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = model(x)
        out.backward(seed)
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) * 1e3

    ways = {"coluber.torch.Mamba": bridge}
    if options.native:
        program = subprocess.Popen(
            [options.native, str(d_model), str(length), str(batch), "cuda"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1,
        )

        def native():
            program.stdin.write("\n")
            program.stdin.flush()
            return float(program.stdout.readline())

        ways["native block"] = native
    best = {}
    for i in range(options.rounds + 2):
        for name, run in ways.items():
            ms = run()
            if i >= 2:  # those before are for warming up
                best[name] = min(best.get(name, ms), ms)
    ours = best["coluber.torch.Mamba"]
    print(f"Mamba block, d_model {d_model}, ({batch},{length}), bf16, forward + backward:")
    for name, ms in best.items():
        print(f"  {name:21s} {ms:7.2f} ms, {ms / ours:5.2f} x ours")


def decoding():
    config = ct.MambaConfig(d_model=768, n_layer=24, vocab_size=50277)
    model = ct.MambaLMHeadModel(config, device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(0, 50277, (1, 16), device="cuda")
    print("MambaLMHeadModel of the shape of mamba-130m, bf16, batch 1, a token:")
    for name, cg in (("eager", False), ("cg=True, a CUDA graph", True)):
        model.generate(ids, max_length=24, cg=cg)
        seconds = []
        for tokens in (24, 88):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            model.generate(ids, max_length=tokens, cg=cg)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
        print(f"  {name:21s} {(seconds[1] - seconds[0]) / 64 * 1e3:7.3f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--native", help="the program mamba_block_bench")
    parser.add_argument("--d-model", type=int, default=2048)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, coluber {coluber.__version__}, {torch.cuda.get_device_name()}")
    overhead()
    block(options)
    decoding()


if __name__ == "__main__":
    main()
