"""Checks of notebook 02: attention patterns, head scores, copying, composition, virtual heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_helpers.suite.exercises import (
    Refused,
    compare,
    distinct,
    exercise,
    expect_close,
    expect_shape,
    run,
)


def _causal(scores: Tensor) -> Tensor:
    future = torch.ones_like(scores).triu(1).bool()
    return scores.masked_fill(future, -torch.inf)


def _pattern(x: Tensor, W_Q: Tensor, b_Q: Tensor, W_K: Tensor, b_K: Tensor) -> Tensor:
    return _causal((x @ W_Q + b_Q) @ (x @ W_K + b_K).T / W_Q.shape[1] ** 0.5).softmax(-1)


@exercise
def attention_pattern(answer: Any, rng: torch.Generator) -> None:
    """One head's pattern from the normalised stream and its weights."""
    for d_head in distinct(rng, 3, 7):
        x, root = torch.randn(6, 8, generator=rng), d_head**0.5
        W_Q, W_K = torch.randn(2, 8, d_head, generator=rng)
        b_Q, b_K = 2 * torch.randn(2, d_head, generator=rng)
        query, key = x @ W_Q + b_Q, x @ W_K + b_K
        scores = query @ key.T / root
        no_bias = (x @ W_Q) @ (x @ W_K).T / root
        mistakes = {
            "Each query may look ahead. Mask the future before the softmax.": scores.softmax(-1),
            "You masked with zeros. A score of 0 still gets attention: use minus infinity.": (
                scores.tril().softmax(-1)
            ),
            "You masked after the softmax, so that rows no longer sum to 1. Mask before it.": (
                scores.softmax(-1).tril()
            ),
            "You masked the past. A query sees itself and what came before.": (
                scores.masked_fill(torch.ones_like(scores).tril(-1).bool(), -torch.inf).softmax(-1)
            ),
            "You masked the query's own position too. It may look at itself.": (
                scores.masked_fill(torch.ones_like(scores).triu().bool(), -torch.inf)
                .softmax(-1)
                .nan_to_num()
            ),
            "You did not divide by the square root of the head's width.": (
                _causal(query @ key.T).softmax(-1)
            ),
            "You divided by the head's width. Take its square root.": (
                _causal(scores / root).softmax(-1)
            ),
            "You divided by the square root of d_model. It is d_head's.": (
                _causal(query @ key.T / 8**0.5).softmax(-1)
            ),
            "You divided by 8, which is right for heads of width 64 alone.": (
                _causal(query @ key.T / 8).softmax(-1)
            ),
            "The biases are missing.": _causal(no_bias).softmax(-1),
            "The query's bias is missing. It is the key's that never matters.": (
                _causal((x @ W_Q) @ key.T / root).softmax(-1)
            ),
            "The softmax runs over queries. Each query divides its attention over the keys.": (
                torch.nan_to_num(_causal(scores).softmax(0))
            ),
            "These are the scores. The pattern is their softmax.": _causal(scores),
            "Queries and keys are exchanged: rows are queries.": _causal(scores.T).softmax(-1),
        }
        inputs = {
            "x [pos d_model]": x,
            "W_Q [d_model d_head]": W_Q,
            "b_Q [d_head]": b_Q,
            "W_K [d_model d_head]": W_K,
            "b_K [d_head]": b_K,
        }
        hint = "A row for each query, a column for each key."
        compare(answer, _pattern, inputs, mistakes, hint=hint)


def _scores(pattern: Tensor, mask: Tensor) -> Tensor:
    return (pattern * mask[:, None]).sum((0, 2, 3)) / mask.any(-1).sum()


@exercise
def head_scores(answer: Any, rng: torch.Generator) -> None:
    """Mean attention on targets, over the queries that have one."""
    pattern = _causal(torch.randn(2, 3, 7, 7, generator=rng)).softmax(-1)
    targets = torch.tensor([[0, 1, 2, 0, 0, 3, 2], [0, 1, 0, 2, 0, 4, 0]])  # how many, by query
    targets = targets[torch.randperm(2, generator=rng)]
    order = torch.rand(2, 7, 7, generator=rng) + torch.ones(7, 7).triu()  # past keys come first
    order = order.argsort(-1).argsort(-1)
    mask = order < targets[..., None]
    total = (pattern * mask[:, None]).sum((0, 2, 3))
    by_row = (pattern * mask[:, None]).sum((2, 3)) / mask.any(-1).sum(-1)[:, None]
    mistakes = {
        "You divided by the number of targets. A query with two targets counts once.": (
            total / mask.sum()
        ),
        "You averaged over all queries. Those without a target have nothing to look at.": (
            total / (2 * 7)
        ),
        "You averaged over all entries of the pattern. Sum over the keys first.": (
            (pattern * mask[:, None]).mean((0, 2, 3))
        ),
        "You summed and did not divide by the number of queries that have a target.": total,
        "You counted the queries of the first sequence only.": total / mask[0].any(-1).sum(),
        "Rows and columns of the mask are exchanged: rows are queries.": (
            (pattern * mask.mT[:, None]).sum((0, 2, 3)) / mask.any(-1).sum()
        ),
        "You averaged each sequence by itself. Its queries with a target count alike in all.": (
            by_row.mean(0)
        ),
        "You took the largest target of each query. Sum over all its targets.": (
            (pattern * mask[:, None]).amax(-1).sum((0, 2)) / mask.any(-1).sum()
        ),
        "The mask is not used: these are sums over all keys.": (
            pattern.sum((0, 2, 3)) / mask.any(-1).sum()
        ),
    }
    inputs = {"pattern [batch head query key]": pattern, "mask [batch query key]": mask}
    compare(answer, _scores, inputs, mistakes, hint="One score for each head.")


def _copying(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> Tensor:
    eigenvalues = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
    return eigenvalues.real.sum() / eigenvalues.abs().sum()


@exercise
def copying_score(answer: Any, rng: torch.Generator) -> None:
    """Sum of real parts over sum of absolute values of the full OV circuit's eigenvalues."""
    W_E, W_V, W_O, W_U = _rotating_head(rng)
    got = run(answer, W_E, W_V, W_O, W_U)
    if isinstance(got, complex) or isinstance(got, Tensor) and got.is_complex():
        raise Refused("The score is a complex number. Take the real part of each eigenvalue.")
    got = expect_shape(got, (), hint="One number for the head.")

    def score(matrix: Tensor) -> Tensor:
        eigenvalues = torch.linalg.eigvals(matrix)
        return eigenvalues.real.sum() / eigenvalues.abs().sum()

    full = W_E @ W_V @ W_O @ W_U
    thin = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
    singular = torch.linalg.svdvals(full)
    mistakes = {
        "The vocabulary is missing: these are the eigenvalues of W_V W_O alone.": score(W_V @ W_O),
        "You divided by the sum of absolute real parts. The denominator takes |λ| itself.": (
            thin.real.sum() / thin.real.abs().sum()
        ),
        "You did not divide by the sum of |λ|.": thin.real.sum(),
        "You took the share of positive eigenvalues. Weigh each by its size.": (
            (thin.real > 1e-4).sum() / 4
        ),
        "You took singular values. They are never negative, so they cannot see suppression.": (
            thin.real.sum() / singular.sum()
        ),
        "You took the mean of Re λ / |λ|. Sum above and below the line first.": (
            thin.sgn().real.mean()
        ),
        "You divided by the size of the sum. Sum the sizes: they do not cancel.": (
            thin.real.sum() / thin.sum().abs()
        ),
        "You took imaginary parts. Re λ is the real part.": thin.imag.sum() / thin.abs().sum(),
    }
    expect_close(got, _copying(W_E, W_V, W_O, W_U), mistakes, atol=1e-4)
    _expect_thin(answer, rng)


def _rotating_head(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embedding, head and unembedding whose eigenvalues are complex and of both signs."""
    while True:
        W_E, W_V, W_O, W_U = (
            torch.randn(*shape, generator=rng) for shape in ((9, 6), (6, 4), (4, 6), (6, 9))
        )
        eigenvalues = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
        mixed = eigenvalues.real.min() < -1 and eigenvalues.real.max() > 1
        balanced = abs(float(eigenvalues.real.sum() / eigenvalues.abs().sum())) > 0.05
        if mixed and balanced and eigenvalues.imag.abs().max() > 0.3 * eigenvalues.abs().max():
            return W_E, W_V, W_O, W_U


def _expect_thin(answer: Any, rng: torch.Generator) -> None:
    """Refuse an answer that builds a matrix of d_vocab rows and columns."""
    d_vocab = 60_000  # a square matrix of this size needs 14 GB
    W_E, W_U = torch.randn(d_vocab, 2, generator=rng), torch.randn(2, d_vocab, generator=rng)
    W_V, W_O = torch.randn(2, 1, generator=rng), torch.randn(1, 2, generator=rng)
    meta = [matrix.to("meta") for matrix in (W_E, W_V, W_O, W_U)]
    with _LargestResult() as largest:
        try:
            answer(*meta)
        except Exception:  # values do not exist here; only the sizes up to there count
            pass
    if largest.elements >= d_vocab**2:
        raise Refused(
            "The value is right, but you built a matrix of d_vocab rows and columns, 10 GB for "
            "GPT-2. Use that AB and BA have the same non-zero eigenvalues."
        )


class _LargestResult(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, Tensor):
                self.elements = max(self.elements, item.numel())
        return result


def _random_head(rng: torch.Generator) -> dict[str, Tensor]:
    """The weights of a head with d_model 8 and d_head 3."""
    head = {name: torch.randn(8, 3, generator=rng) for name in ("W_Q", "W_K", "W_V")}
    return head | {"W_O": torch.randn(3, 8, generator=rng)}


def _compositions(
    a: dict[str, Tensor], b: dict[str, Tensor], norm: Any = torch.linalg.matrix_norm
) -> Tensor:
    written, qk, ov = a["W_V"] @ a["W_O"], b["W_Q"] @ b["W_K"].T, b["W_V"] @ b["W_O"]
    return torch.stack(
        [norm(written @ read) / (norm(written) * norm(read)) for read in (qk, qk.T, ov)]
    )


def _overlap(written: Tensor, read: Tensor) -> Tensor:
    return (written @ read).norm() / (written.norm() * read.norm())


@exercise
def composition(answer: Any, rng: torch.Generator) -> None:
    """Q-, K- and V-composition of two heads."""
    first, second = _random_head(rng), _random_head(rng)
    want = _compositions(first, second)
    qk, ov = second["W_Q"] @ second["W_K"].T, second["W_V"] @ second["W_O"]
    written = first["W_V"] @ first["W_O"]
    mistakes = {
        "Q and K are exchanged. The queries are read on the left of W_Q W_Kᵀ.": want[[1, 0, 2]],
        "K equals Q in your answer. For K the first head's output is the key: transpose W_QK.": (
            want[[0, 0, 2]]
        ),
        "Q equals K in your answer. For Q the first head's output is the query: no transpose.": (
            want[[1, 1, 2]]
        ),
        "The heads are exchanged: `first` writes, `second` reads.": _compositions(second, first),
        "The matrices are multiplied in the wrong order: what is written stands on the left.": (
            torch.stack(
                [(r @ written).norm() / (r.norm() * written.norm()) for r in (qk, qk.T, ov)]
            )
        ),
        "You did not divide by the two norms.": (
            torch.stack([(written @ read).norm() for read in (qk, qk.T, ov)])
        ),
        "You read with one thin matrix. A head reads through a product of two, W_QK or W_OV.": (
            torch.stack([_overlap(written, second[name]) for name in ("W_Q", "W_K", "W_V")])
        ),
        "You read with one thin matrix, and did not divide. Take W_QK or W_OV, and both norms.": (
            torch.stack([(written @ second[name]).norm() for name in ("W_Q", "W_K", "W_V")])
        ),
        "You took the largest singular value. The score compares Frobenius norms.": (
            _compositions(first, second, lambda matrix: torch.linalg.matrix_norm(matrix, 2))
        ),
    }
    inputs = {"first": first, "second": second}
    compare(answer, _compositions, inputs, mistakes, hint="Three scores: Q, K, V.")


def _virtual(
    A_1: Tensor, A_2: Tensor, scale: Tensor, W_1: Tensor, W_2: Tensor
) -> tuple[Tensor, Tensor]:
    return A_2 @ (A_1 / scale[:, None]), W_1 @ W_2


@exercise
def virtual_head(answer: Any, rng: torch.Generator) -> None:
    """Pattern and matrix of two heads in a row, LayerNorm's scale between them."""
    A_1, A_2 = _causal(torch.randn(2, 5, 5, generator=rng)).softmax(-1)
    scale = 1 + torch.rand(5, generator=rng)
    W_1, W_2 = torch.randn(2, 6, 6, generator=rng)
    patterns = {
        "The scale is missing. LayerNorm divides between the two heads.": A_2 @ A_1,
        "Divide by the scale, as LayerNorm does. You multiplied.": A_2 @ (A_1 * scale[:, None]),
        "The scale belongs to the position in between, not to the source.": A_2 @ A_1 / scale,
        "The scale belongs to the position in between, not to the last query.": (
            (A_2 @ A_1) / scale[:, None]
        ),
        "The patterns are in the wrong order: head 1 moves first, so A_1 stands on the right.": (
            A_1 @ (A_2 / scale[:, None])
        ),
        "The patterns are in the wrong order, and the scale is missing.": A_1 @ A_2,
        "You multiplied the patterns entry by entry. Take the matrix product.": (
            A_2 * A_1 / scale[:, None]
        ),
    }
    matrices = {
        "The matrices are in the wrong order: in x @ W, what acts first is left.": W_2 @ W_1,
        "You added the matrices. One acts after the other: multiply.": W_1 + W_2,
        "You multiplied the matrices entry by entry. Take the matrix product.": W_1 * W_2,
    }
    inputs = {
        "A_1 [pos pos]": A_1,
        "A_2 [pos pos]": A_2,
        "scale [pos]": scale,
        "W_OV_1 [d_model d_model]": W_1,
        "W_OV_2 [d_model d_model]": W_2,
    }
    hints = (
        "The pattern is [query source].",
        "The matrix is [d_model d_model].",
        "Return the pattern and the matrix.",
    )
    compare(answer, _virtual, inputs, (patterns, matrices), hint=hints)
