"""Generation with the published arguments."""

import time
from dataclasses import dataclass, field
from typing import Optional, Tuple

import torch
from torch import Tensor


@dataclass
class InferenceParams:
    """The state of every layer by its layer_idx, and how many tokens they have read."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict = field(default_factory=dict)
    lengths_per_sample: Optional[Tensor] = None

    def reset(self, max_seqlen, max_batch_size):
        self.max_seqlen = max_seqlen
        self.max_batch_size = max_batch_size
        self.seqlen_offset = 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


@dataclass
class GenerateOutput:
    sequences: Tensor  # (b, tokens), the prompt first
    scores: Optional[Tuple[Tensor, ...]] = None  # logits (b,v) of each new token


def _keep_top_p(logits, top_p):
    """-inf for all but the likeliest tokens that together have probability top_p; in place."""
    if not 0.0 < top_p < 1.0:
        return
    sorted_logits, indices = torch.sort(logits, descending=False)
    cumulative = sorted_logits.softmax(dim=-1).cumsum(dim=-1)
    dropped = cumulative <= 1 - top_p
    logits.masked_fill_(torch.zeros_like(dropped).scatter(1, indices, dropped), float("-inf"))


def _penalise(logits, previous, penalty):
    """Makes the tokens of previous (b,l) less likely: their logits are divided by penalty, or multiplied below 0."""
    score = torch.gather(logits, 1, previous)
    score = torch.where(score < 0, score * penalty, score / penalty)
    return logits.scatter(1, previous, score)


def sample(logits, top_k=1, top_p=0.0, min_p=0.0, temperature=1.0):
    """logits (b,v) -> ids (b). top_k 1 is greedy, 0 is no limit; top_k is applied before top_p."""
    if top_k == 1:
        return logits.argmax(dim=-1)
    if top_p > 1.0:
        raise ValueError(f"[sample] top_p: expected at most 1, got {top_p}")
    indices = None
    if top_k > 0:
        logits, indices = torch.topk(logits, min(top_k, logits.shape[-1]), dim=-1)
    if min_p > 0.0:
        probabilities = logits.softmax(dim=-1)
        logits = logits.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), float("-inf"))
    logits = logits / temperature
    _keep_top_p(logits, top_p)
    drawn = torch.multinomial(logits.softmax(dim=-1), num_samples=1)
    return drawn.squeeze(-1) if indices is None else indices.gather(1, drawn).squeeze(-1)


class _RecordedStep:
    """One more token of every sequence as a CUDA graph: replaying it costs one call, whatever the model's depth."""

    def __init__(self, model, params, token):
        self.token = token.clone()

        def step():
            return model(self.token, inference_params=params, num_last_tokens=1).logits.squeeze(1)

        states = [state for pair in params.key_value_memory_dict.values() for state in pair]
        before = [state.clone() for state in states]
        side = torch.cuda.Stream(token.device)
        side.wait_stream(torch.cuda.current_stream(token.device))
        with torch.cuda.stream(side):  # libraries make their plans outside of a graph
            step()
        torch.cuda.current_stream(token.device).wait_stream(side)
        for state, first in zip(states, before):
            state.copy_(first)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = step()

    def __call__(self, token):
        """Logits (b,v) after token (b,1), in memory that the next call writes."""
        self.token.copy_(token)
        self.graph.replay()
        return self.logits


@torch.inference_mode()
def decode(
    input_ids, model, max_length, top_k=1, top_p=0.0, min_p=0.0, temperature=1.0, repetition_penalty=1.0,
    eos_token_id=None, teacher_outputs=None, vocab_size=None, cg=False, enable_timing=False, output_scores=False,
    streamer=None,
):
    """Continues input_ids (b,l) to max_length tokens, all rows of one length; stops when every row has just drawn
    eos_token_id. teacher_outputs (b,...): these instead of drawn tokens. cg: on a GPU every token after the first is a
    CUDA graph; elsewhere it changes nothing."""
    if input_ids.dim() != 2 or input_ids.shape[1] == 0:
        raise ValueError(f"[generate] input_ids: expected (b,l) with a token, got {tuple(input_ids.shape)}")
    begin = time.perf_counter()
    if streamer is not None:
        streamer.put(input_ids.cpu())
    params = InferenceParams(max_seqlen=max_length, max_batch_size=input_ids.shape[0])
    scores, sequences, recorded = [], [input_ids], None
    while True:
        read = sequences[-1]
        if cg and read.is_cuda and params.seqlen_offset > 0:
            recorded = recorded or _RecordedStep(model, params, read)
            logits = recorded(read)
        else:
            logits = model(read, inference_params=params, num_last_tokens=1).logits.squeeze(1)
        logits = logits[..., :vocab_size]
        if output_scores:
            scores.append(logits.clone())
        params.seqlen_offset += read.shape[1]
        if repetition_penalty != 1.0:
            logits = _penalise(logits, torch.cat(sequences, dim=1), repetition_penalty)
        if teacher_outputs is not None and params.seqlen_offset < teacher_outputs.shape[1]:
            token = teacher_outputs[:, params.seqlen_offset]
        else:
            token = sample(logits, top_k, top_p, min_p, temperature)
        sequences.append(token.unsqueeze(1))
        if streamer is not None:
            streamer.put(sequences[-1].cpu())
        ended = eos_token_id is not None and bool((token == eos_token_id).all())
        if ended or params.seqlen_offset >= max_length - 1:
            break
    if streamer is not None:
        streamer.end()
    if enable_timing:
        print(f"Prompt processing + decoding time: {(time.perf_counter() - begin) * 1000:.0f}ms")
    return GenerateOutput(torch.cat(sequences, dim=1), tuple(scores) if output_scores else None)


class GenerationMixin:
    def generate(
        self, input_ids, max_length, top_k=1, top_p=0.0, min_p=0.0, temperature=1.0, return_dict_in_generate=False,
        output_scores=False, **kwargs,
    ):
        """input_ids (b,l) -> (b, up to max_length), or with return_dict_in_generate .sequences and .scores. More
        arguments: repetition_penalty, eos_token_id, teacher_outputs, vocab_size, streamer."""
        output = decode(
            input_ids, self, max_length, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature,
            output_scores=output_scores, **kwargs,
        )
        return output if return_dict_in_generate else output.sequences
