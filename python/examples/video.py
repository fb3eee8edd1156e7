"""Next-frame prediction of moving shapes, with coluber.Mamba(n_layer=...) and torch.

A square, a disc or a cross flies over 16 x 16 pixels and bounces off the edges. A stack of Mamba blocks reads the
frames, each flattened to 256 features, and predicts the next one; which way things move it has to remember. Beside it
stands the simplest guess, that nothing moves. Leaves a picture (PNG) of three rows: the truth, the prediction from the
true frames so far, and a dream: from the middle on the model reads its own predictions, through the state it carries.
"""

import argparse
import os
import struct
import time
import zlib

import torch
import torch.nn.functional as F

from coluber import Mamba

SIZE, FRAMES, RADIUS = 16, 24, 2.5


def clips(count, generator):
    """(b,l,SIZE*SIZE) in [0,1]: a shape each, in straight lines between the walls"""
    span = SIZE - 1 - 2 * RADIUS
    start = torch.rand(count, 1, 2, generator=generator) * 2 * span
    angle = torch.rand(count, 1, generator=generator) * 2 * torch.pi
    speed = 0.7 + torch.rand(count, 1, generator=generator)  # pixels a frame
    velocity = torch.stack([angle.cos(), angle.sin()], -1) * speed.unsqueeze(-1)
    place = (start + velocity * torch.arange(FRAMES).view(1, -1, 1)) % (2 * span)
    place = RADIUS + torch.where(place > span, 2 * span - place, place)  # (b,l,2): folded at the walls
    dy = (torch.arange(SIZE).view(-1, 1) - place[..., 1, None, None]).abs()
    dx = (torch.arange(SIZE) - place[..., 0, None, None]).abs()
    square, disc = torch.maximum(dx, dy), (dx**2 + dy**2).sqrt()
    shapes = torch.stack([square, disc, torch.maximum(torch.minimum(dx, dy) + RADIUS - 1, square)])
    kind = torch.randint(3, (1, count, 1, 1, 1), generator=generator)
    return (RADIUS + 0.5 - shapes.take_along_dim(kind, 0)[0]).clamp(0, 1).flatten(2)  # soft edges show parts of a pixel


class FrameModel(torch.nn.Module):
    """frames (b,l,p) -> logits (b,l,p) of the frame after each, and the state after the last"""

    def __init__(self, width, n_layer):
        super().__init__()
        self.inward = torch.nn.Linear(SIZE * SIZE, width)
        self.stack = Mamba(width, n_layer=n_layer)
        self.outward = torch.nn.Linear(width, SIZE * SIZE)

    def forward(self, frames, state=None):
        hidden, state = self.stack(self.inward(frames), state=state, return_state=True)
        return self.outward(hidden), state


def dream(model, frames, seen):
    """(l,p): predictions of one clip (1,l,p), from its first `seen` frames, then from the model's own"""
    logits, state = model(frames[:, :seen])
    made = [frames[:, :1], logits.sigmoid()]
    while sum(part.shape[1] for part in made) < frames.shape[1]:
        logits, state = model(made[-1][:, -1:], state)
        made.append(logits.sigmoid())
    return torch.cat(made, 1)[0]


def write_png(path, image):
    """image (rows,columns) in [0,1], as 8-bit grey"""
    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(row) for row in (image * 255).round().int().tolist())
    chunks = [b"IHDR" + head, b"IDAT" + zlib.compress(rows), b"IEND"]
    with open(path + ".part", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.writelines(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    os.replace(path + ".part", path)


def strip(rows, zoom=4):
    """rows of (l,p) frames as one picture, a grey line between frames"""
    large = torch.stack(rows).view(len(rows), -1, SIZE, SIZE).repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    return F.pad(large, (1, 1, 1, 1), value=0.4).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python video.py --seconds 60 --n-layer 3 --out shapes.png")
    parser.add_argument("--out", default="video.png", help="the picture (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of training, at most (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="of training, at most (default: %(default)s)")
    parser.add_argument("--n-layer", type=int, default=2, help="blocks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    args = parser.parse_args()
    if not (args.steps > 0 and args.seconds > 0 and args.n_layer > 0):
        parser.error(f"expected --steps, --seconds, --n-layer > 0, got {args.steps}, {args.seconds}, {args.n_layer}")
    if os.path.isdir(args.out) or not os.path.isdir(os.path.dirname(args.out) or "."):
        parser.error(f"--out: expected a file in a folder that exists, got {args.out}")
    steps, width, batch = (min(args.steps, 400), 64, 16) if args.quick else (args.steps, 128, 32)
    generator, test = torch.manual_seed(args.seed), clips(128, torch.Generator().manual_seed(args.seed + 1))
    model = FrameModel(width, args.n_layer)
    optimizer = torch.optim.AdamW(model.parameters())
    begin, spent, step = time.monotonic(), 0.0, 0
    while spent < 1:  # of whichever limit comes first
        optimizer.param_groups[0]["lr"] = 3e-3 * max(0.02, 1 - spent)
        frames = clips(batch, generator)
        loss = F.binary_cross_entropy_with_logits(model(frames[:, :-1])[0], frames[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % max(1, steps // 10) == 0:
            print(f"  step {step}, {time.monotonic() - begin:.0f} s: {loss.item():.4f} nats a pixel", flush=True)
        spent = max(step / steps, (time.monotonic() - begin) / args.seconds)

    with torch.no_grad():
        predicted = model(test[:, :-1])[0].sigmoid()
        error = F.mse_loss(predicted[:, 4:], test[:, 5:]).item()  # the first frames do not show the way yet
        still = F.mse_loss(test[:, 4:-1], test[:, 5:]).item()
        dreamt = dream(model, test[:1], FRAMES // 2)
    write_png(args.out, strip([test[0], torch.cat([test[0, :1], predicted[0]]), dreamt]))
    print(f"learned: {error:.4f} against {still:.4f} squared error a pixel of clips not seen (the last frame again)")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
