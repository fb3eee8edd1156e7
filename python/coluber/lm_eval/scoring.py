"""How probable continuations are, each context read once: its state is forked for every continuation."""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

CONTEXT_TOKENS = 2048  # packed in one row to be read together
SCORED_TOKENS = 256  # whose logits are held at once: 50 MB for 50,280 ids

Ids = Tuple[int, ...]


class Score(NamedTuple):
    nats: float  # log-probability of the continuation after its context
    greedy: bool  # whether each of its ids is the most probable one


def score(
    model,
    pairs: Sequence[Tuple[Sequence[int], Sequence[int]]],
    *,
    sequences: int = 16,
    compute: str = "f32",
    advance: Optional[Callable[[int], object]] = None,
) -> List[Score]:
    """Of every pair (context, continuation) of token ids, neither empty.

    Memory: states of at most 2 `sequences` and logits of SCORED_TOKENS. advance(n) is called after n more pairs.
    """
    # The last id of a context goes to the continuation's side: the logits after it are wanted, those before it not.
    groups: Dict[Ids, Dict[Ids, List[int]]] = {}
    for i, (context, continuation) in enumerate(pairs):
        if not context or not continuation:
            raise ValueError(f"[lm_eval] pair {i}: expected a context and a continuation, got an empty one")
        whole = (*context, *continuation)
        cut = len(context) - 1
        groups.setdefault(whole[:cut], {}).setdefault(whole[cut:-1], []).append(i)
    scores: List[Optional[Score]] = [None] * len(pairs)
    for prefixes in _packs(sorted(groups, key=len), sequences, CONTEXT_TOKENS):
        after = _read(model, prefixes, compute)
        tails = [(row, tail) for row, prefix in enumerate(prefixes) for tail in groups[prefix]]
        for pack in _packs(tails, sequences, SCORED_TOKENS, lambda one: len(one[1])):
            states = _rows(model, after, [row for row, _ in pack])
            for (row, tail), judged in zip(pack, _judged(model, [tail for _, tail in pack], states, compute)):
                members = groups[prefixes[row]][tail]
                for i in members:
                    scores[i] = judged.with_last(pairs[i][1][-1])
                if advance is not None:
                    advance(len(members))
    return scores  # type: ignore[return-value]


def _packs(items, most: int, tokens: int, length=len):
    """Runs of at most `most` items and `tokens` tokens; one item may be longer."""
    pack, total = [], 0
    for item in items:
        if pack and (len(pack) == most or total + length(item) > tokens):
            yield pack
            pack, total = [], 0
        pack.append(item)
        total += length(item)
    if pack:
        yield pack


def _packed(rows: Sequence[Ids]):
    """ids (1,l) and where each row begins and ends; None for one row, which may then be read in pieces."""
    ids = np.concatenate([np.asarray(row, np.int32) for row in rows])[None]
    if len(rows) == 1:
        return ids, None
    return ids, np.cumsum([0] + [len(row) for row in rows], dtype=np.int32)


def _read(model, prefixes: Sequence[Ids], compute: str):
    """The state after each of the prefixes, of which the first may be empty."""
    state = model.make_state(len(prefixes))
    skipped = 0 if prefixes[0] else 1
    rest = prefixes[skipped:]
    if rest:
        part = state if not skipped else model.make_state(len(rest))
        ids, cu_seqlens = _packed(rest)
        model.forward(ids, part, cu_seqlens=cu_seqlens, last_token_only=True, compute=compute)
        for row in range(len(rest) if skipped else 0):
            state.set_row(row + 1, part.row(row))
    return state


def _rows(model, state, rows: Sequence[int]):
    chosen = model.make_state(len(rows))
    for to, row in enumerate(rows):
        chosen.set_row(to, state.row(row))
    return chosen


class _Tail(NamedTuple):
    """Continuations that are the same but for their last id."""

    nats: float
    greedy: bool
    last: np.ndarray  # (v) log-probabilities of the last id

    def with_last(self, id: int) -> Score:
        return Score(self.nats + float(self.last[id]), self.greedy and int(self.last.argmax()) == id)


def _judged(model, tails: Sequence[Ids], states, compute: str) -> List[_Tail]:
    """Of each tail, from the row of `states` before it. One long tail is read in pieces, several are short together."""
    ids, cu_seqlens = _packed(tails)
    num_tokens = ids.shape[1]
    ends = np.cumsum([len(tail) for tail in tails])
    following = np.append(ids[0, 1:], 0)  # meaningless after the last id of a tail
    nats, greedy, lasts = np.zeros(num_tokens), np.zeros(num_tokens, bool), []
    for begin in range(0, num_tokens, SCORED_TOKENS if cu_seqlens is None else num_tokens):
        end = min(begin + SCORED_TOKENS, num_tokens) if cu_seqlens is None else num_tokens
        logits = model.forward(ids[:, begin:end], states, cu_seqlens=cu_seqlens, compute=compute)[0]  # (t,v)
        places, targets = np.arange(end - begin), following[begin:end]
        greedy[begin:end] = logits.argmax(-1) == targets
        logits -= logits.max(-1, keepdims=True)
        norm = np.log(np.exp(logits).sum(-1, dtype=np.float64))
        nats[begin:end] = logits[places, targets] - norm
        lasts += [logits[last] - norm[last] for last in ends[(ends > begin) & (ends <= end)] - 1 - begin]
    begins = ends - [len(tail) for tail in tails]
    return [_Tail(nats[b : e - 1].sum(), bool(greedy[b : e - 1].all()), last) for b, e, last in zip(begins, ends, lasts)]
