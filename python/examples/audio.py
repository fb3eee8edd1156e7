"""A model of waveforms, without torch: speech as 8000 bytes a second, one token a sample.

Samples are companded by mu-law to 256 levels, so that a language model of bytes is a model of sound. It learns the next
sample, and is measured in bits per sample on speech that it has not read, beside two counts: of single levels, and of
levels after the one before. Leaves a WAV: a second of held-out speech, then what the model goes on with.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import wave

import numpy as np

import coluber

RATE, MU = 8000, 255
WORDS = ("the a one this", "north old warm strong quiet first", "wind sun traveller cloak river night",
         "held took saw called followed asked", "my your his no", "house boat road voice light garden")
# First three formants in Hz of ten English vowels, as a man speaks them (rounded).
VOWELS = np.array([[270, 2290, 3010], [390, 1990, 2550], [530, 1840, 2480], [660, 1720, 2410], [730, 1090, 2440],
                   [570, 840, 2410], [440, 1020, 2240], [300, 870, 2240], [640, 1190, 2390], [490, 1350, 1690]])


def formant_speech(seconds, rng):
    """Vowels with a falling pitch, each sum of decaying resonances begun anew by every glottal pulse; -1 to 1"""
    time = np.arange(RATE // 50) / RATE  # a pulse rings for 20 ms
    out = np.zeros(int(seconds * RATE) + RATE)
    place = 0
    while place < seconds * RATE:
        formants, length, pitch = VOWELS[rng.integers(len(VOWELS))], rng.uniform(0.1, 0.3), rng.uniform(95, 150)
        rings = np.exp(-np.pi * np.outer([60, 90, 150], time)) * np.sin(2 * np.pi * np.outer(formants, time))
        pulse, begin = np.array([1, 0.5, 0.25]) @ rings, place
        while place < begin + length * RATE:
            share = (place - begin) / (length * RATE)
            out[place : place + len(pulse)] += pulse * np.sin(np.pi * share) ** 0.5
            place += round(RATE / (pitch * (1 - 0.2 * share)))
        place += int(rng.uniform(0, 0.06) * RATE)
    out = out[: int(seconds * RATE)] + rng.normal(0, 0.002, int(seconds * RATE))
    return out / np.abs(out).max()


def spoken(program, seconds, rng):
    """sentences drawn from WORDS in the voice of flite or espeak-ng; -1 to 1"""
    sentences = [" ".join(rng.choice(words.split()) for words in WORDS) for _ in range(round(seconds / 1.5))]
    with tempfile.TemporaryDirectory() as folder:
        path, text = os.path.join(folder, "speech.wav"), os.path.join(folder, "speech.txt")
        with open(text, "w", encoding="utf-8") as file:
            file.write(". ".join(sentences) + ".\n")
        words = ["-f", text, "-o", path] if program == "flite" else ["-f", text, "-w", path]
        subprocess.run([program, *words], check=True, stdout=subprocess.DEVNULL)
        with wave.open(path) as file:
            rate, channels = file.getframerate(), file.getnchannels()
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")[::channels] / 32768
    smooth = np.convolve(samples, np.ones(max(1, rate // RATE)) / max(1, rate // RATE), "same")  # less aliasing
    samples = np.interp(np.arange(0, len(samples), rate / RATE), np.arange(len(samples)), smooth)[: int(seconds * RATE)]
    return samples / np.abs(samples).max()


def encode(samples):
    compressed = np.sign(samples) * np.log1p(MU * np.abs(samples)) / np.log1p(MU)
    return np.round((compressed + 1) / 2 * MU).astype(np.uint8)


def decode(ids):
    compressed = 2 * np.asarray(ids) / MU - 1
    return np.sign(compressed) * np.expm1(np.abs(compressed) * np.log1p(MU)) / MU


def counts(train, test):
    """bits per sample of test by the levels of train, and by its pairs of levels (a half is added to every count)"""
    single = np.bincount(train, minlength=256) + 0.5
    pairs = np.full((256, 256), 0.5)
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    pairs /= pairs.sum(1, keepdims=True)
    return -np.log2((single / single.sum())[test[1:]]).mean(), -np.log2(pairs[test[:-1], test[1:]]).mean()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python audio.py --seconds 60 --voice formants --out vowels.wav")
    parser.add_argument("--out", default="audio.wav", help="the WAV (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of training (default: as many as fit)")
    parser.add_argument("--seconds", type=float, default=120, help="of training, at most (default: %(default)s)")
    parser.add_argument("--voice", choices=["auto", "flite", "espeak-ng", "formants"], default="auto",
                        help="who speaks; auto: flite or espeak-ng where installed, else formants made here")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    args = parser.parse_args()
    if not ((args.steps is None or args.steps > 0) and args.seconds > 0 and args.seed >= 0):
        parser.error(f"expected --steps, --seconds > 0, --seed >= 0, got {args.steps}, {args.seconds}, {args.seed}")
    if os.path.isdir(args.out) or not os.path.isdir(os.path.dirname(args.out) or "."):
        parser.error(f"--out: expected a file in a folder that exists, got {args.out}")
    voices = [*filter(shutil.which, ("flite", "espeak-ng")), "formants"]
    voice = voices[0] if args.voice == "auto" else args.voice
    if voice not in voices:
        parser.error(f"--voice: expected one of {', '.join(voices)} on this machine, got {voice}")
    speech, rng = 10 if args.quick else 60, np.random.default_rng(args.seed)
    ids = encode(formant_speech(speech, rng) if voice == "formants" else spoken(voice, speech, rng))
    train, test = np.split(ids, [len(ids) * 9 // 10])
    print(f"{len(ids) / RATE:.0f} s of {voice}: {len(train):,} samples to learn from, {len(test):,} to measure on")

    size = dict(d_model=32, n_layer=2) if args.quick else dict(d_model=64, n_layer=3)
    tell = lambda e: print(f"  step {e.step}: {e.heldout_loss / np.log(2):.2f} bits per sample", flush=True)
    run = coluber.train(train, heldout=test, vocab_size=256, seqlen=512, batch=4, lr=4e-3, seed=args.seed, **size,
                        max_steps=args.steps or 120 * args.quick or None, max_seconds=args.seconds, on_eval=tell)
    prompt = test[:RATE]
    written = list(run.model.generate(prompt, max_tokens=RATE // 4 if args.quick else 2 * RATE, temperature=0.9,
                                      seed=args.seed, stream="ids"))
    with wave.open(args.out + ".part", "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((decode(np.concatenate([prompt, written])) * 32000).astype("<i2").tobytes())
    os.replace(args.out + ".part", args.out)
    single, pair = counts(train, test)
    print(f"counts of levels {single:.2f}, of pairs of levels {pair:.2f}")
    print(f"learned: {run.model.loss(test[None]) / np.log(2):.2f} against {single:.2f} bits per sample")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
