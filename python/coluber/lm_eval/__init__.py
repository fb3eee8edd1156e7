"""The model "coluber" of EleutherAI's lm-evaluation-harness (pip install lm_eval).

    python -m coluber.lm_eval --model coluber --model_args pretrained=path/to/mamba-130m --tasks lambada_openai

takes the words of the program `lm_eval`. In Python, after `import coluber.lm_eval`:

    lm_eval.simple_evaluate(model="coluber", model_args={"pretrained": "path/to/mamba-130m"}, tasks=["lambada_openai"])
"""

try:
    from .model import ColuberLM
except ModuleNotFoundError as _error:
    if _error.name != "lm_eval":
        raise
    raise ModuleNotFoundError(
        "[lm_eval] expected the package lm_eval, which is not installed (pip install lm_eval)", name="lm_eval"
    ) from None

__all__ = ["ColuberLM"]
