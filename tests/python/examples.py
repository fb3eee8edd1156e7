"""Runs programs of python/examples as their readers do."""

import pathlib
import re
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "python" / "examples"


def run_example(name, out, *arguments, quick=True):
    """What it learned and its baseline, the numbers of its line "learned: A against B ...", and what it printed."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *(["--quick"] if quick else []), "--out", out, *arguments]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    learned, baseline = re.search(r"^learned: ([\d.]+) against ([\d.]+) ", done.stdout, re.M).groups()
    assert done.stdout.splitlines()[-1] == f"wrote {out}"
    return float(learned), float(baseline), done.stdout


def check_help(name):
    """Its help ends with a command that names it, and whose options exist."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    usage, example = text.split("\n\n", 1)[0], text.splitlines()[-1]
    assert example.startswith(f"example: python {name}.py ")
    assert {"--out", "--steps", "--seconds", "--quick"} <= set(re.findall(r"--[a-z-]+", usage))
    assert set(re.findall(r"--[a-z0-9-]+", example)) <= set(re.findall(r"--[a-z0-9-]+", usage))
