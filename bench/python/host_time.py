"""Host time of short calls."""

import time


def best_us(function, rounds, calls, before=None):
    """Microseconds a call, of the fastest of `rounds` rounds of `calls` calls; `before` is called ahead of each."""
    best = float("inf")
    for _ in range(rounds):
        if before is not None:
            before()
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        best = min(best, (time.perf_counter() - begin) / calls)
    return best * 1e6
