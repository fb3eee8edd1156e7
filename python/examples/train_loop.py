"""A plain torch training loop: a language model learns selective copying (arXiv 2312.00752, section 4.1.1).

Letters stand scattered among blanks; after them the model has to say them in order, so it must choose what to remember.
MambaLMHeadModel is trained as any torch module: AdamW without decay for what asks for none, warmup, clipped gradients
and, where wanted, autocast to bfloat16 and activation checkpointing. Leaves a folder in the layout of state-spaces,
which coluber.Model.load reads without torch.
"""

import argparse
import contextlib
import functools
import os
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from coluber import MambaConfig, MambaLMHeadModel

LETTERS = 14  # ids 2 to 15; 0 is a blank, 1 asks for the next letter
BLANK, ASK = 0, 1


def task(batch, length, count, generator):
    """ids (b,length+count), targets of the same shape: the letters where ids ask, else -100"""
    places = torch.rand(batch, length, generator=generator).argsort(1)[:, :count].sort(1).values
    letters = torch.randint(2, 2 + LETTERS, (batch, count), generator=generator)
    read = torch.full((batch, length), BLANK).scatter(1, places, letters)
    ids = torch.cat([read, torch.full((batch, count), ASK)], 1)
    return ids, torch.cat([torch.full((batch, length), -100), letters], 1)


def checkpointed(model):
    """Keeps only the inputs of each block for backward, which computes the rest again."""
    for layer in model.backbone.layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def parameter_groups(model, weight_decay):
    decayed, others = [], []
    for parameter in model.parameters():
        plain = parameter.dim() < 2 or getattr(parameter, "_no_weight_decay", False)
        (others if plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def shown(ids):
    return "".join("." if i == BLANK else "?" if i == ASK else chr(ord("a") + i - 2) for i in ids.tolist())


def train(model, args, generator):
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=args.lr)
    precision = torch.autocast("cpu", torch.bfloat16) if args.bf16 else contextlib.nullcontext()
    begin, warmup = time.monotonic(), max(1, args.steps // 50)
    for step in range(1, args.steps + 1):
        spent = max(step / args.steps, (time.monotonic() - begin) / args.seconds)  # of whichever limit comes first
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(step / warmup, max(0.05, 1 - spent))
        ids, targets = task(args.batch, args.length, args.count, generator)
        with precision:
            logits = model(ids).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % max(1, args.steps // 10) == 0:
            print(f"  step {step}, {time.monotonic() - begin:.0f} s: {loss.item():.3f} nats a letter", flush=True)
        if spent >= 1:
            break


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python train_loop.py --length 64 --bf16 --checkpointing --out copier")
    parser.add_argument("--out", default="selective-copying", help="folder of the model (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of training, at most (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=150, help="of training, at most (default: %(default)s)")
    parser.add_argument("--length", type=int, default=48, help="letters and blanks (default: %(default)s)")
    parser.add_argument("--count", type=int, default=6, help="letters among them (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--lr", type=float, default=5e-3, help="(default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--checkpointing", action="store_true", help="less memory, for more arithmetic")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few seconds, with an easier task, to see that it works")
    args = parser.parse_args()
    if not (args.steps > 0 and args.seconds > 0 and args.batch > 0 and args.lr > 0):
        parser.error("expected --steps, --seconds, --batch, --lr > 0, "
                     f"got {args.steps}, {args.seconds}, {args.batch}, {args.lr}")
    if os.path.exists(args.out) and not os.path.isdir(args.out):
        parser.error(f"--out: expected a folder, or nothing yet, got the file {args.out}")
    if args.quick:
        args.steps, args.length, args.count = min(args.steps, 300), 10, 2
    if not 1 <= args.count <= args.length:
        parser.error(f"--count: expected 1 to {args.length} (--length), got {args.count}")

    torch.manual_seed(args.seed)
    model = MambaLMHeadModel(MambaConfig(d_model=64, n_layer=2, vocab_size=2 + LETTERS))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {args.count} letters among {args.length} places")
    if args.checkpointing:
        checkpointed(model)
    train(model, args, torch.Generator().manual_seed(args.seed))

    ids, targets = task(256, args.length, args.count, torch.Generator().manual_seed(args.seed + 1))
    with torch.no_grad():
        said = model(ids).logits[:, -args.count :].argmax(-1)
    right = (said == targets[:, -args.count :]).float().mean().item()
    print(f"read {shown(ids[0, : args.length])}\nsaid {shown(said[0])}")
    print(f"learned: {right:.3f} against {1 / LETTERS:.3f} of the letters right (by chance)")
    model.save_pretrained(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
