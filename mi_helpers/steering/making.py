"""Ways to make a steering vector: each turns activations of two sets of prompts into a direction.

A *maker* is a plain function of two tensors `[prompt d_model]`, the activations with the behaviour
and without it; the vector points towards the behaviour. Those whose length has no meaning (PCA, a
probe) are given the length of the difference of means, so that strengths can be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_helpers.prompts.pairs import tokens_of
from mi_helpers.sites import Place, read, require_layer, require_tokens, require_unpadded
from mi_helpers.steering.vectors import SteeringVector, new_vector, require_site

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Acts = Float[Tensor, "prompt d_model"]
Maker = Callable[[Acts, Acts], Float[Tensor, " d_model"]]
Prompts = Sequence[str] | Int[Tensor, "prompt pos"]


def paired_difference(positive: Acts, negative: Acts) -> Float[Tensor, " d_model"]:
    """Contrastive activation addition: the mean over pairs of positive minus negative.

    Row i of one belongs to row i of the other. Source: Panickssery et al. 2023 (arXiv:2312.06681),
    section 3.
    """
    _require_acts(positive, negative, paired=True)
    return (positive - negative).mean(0)


def class_means(positive: Acts, negative: Acts) -> Float[Tensor, " d_model"]:
    """The mean of one class minus the mean of the other; the classes may differ in size.

    For pairs it equals `paired_difference`: the mean of differences is the difference of means.
    Source: Marks and Tegmark 2023 (arXiv:2310.06824), "mass-mean"; Arditi et al. 2024, section 2.3.
    """
    _require_acts(positive, negative)
    return positive.mean(0) - negative.mean(0)


def pca_of_differences(positive: Acts, negative: Acts) -> Float[Tensor, " d_model"]:
    """The direction along which the differences of pairs are largest, in the sense of squares.

    Differences are not centred: their common part is what we look for. Turned towards the mean
    difference and given its length. Source: Zou et al. 2023 (arXiv:2310.01405), section 3.1.
    """
    _require_acts(positive, negative, paired=True)
    differences = positive - negative
    axis = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    return _like(axis, differences.mean(0))


def probe_weights(positive: Acts, negative: Acts) -> Float[Tensor, " d_model"]:
    """The weights of a logistic regression that tells the classes apart.

    Fitted by scikit-learn on centred activations, all divided by one number, their spread (L2,
    C = 0.1); given the length of the difference of means.

    Raises:
        ValueError: no direction tells the classes apart.
    """
    from sklearn.linear_model import LogisticRegression

    _require_acts(positive, negative)
    acts = torch.cat([positive, negative]).double().cpu()
    acts = acts - acts.mean(0)
    labels = [1] * len(positive) + [0] * len(negative)
    probe = LogisticRegression(C=0.1, max_iter=1000).fit((acts / acts.std()).numpy(), labels)
    weights = torch.as_tensor(probe.coef_[0]).to(positive)
    return _like(weights, class_means(positive, negative))


def collect(
    model: TransformerBridge,
    prompts: Prompts,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    position: int | None = -1,
) -> Float[Tensor, "layer prompt d_model"]:
    """Activations of `site` at one position of every prompt, or their mean over all.

    Args:
        model: Any bridge.
        prompts: Texts of any lengths, tokenised as `model.to_tokens` does, or tokens of one length.
        site: One of width d_model.
        layers: All by default.
        position: Counted in each prompt, -1 being its last token; None for the mean over all but
            the start token.

    Returns:
        The activations, in the order of `layers`.

    Raises:
        ValueError: No prompts, an empty or a padded text, a layer or a position out of range, a
            model in training mode.
    """
    layers = list(range(model.cfg.n_layers)) if layers is None else list(layers)
    require_site(site)
    for layer in layers:
        require_layer(model, layer)
    rows = _tokens(model, prompts)
    alike: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        require_tokens(row[None], [] if position is None else [position])
        alike[len(row), _has_start(model, row)].append(i)
    places: list[Place | str] = [(site, layer) for layer in layers]
    found = torch.empty(len(layers), len(rows), model.cfg.d_model, device=model.cfg.device)
    for (length, start), members in alike.items():
        if position is None and length == start:
            raise ValueError("a prompt is nothing but the start token: there is no mean over it")
        tokens = torch.stack([rows[i] for i in members])
        acts = torch.stack(list(read(model, tokens, places).values()))
        found[:, members] = acts[:, :, start:].mean(2) if position is None else acts[:, :, position]
    return found


def make(
    model: TransformerBridge,
    positive: Prompts,
    negative: Prompts,
    layer: int,
    *,
    maker: Maker = class_means,
    site: str = "resid_post",
    position: int | None = -1,
) -> SteeringVector:
    """A vector from two sets of prompts, towards the first, for one site of one layer.

    Args:
        model: The model that it is to steer.
        positive: Prompts with the behaviour.
        negative: Prompts without it.
        layer: Counted from 0.
        maker: How two sets of activations become a direction.
        site: One of width d_model.
        position: As in `collect`.

    Raises:
        ValueError: As `collect`; sets that do not fit the maker (unequal for pairs), or that do not
            differ at this place, as when a position before the first difference is read.
    """
    acts = [
        collect(model, prompts, site=site, layers=[layer], position=position)[0]
        for prompts in (positive, negative)
    ]
    texts = [_texts(model, prompts) for prompts in (positive, negative)]
    return new_vector(
        model,
        maker(*acts),
        layer,
        method=maker.__name__,
        site=site,
        prompts=(*texts[0], *texts[1]),
        n_positive=len(texts[0]),
        position=position,
    )


def activation_addition(
    model: TransformerBridge, plus: str, minus: str, layer: int
) -> SteeringVector:
    """One pair of prompts, subtracted position by position: a vector for each position.

    The shorter prompt is filled up with spaces, as in the paper. Position 0, the start token, is
    the same in both and left out, so the vectors belong to positions 1, 2, …
    Source: Turner et al. 2023 (arXiv:2308.10248), section 3: resid_pre of `layer`.

    Args:
        model: The model that it is to steer.
        plus: The prompt to steer towards.
        minus: The prompt to steer away from.
        layer: Counted from 0.

    Raises:
        ValueError: As `collect`, or a model that puts no start token before a text.
    """
    rows = _tokens(model, [plus, minus])
    if not all(_has_start(model, row) for row in rows):
        raise ValueError(f"{model.cfg.model_name} puts no start token before a text to begin at")
    length = max(len(row) for row in rows)
    space = model.to_tokens(" ", prepend_bos=False)[0, :1]
    filled = torch.stack([torch.cat([row, space.repeat(length - len(row))]) for row in rows])
    place = ("resid_pre", layer)
    acts = read(model, filled, [place])[place][:, 1:]
    return new_vector(
        model,
        acts[0] - acts[1],
        layer,
        method="activation_addition",
        site="resid_pre",
        prompts=(plus, minus),
    )


def sae_feature(
    model: TransformerBridge,
    W_dec: Float[Tensor, "feature d_model"],
    feature: int,
    layer: int,
    *,
    max_act: float,
    site: str = "resid_post",
) -> SteeringVector:
    """A feature of a sparse autoencoder: its decoder row times its maximum activation.

    Added with a strength s this is resid + s * W_dec[i] * max_act: at 1, the feature at its
    strongest. Convention of SAELens and Neuronpedia.

    Args:
        model: The model that the autoencoder reads.
        W_dec: The decoder.
        feature: Which row of it.
        layer: Where it belongs.
        max_act: The feature's largest activation.
        site: One of width d_model.

    Raises:
        ValueError: A feature that does not exist or has never been active.
    """
    if not 0 <= feature < len(W_dec):
        raise ValueError(f"feature {feature} is not in 0..{len(W_dec) - 1}")
    if max_act <= 0:
        raise ValueError(f"feature {feature} has a maximum activation of {max_act}: it is dead")
    return new_vector(
        model,
        W_dec[feature] * max_act,
        layer,
        method="sae_feature",
        site=site,
        feature=feature,
        max_act=float(max_act),
    )


def random_like(vector: SteeringVector, model: TransformerBridge, seed: int = 0) -> SteeringVector:
    """The standard control: a random direction of the same norm at the same place.

    Args:
        vector: What it is the control of.
        model: The model of both.
        seed: Of the direction.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vector.vector.shape, generator=generator)
    return new_vector(
        model,
        _like(noise, vector.vector, turn=False),
        vector.layer,
        method="random",
        site=vector.site,
        seed=seed,
    )


def _like(direction: Tensor, model_of: Tensor, *, turn: bool = True) -> Tensor:
    """`direction` with the length of `model_of`, and turned to its side."""
    if not direction.norm() > 0:
        raise ValueError("the direction has length 0: nothing was found that tells the two apart")
    scaled = direction * model_of.norm() / direction.norm()
    return -scaled if turn and (scaled * model_of).sum() < 0 else scaled


def _require_acts(positive: Acts, negative: Acts, *, paired: bool = False) -> None:
    if positive.ndim != 2 or negative.ndim != 2 or positive.shape[1] != negative.shape[1]:
        raise ValueError(
            f"activations must be [prompt d_model] twice, got {list(positive.shape)} and "
            f"{list(negative.shape)}"
        )
    if not len(positive) or not len(negative):
        raise ValueError(f"got {len(positive)} positive and {len(negative)} negative prompts")
    if paired and len(positive) != len(negative):
        raise ValueError(
            f"pairs need as many positive as negative prompts, got {len(positive)} and "
            f"{len(negative)}: use class_means for sets that are not paired"
        )


def _tokens(model: TransformerBridge, prompts: Prompts) -> list[Int[Tensor, " pos"]]:
    """One row of tokens for each prompt, as the model takes them."""
    if isinstance(prompts, Tensor):
        require_tokens(prompts)
        require_unpadded(model, prompts)
        return list(prompts.to(model.cfg.device))
    if isinstance(prompts, str) or not len(prompts) or not all(prompts):
        raise ValueError("prompts must be a list of texts with at least one, none of them empty")
    rows = [tokens_of(model, [text])[0] for text in prompts]
    longest = max(map(len, rows))
    if longest > model.cfg.n_ctx:
        raise ValueError(f"a prompt of {longest} tokens exceeds the context of {model.cfg.n_ctx}")
    return rows


def _has_start(model: TransformerBridge, row: Int[Tensor, " pos"]) -> bool:
    """Whether a row begins with the start token, which says nothing of the text."""
    return int(row[0]) == model.tokenizer.bos_token_id


def _texts(model: TransformerBridge, prompts: Prompts) -> tuple[str, ...]:
    if isinstance(prompts, Tensor):
        bos = model.tokenizer.bos_token or ""
        return tuple(model.tokenizer.decode(row).removeprefix(bos) for row in prompts.tolist())
    return tuple(prompts)
