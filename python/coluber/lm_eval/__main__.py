"""`python -m coluber.lm_eval` is the program `lm_eval` that knows the model "coluber"."""

from lm_eval.__main__ import cli_evaluate

if __name__ == "__main__":
    cli_evaluate()
