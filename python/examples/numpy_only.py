"""S6 as a filter, in numpy alone: learns to hold the last marked value of a noisy stream.

Each step brings a value, and now and then a mark. Wanted is the value at the last mark. A filter whose step size is the
same for every input can only smooth; one that chooses it by the input, the selective scan, can let a value in and keep
it. Both are trained here with the gradients of coluber.ops. Leaves a picture of what they do (SVG).
"""

import argparse
import os
import time

import numpy as np

from coluber import ops

LENGTH, BATCH, MARK_EVERY, BETAS = 128, 16, 12, (0.9, 0.99)
START = {"dt_mark": 0.0, "dt_bias": -2.0, "A_log": 0.0, "B": 1.0, "C": 1.0}  # a time constant of about 8 steps


def stream(rng, batch=BATCH):
    """values, marks and what is wanted, (b,l) f32 each; the first value of every row is marked"""
    values = rng.standard_normal((batch, LENGTH), dtype=np.float32)
    marks = rng.random((batch, LENGTH)) < 1 / MARK_EVERY
    marks[:, 0] = True
    last = np.maximum.accumulate(np.where(marks, np.arange(LENGTH), 0), axis=1)
    return values, marks.astype(np.float32), np.take_along_axis(values, last, 1)


def arguments(p, values, marks):
    """u, dt (b,l,1), A (1,1), B, C (b,l,1) of selective_scan: one channel with one state"""
    ones = np.ones_like(values)[..., None]
    dt = p["dt_mark"] * marks[..., None] + p["dt_bias"]
    A = -np.exp(np.full((1, 1), p["A_log"]))
    return [a.astype(np.float32) for a in (values[..., None], dt, A, p["B"] * ones, p["C"] * ones)]


def filtered(p, values, marks):
    return ops.selective_scan_forward(*arguments(p, values, marks), dt_softplus=True)[..., 0]


def gradients(p, values, marks, wanted):
    """the mean squared error, and its gradient in every parameter"""
    inputs = arguments(p, values, marks)
    error = ops.selective_scan_forward(*inputs, dt_softplus=True)[..., 0] - wanted
    g = ops.selective_scan_backward((2 / error.size) * error[..., None], *inputs, dt_softplus=True)
    return float(np.mean(error**2)), {
        "dt_mark": np.sum(g.dt[..., 0] * marks), "dt_bias": np.sum(g.dt), "A_log": np.sum(g.A * inputs[2]),
        "B": np.sum(g.B), "C": np.sum(g.C),
    }


def train(selective, args):
    """parameters after args.steps of Adam, or args.seconds"""
    p, rng, end = dict(START), np.random.default_rng(args.seed), time.monotonic() + args.seconds / 2
    mean, square = dict.fromkeys(p, 0.0), dict.fromkeys(p, 0.0)
    for step in range(1, args.steps + 1):
        loss, grads = gradients(p, *stream(rng))
        rate = args.lr * (1 - 0.9 * step / args.steps)
        for name, grad in grads.items():
            if name == "dt_mark" and not selective:
                continue
            mean[name] += (1 - BETAS[0]) * (grad - mean[name])
            square[name] += (1 - BETAS[1]) * (grad**2 - square[name])
            unbiased = square[name] / (1 - BETAS[1] ** step)
            p[name] -= rate * mean[name] / (1 - BETAS[0] ** step) / (np.sqrt(unbiased) + 1e-8)
        if step % max(1, args.steps // 5) == 0:
            print(f"  step {step}: squared error {loss:.3f}")
        if time.monotonic() > end:
            break
    return p


def picture(path, marks, curves):
    """One row of the stream, grey lines at its marks: curves is a list of (name, colour, width, values (l))"""
    x, y = lambda t: 10 + 6 * t, lambda v: 130 - 36 * v
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{x(LENGTH) + 10}" height="280" font-family="sans-serif">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    parts += [f'<path d="M{x(t)} 20V240" stroke="#ddd"/>' for t in np.flatnonzero(marks)]
    for i, (name, colour, width, values) in enumerate(curves):
        points = " ".join(f"{x(t)},{y(v):.1f}" for t, v in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        parts.append(f'<text x="{10 + 190 * i}" y="268" font-size="13" fill="{colour}">{name}</text>')
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write("\n".join(parts + ["</svg>\n"]))
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python numpy_only.py --steps 600 --out filter.svg")
    parser.add_argument("--out", default="numpy_only.svg", help="the picture (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1500, help="of each of the two filters (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="at most, for both (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=0.03, help="step size of Adam (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    args = parser.parse_args()
    if not (args.steps > 0 and args.seconds > 0 and args.lr > 0 and args.seed >= 0):
        parser.error(f"expected --steps, --seconds, --lr > 0 and --seed >= 0, "
                     f"got {args.steps}, {args.seconds}, {args.lr} and {args.seed}")
    if os.path.isdir(args.out) or not os.path.isdir(os.path.dirname(args.out) or "."):
        parser.error(f"--out: expected a file in a folder that exists, got {args.out}")
    if args.quick:
        args.steps, args.lr = min(args.steps, 500), 0.06

    (values, marks, wanted), outputs = stream(np.random.default_rng(args.seed + 1), 64), {}
    for name, selective in (("time-invariant", False), ("selective", True)):
        print(f"{name}:")
        p = train(selective, args)
        outputs[name] = filtered(p, values, marks)
        plain, marked = (np.log1p(np.exp(p["dt_bias"] + on * p["dt_mark"])) for on in (0, 1))
        print(f"  keeps {np.exp(-plain * np.exp(p['A_log'])):.3f} of its state a step, "
              f"{np.exp(-marked * np.exp(p['A_log'])):.3f} at a mark")
    error = {name: float(np.mean((y - wanted) ** 2)) for name, y in outputs.items()}
    print(f"always zero {np.mean(wanted**2):.3f}, time-invariant {error['time-invariant']:.3f}")
    picture(args.out, marks[0], [("stream", "#bbb", 1, values[0]), ("wanted", "#fb4", 6, wanted[0]),
                                 *((name, c, 2, outputs[name][0]) for name, c in zip(outputs, ("#a33", "#036")))])
    print(f"learned: {error['selective']:.3f} against {error['time-invariant']:.3f} squared error on streams not seen")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
