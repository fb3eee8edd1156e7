"""mamba_ssm_bench.py [--parts ...]: the peer, mamba-ssm, at the shapes of docs/performance.md, where it is installed.

Kernels by events of the stream, best of some rounds of several calls; all else by the host's clock between
synchronisations. bf16, 16 states, softplus, D and z, as `cuda_selective_scan_*_bench` and `coluber bench` measure ours:
run them on the same GPU, one after the other, and compare.

Parts: scan, conv, block, train, prefill, decode.
"""

import argparse
import time

import torch

SCANS = ((8, 2048, 2048), (8, 5120, 2048), (1, 2048, 65536), (1, 5120, 2048), (64, 1536, 512), (1, 1536, 262144))
MODELS = {"130m": (768, 24), "1.4b": (2048, 48), "2.8b": (2560, 64)}
VOCABULARY = 50277


def kernel_ms(run, rounds=5, calls=5):
    """The least mean of `calls` calls of run(), in ms on the stream."""
    best = float("inf")
    for i in range(rounds + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        if i > 0:  # the first is for warming up
            best = min(best, begin.elapsed_time(end) / calls)
    return best


def host_ms(run, rounds=7):
    best = float("inf")
    for i in range(rounds + 2):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i > 1:
            best = min(best, (time.perf_counter() - begin) * 1e3)
    return best


def scan():
    import selective_scan_cuda

    for b, d, length in SCANS:
        def normal(*shape):
            return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

        u, z, seed = (normal(b, d, length) for _ in range(3))
        delta = (torch.rand(b, d, length, device="cuda") - 3).bfloat16()
        A = -torch.arange(1, 17, device="cuda", dtype=torch.float32).repeat(d, 1)
        B, C = (normal(b, 1, 16, length) for _ in range(2))
        D, bias = torch.randn(d, device="cuda"), torch.zeros(d, device="cuda")
        out, x, _ = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, bias, True)
        forward = kernel_ms(lambda: selective_scan_cuda.fwd(u, delta, A, B, C, D, z, bias, True))
        backward = kernel_ms(
            lambda: selective_scan_cuda.bwd(u, delta, A, B, C, D, z, bias, seed, x, out, None, True, False))
        print(f"scan B{b} D{d} L{length}: forward {forward:.3f} ms, backward {backward:.3f} ms", flush=True)


def conv():
    from causal_conv1d.cpp_functions import causal_conv1d_bwd_function, causal_conv1d_fwd_function

    weight, bias = torch.randn(2048, 4, device="cuda"), torch.randn(2048, device="cuda")
    for layout in ("(b,d,l)", "(b,l,d)"):
        shape = (8, 2048, 2048)
        x, seed = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        if layout == "(b,l,d)":
            x, seed = x.transpose(1, 2), seed.transpose(1, 2)
        forward = kernel_ms(lambda: causal_conv1d_fwd_function(x, weight, bias, None, None, None, True), calls=20)
        backward = kernel_ms(
            lambda: causal_conv1d_bwd_function(x, weight, bias, seed, None, None, None, None, False, True), calls=20)
        print(f"conv 4 taps, silu, {shape} as {layout}: forward {forward:.4f} ms, backward {backward:.4f} ms", flush=True)


def block():
    from mamba_ssm.modules.mamba_simple import Mamba

    model = Mamba(2048, device="cuda")
    x = torch.randn(8, 2048, 2048, device="cuda").bfloat16().requires_grad_()
    seed = torch.ones_like(x)

    def run():
        model.zero_grad(set_to_none=True)
        x.grad = None
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = model(x)
        out.backward(seed)

    print(f"block d_model 2048, (8,2048), forward and backward: {host_ms(run):.2f} ms", flush=True)


def language_model(name, dtype):
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    d_model, layers = MODELS[name]
    config = MambaConfig(d_model=d_model, n_layer=layers, vocab_size=VOCABULARY, rms_norm=True, residual_in_fp32=True,
                         fused_add_norm=True)
    return MambaLMHeadModel(config, device="cuda", dtype=dtype)


def train():
    for name, batch in (("130m", 8), ("1.4b", 2)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        model = language_model(name, torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        ids = torch.randint(0, VOCABULARY, (batch, 2049), device="cuda")

        def step():
            with torch.autocast("cuda", dtype=torch.bfloat16):
                logits = model(ids[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        ms = host_ms(step, rounds=5)
        print(f"train {name} B{batch} L2048: {ms:.1f} ms, {batch * 2048 / ms * 1e3:.0f} tokens/s, "
              f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB", flush=True)
        del model, optimizer


def prefill():
    for name in ("130m", "2.8b"):
        model = language_model(name, torch.bfloat16)
        ids = torch.randint(0, VOCABULARY, (1, 2048), device="cuda")
        with torch.inference_mode():
            print(f"prefill {name} of 2048 tokens: {host_ms(lambda: model(ids, num_last_tokens=1)):.2f} ms", flush=True)


def decode():
    for name, batches in (("130m", (1, 8, 64)), ("2.8b", (1, 8, 64))):
        model = language_model(name, torch.bfloat16)
        for batch in batches:
            ids = torch.randint(0, VOCABULARY, (batch, 16), device="cuda")
            best = {}
            for length in (145, 17) * 4:  # the first captures the graph
                torch.cuda.synchronize()
                begin = time.perf_counter()
                model.generate(ids, max_length=length, cg=True)
                torch.cuda.synchronize()
                seconds = time.perf_counter() - begin
                best[length] = min(best.get(length, seconds), seconds)
            print(f"decode {name} batch {batch}, CUDA graph: {(best[145] - best[17]) / 128 * 1e3:.3f} ms a token",
                  flush=True)


def main():
    parts = (scan, conv, block, train, prefill, decode)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[p.__name__ for p in parts], default=[p.__name__ for p in parts])
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", flush=True)
    for part in parts:
        if part.__name__ in options.parts:
            part()


if __name__ == "__main__":
    main()
