"""Attribution graphs: which tokens, features and errors make a prediction, and through what.

    graph = attribution_graph(model, transcoders, model.to_tokens("Mary gave the"))
    small = graph.pruned(nodes=0.8, edges=0.98)

A graph says how much every node gives to every later one in one prompt, with attention patterns,
scales of the norms and the set of active features held as they were [Ameisen et al. 2025]. What it
leaves out: why heads attend where they do, and what else would become active.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_helpers.sae.core import Sae
from mi_helpers.sae.frozen import FrozenRun, frozen_run

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

KINDS = ("token", "feature", "error", "logit")
"""What a node can be, in the order in which nodes of a place stand."""


class Node(NamedTuple):
    """One part of a run.

    Attributes:
        kind: "token", "feature", "error" or "logit".
        layer: Whose MLP it belongs to; -1 for tokens, the number of layers for logits.
        position: In the prompt.
        unit: The feature's index, the token's id; -1 for an error.
        value: The activation, or the logit centred over the vocabulary. 1 for tokens and errors,
            which are there or not.
    """

    kind: str
    layer: int
    position: int
    unit: int
    value: float

    def __str__(self) -> str:
        """ "L3F512@7", "L3 error@7", "token@7", "logit 1234"."""
        if self.kind == "feature":
            return f"L{self.layer}F{self.unit}@{self.position}"
        if self.kind == "error":
            return f"L{self.layer} error@{self.position}"
        return f"token@{self.position}" if self.kind == "token" else f"logit {self.unit}"


@dataclass(frozen=True)
class AttributionGraph:
    """What nodes give to each other in one run.

    Attributes:
        tokens: The prompt's tokens as text.
        nodes: Tokens, then layer by layer features and errors, then logits.
        weights: The direct effect of a source (column) on a target (row), in the target's unit: of
            its pre-activation, or of its centred logit. Tokens and errors have none: they are
            given.
        biases: What `weights` leave out of a target's value: constants (biases of the model, the
            embeddings of positions, the first token's MLP outputs), and in a pruned graph what was
            cut. A target's value is the sum of its weights and its bias.
        predicted: The logit nodes' tokens as text.
        probabilities: What the model gives them.
    """

    tokens: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: Float[Tensor, "target source"]
    biases: Float[Tensor, " target"]
    predicted: tuple[str, ...]
    probabilities: Float[Tensor, " logit"]

    def __post_init__(self) -> None:
        """ValueError for parts that do not belong together."""
        n, last = len(self.nodes), [node for node in self.nodes if node.kind == "logit"]
        if self.weights.shape != (n, n) or self.biases.shape != (n,):
            raise ValueError(
                f"{n} nodes need weights [{n}, {n}] and {n} biases, got "
                f"{list(self.weights.shape)} and {list(self.biases.shape)}"
            )
        if self.weights.triu().any():
            raise ValueError("a weight leads back: a source must stand before its target")
        if not last or self.nodes[-len(last) :] != tuple(last):
            raise ValueError("logit nodes must be there, and stand behind all others")
        if len(self.probabilities) != len(last) or len(self.predicted) != len(last):
            raise ValueError(f"each of {len(last)} logit nodes needs a text and a probability")

    def __len__(self) -> int:
        return len(self.nodes)

    def where(self, *kinds: str) -> Bool[Tensor, " node"]:
        """Which nodes are of some kinds. ValueError for a kind that is none."""
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"unknown kinds {sorted(unknown)}; there are {', '.join(KINDS)}")
        return torch.tensor([node.kind in kinds for node in self.nodes])

    def label(self, node: Node) -> str:
        """A node in words: with the text of its token."""
        if node.kind == "logit":
            at = [n for n in self.nodes if n.kind == "logit"].index(node)
            return f"predicts {self.predicted[at]!r}"
        return f"{node} {self.tokens[node.position]!r}"

    def total(self, targets: Sequence[int] | None = None) -> Float[Tensor, "target source"]:
        """The effect of a source on a target along all paths, in the target's unit.

        `targets` are the nodes that are asked about, counted as in a list; by default all of them.
        A few take a small part of the time and memory.

        Removing the source takes just this from the target, as long as patterns, scales, errors and
        the set of active features stay: a feature then passes on in proportion to what is left of
        it. (So what a path carries is the product of its weights, each but the last divided by
        the activation of the feature that it enters.)
        """
        feature = self.where("feature")
        value = torch.tensor([node.value for node in self.nodes])[feature].to(self.weights)
        inner = self.weights[feature][:, feature] / -value
        inner.diagonal().fill_(1)
        rows = self.weights if targets is None else self.weights[list(targets)]
        # What each target gets of one unit of each feature, along all paths.
        given = torch.linalg.solve_triangular(
            inner.double(), (rows[:, feature] / value).double(), upper=False, left=False,
            unitriangular=True,
        )  # fmt: skip
        return rows + given.to(rows) @ self.weights[feature]

    def influence(self) -> Float[Tensor, " node"]:
        """How much of the prediction comes through each node [Ameisen et al. 2025].

        Every target shares itself out among its sources by the size of their weights; what a node
        gets, from the logits (by their probabilities) down, is its influence.
        """
        return self._spread(self._shares())

    def pruned(self, nodes: float = 0.8, edges: float = 0.98) -> AttributionGraph:
        """The nodes that hold a share `nodes` of the influence, with a share `edges` of theirs.

        Tokens and logits stay; features that are left without an input or an output go. What was
        cut is in `biases`.

        Raises:
            ValueError: a share that is not in (0, 1].
        """
        for name, share in (("nodes", nodes), ("edges", edges)):
            if not 0 < share <= 1:
                raise ValueError(f"{name} is a share of the influence, in (0, 1], got {share}")
        ends, inner = self.where("token", "logit"), self.where("feature", "error")
        feature, influence = self.where("feature"), self.influence()
        kept = ends | (influence >= _least(influence[inner], nodes))
        cut = self.weights * kept * kept[:, None]
        shares = _row_shares(cut)
        scores = shares * (self._spread(shares) + self._start())[:, None]
        cut = cut * (scores >= _least(scores.flatten(), edges))
        before = -1
        while before != int(kept.sum()):
            before = int(kept.sum())
            kept &= ends | cut.any(0)
            kept &= ~feature | cut.any(1)
            cut = cut * kept * kept[:, None]
        sources = self.where("token", "error")
        values = torch.tensor([node.value for node in self.nodes]).to(cut)
        biases = torch.where(sources, self.biases, values - cut.sum(1))
        return replace(
            self,
            nodes=tuple(node for node, k in zip(self.nodes, kept.tolist(), strict=True) if k),
            weights=cut[kept][:, kept],
            biases=biases[kept],
        )

    def replacement_score(self) -> float:
        """Of the influence that ends in tokens or errors, the share that ends in tokens."""
        influence = self.influence()
        tokens, errors = (float(influence[self.where(kind)].sum()) for kind in ("token", "error"))
        return tokens / (tokens + errors)

    def completeness_score(self) -> float:
        """The share of nodes' inputs that comes from features and tokens, not from errors.

        Nodes count by their influence; those that have no inputs count as complete.
        """
        shares = self._shares()
        known = 1 - shares[:, self.where("error")].sum(1)
        weight = self._spread(shares) + self._start()
        return float((known * weight).sum() / weight.sum())

    def _shares(self) -> Float[Tensor, "target source"]:
        return _row_shares(self.weights)

    def _start(self) -> Float[Tensor, " node"]:
        start = torch.zeros_like(self.biases)
        start[-len(self.probabilities) :] = self.probabilities.to(start)
        return start

    def _spread(self, shares: Float[Tensor, "target source"]) -> Float[Tensor, " node"]:
        now = self._start() @ shares
        found = now.clone()
        while now.any():  # ends: every step goes at least a layer down
            now = now @ shares
            found += now
        return found


def _row_shares(weights: Float[Tensor, "target source"]) -> Float[Tensor, "target source"]:
    size = weights.abs()
    return size / size.sum(1, keepdim=True).clamp_min(1e-10)


def _least(scores: Float[Tensor, " n"], share: float) -> Tensor:
    """The smallest of the largest scores that together hold a share of their sum."""
    ordered = scores.sort(descending=True).values
    held = ordered.double().cumsum(0) / ordered.double().sum().clamp_min(1e-30)
    at = int(torch.searchsorted(held, torch.tensor(share, dtype=torch.double)))
    return ordered[min(at, len(ordered) - 1)]


@torch.no_grad()
def attribution_graph(
    model: TransformerBridge,
    transcoders: Sequence[Sae],
    tokens: Int[Tensor, "1 pos"],
    *,
    logits: Sequence[int] | None = None,
    most: int = 10,
    share: float = 0.95,
    at_once: int = 512,
) -> AttributionGraph:
    """All direct effects in one run, by a backward sweep for each layer's features.

    The prediction is that of the last position. The first token and special tokens have no
    features, for no transcoder here is trained on them: what the MLPs write there is a constant at
    the first token, which sees itself alone, and an error node at others. (circuit-tracer, on the
    same transcoders, has the same nodes and effects but for those of the first token, which there
    pass through the skips.)

    Args:
        model: A model whose blocks are GPT-2's, or of a kind that differs in nothing but norms,
            positions and the MLP's inside: what is read is the residual stream and the attention.
        transcoders: One for each layer's MLP, from ("mlp_in", i) to ("mlp_out", i), in any order.
        tokens: One prompt.
        logits: The tokens whose logits are explained. By default the most probable ones, until they
            hold `share` of the probability, at most `most`.
        most: See `logits`.
        share: See `logits`.
        at_once: How many targets are swept together; a bound on memory.

    Raises:
        ValueError: more than one prompt or a single token, transcoders that do not fit the model or
            leave a layer out, logits that the vocabulary does not have, blocks that are built
            otherwise.
    """
    run = frozen_run(model, transcoders, tokens)
    chosen, probabilities = _predictions(run, logits, most, share)
    nodes = (*_inner_nodes(run), *_logit_nodes(run, chosen))
    weights, biases = torch.zeros(len(nodes), len(nodes)), torch.zeros(len(nodes))
    columns = _Columns(run, nodes)
    for layer in range(len(run.layers) + 1):
        rows = [i for i, node in enumerate(nodes) if node.layer == layer and node.kind != "error"]
        for some in torch.tensor(rows, dtype=torch.long).split(at_once) if rows else ():
            found, const = columns.sweep(layer, [nodes[i] for i in some.tolist()])
            weights[some], biases[some] = found.cpu(), const.cpu()
    graph = AttributionGraph(
        tuple(model.tokenizer.decode([t]) for t in run.tokens.tolist()),
        nodes,
        weights,
        biases,
        tuple(model.tokenizer.decode([t]) for t in chosen.tolist()),
        probabilities.cpu(),
    )
    _require_exact(model, graph)
    return graph


def _predictions(
    run: FrozenRun, logits: Sequence[int] | None, most: int, share: float
) -> tuple[Int[Tensor, " logit"], Float[Tensor, " logit"]]:
    """The tokens to explain, and their probabilities."""
    probabilities, n = run.logits.softmax(0), len(run.logits)
    if logits is None:
        if most < 1 or not 0 < share <= 1:
            raise ValueError(f"most must be at least 1 and share in (0, 1], got {most} and {share}")
        best = probabilities.topk(min(most, n))
        count = int((best.values.cumsum(0) < share).sum()) + 1
        return best.indices[:count], best.values[:count]
    chosen = torch.tensor([int(t) for t in logits], device=run.logits.device)
    if not len(chosen) or len(set(chosen.tolist())) < len(chosen):
        raise ValueError(f"logits must name tokens, each once, got {list(logits)}")
    if bad := [t for t in chosen.tolist() if not 0 <= t < n]:
        raise ValueError(f"logits {bad} are no tokens: the vocabulary has {n}")
    return chosen, probabilities[chosen]


def _inner_nodes(run: FrozenRun) -> Iterator[Node]:
    for position, token in enumerate(run.tokens.tolist()):
        yield Node("token", -1, position, token, 1.0)
    for i, layer in enumerate(run.layers):
        for position, unit in layer.acts.nonzero().tolist():
            yield Node("feature", i, position, unit, float(layer.acts[position, unit]))
        for position in range(1, len(run.tokens)):
            yield Node("error", i, position, -1, 1.0)


def _logit_nodes(run: FrozenRun, chosen: Int[Tensor, " logit"]) -> Iterator[Node]:
    for token in chosen.tolist():
        yield Node("logit", len(run.layers), len(run.tokens) - 1, token, float(run.logits[token]))


class _Columns:
    """Where each source stands among the columns, and the sweep that fills them."""

    def __init__(self, run: FrozenRun, nodes: Sequence[Node]) -> None:
        self.run, self.n = run, len(nodes)
        self.first = {
            (kind, layer): next(
                i for i, node in enumerate(nodes) if (node.kind, node.layer) == (kind, layer)
            )
            for kind, layer in {(node.kind, node.layer) for node in nodes}
        }

    def sweep(self, layer: int, targets: Sequence[Node]) -> tuple[Tensor, Tensor]:
        """Direct effects on targets of one layer, `[target source]`, and of constants."""
        run, n_pos = self.run, len(self.run.tokens)
        at = torch.tensor([node.position for node in targets])
        units = torch.tensor([node.unit for node in targets])
        grad = torch.zeros(len(targets), n_pos, run.embedded.shape[1]).to(run.embedded)
        weights = torch.zeros(len(targets), self.n).to(grad)
        if layer == len(run.layers):
            norm, const, directions = run.final, run.b_U[units], run.W_U.T[units]
        else:
            here = run.layers[layer]
            norm, const = here.before_mlp, here.transcoder.b_enc[units]
            directions = here.transcoder.W_enc.T[units]
        grad[torch.arange(len(targets)), at] = directions
        const = const + directions @ norm.bias
        grad = norm.back(grad)
        for i in reversed(range(min(layer + 1, len(run.layers)))):
            if i < layer:
                const = const + self._written(i, grad, weights)
                grad, more = run.layers[i].mlp_back(grad)
                const = const + more
            grad, more = run.layers[i].attention_back(grad)
            const = const + more
        weights[:, :n_pos] = torch.einsum("tpd,pd->tp", grad, run.embedded)
        return weights, const + torch.einsum("tpd,pd->t", grad, run.positions)

    def _written(self, i: int, grad: Tensor, weights: Tensor) -> Tensor:
        """Fill in what a layer's features and errors give; returns what the first token gives."""
        layer = self.run.layers[i]
        rows = {**dict(enumerate(layer.earlier)), i: layer.transcoder.W_dec}
        for owner, W_dec in rows.items():
            start = self.first.get(("feature", owner), 0)
            for position, acts in enumerate(self.run.layers[owner].acts):
                units = acts.nonzero()[:, 0]
                written = W_dec[units] * acts[units, None]
                weights[:, start : start + len(units)] += grad[:, position] @ written.T
                start += len(units)
        errors = torch.einsum("tpd,pd->tp", grad, layer.error)
        first = self.first["error", i]
        weights[:, first : first + errors.shape[1] - 1] = errors[:, 1:]
        return errors[:, 0]


def _require_exact(model: TransformerBridge, graph: AttributionGraph) -> None:
    """ValueError where a target's inputs do not add up: then the model is built otherwise."""
    targets = graph.where("feature", "logit")
    values = torch.tensor([node.value for node in graph.nodes])[targets]
    wrong = (graph.weights.sum(1) + graph.biases)[targets] - values
    if not float(wrong.abs().max()) <= 1e-3 * max(1.0, float(values.abs().max())):  # nor NaN
        raise ValueError(
            f"in {model.cfg.model_name} inputs do not add up to what they make (off by "
            f"{float(wrong.abs().max()):.2g}): its blocks have parts that are not known here"
        )
