"""Our judging of dictionaries beside SAEBench: the same activations and labels, its own functions.

Where both classes of a label are equally many and the draw of tokens is all of them, what is chosen
and scored must be the same; where SAEBench draws, ours lies near the mean of its draws.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from mi_data.pocket import generator
from torch import Tensor

from mi_helpers import sae as S

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import peers  # noqa: E402

KINDS = ("ioi", "fact", "opinion", "agreement", "pronouns", "request", "years")
SOURCE = ROOT / "notebooks" / "src" / "24_judging_dictionaries.py"
DRAWS, N, STEPS = 5, 10, 150


def even(labels: Tensor, train: Tensor, which: list[int]) -> Tensor:
    """Rows with as many of each of the classes `which`, in both halves, one class after another."""
    rows = []
    for part in (train, ~train):
        of = [(part & labels[:, i]).nonzero()[:, 0] for i in which]
        rows += [one[: min(map(len, of))] for one in of]
    return torch.cat(rows)


def against_rest(y: Tensor, train: Tensor) -> Tensor:
    """Rows with as many that carry the label as that do not, in both halves."""
    return even(torch.stack([y, ~y], 1), train, [0, 1])


def split(x: Tensor, labels: Tensor, train: Tensor, names: list[str]) -> dict[str, dict]:
    return {
        part: {name: x[here & y] for name, y in zip(names, labels.T, strict=True)}
        for part, here in (("train", train), ("test", ~train))
    }


@pytest.fixture(scope="module")
def given(_pocket):
    """Notebook 24's tokens with one role each, their activations, and its first dictionary.

    All moved by one, and the dictionary with them: pocket's stream is centred, and SAEBench takes
    a vector whose entries add up to zero for padding.
    """
    samples = [generator.sample(kind, 5000 + i, "test") for i in range(60) for kind in KINDS]
    labelled = S.label_tokens(_pocket, samples, least=60, texts=False)
    marks = torch.stack([labelled.flat(name) for name in labelled.labels], 1)
    one_role = marks.sum(1) == 1
    train = (labelled.real.nonzero()[:, 0] < len(samples) // 2)[one_role]
    place = ("resid_post", _pocket.cfg.n_layers // 2)
    x = S.read_tokens(_pocket, place, labelled.tokens, labelled.real)[one_role]
    labels, names = marks[one_role], list(labelled.labels)
    often = [i for i, y in enumerate(labels.T) if min(y[train].sum(), y[~train].sum()) >= 25]
    assert len(often) >= 6
    one = S.load(files("mi_data") / "sae" / f"resid_post_{place[1]}")
    one = replace(one, b_dec=one.b_dec + 1)
    return x + 1, labels[:, often], train, [names[i] for i in often], one


def ours_probing(given) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Activations, label and half, for each label against as many others."""
    x, labels, train, names, one = given
    found = {}
    for name, y in zip(names, labels.T, strict=True):
        rows = against_rest(y, train)
        found[name] = (one.encode(x[rows]), y[rows], train[rows])
    return found


def ours_tpp(given) -> dict[str, tuple]:
    """Rows, their labels and probes: neighbours in pairs, and all classes at once."""
    x, labels, train, names, _ = given
    found = {}
    groups = [[i, i + 1] for i in range(len(names) - 1)] + [list(range(len(names)))]
    for group in groups:
        rows = even(labels, train, group)
        y = labels[rows][:, group]
        probes = [S.fit_probe(x[rows][train[rows]], one[train[rows]], strength=0.01) for one in y.T]
        key = "all" if len(group) > 2 else " and ".join(names[i] for i in group)
        found[key] = (x[rows], y, train[rows], [names[i] for i in group], probes)
    return found


class Facts:
    """Subjects with three attributes of four values; a unit says each value, four say nothing."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(16, 16, generator=draw))[0].contiguous()
        into, zero = basis.T.contiguous(), (torch.zeros(16), torch.zeros(16))
        self.sae = S.Sae("relu", into, zero[0], basis, zero[1], hook="blocks.0.hook_resid_post")
        self.attribute_of = torch.arange(12) // 4
        values = torch.randint(4, (30, 3), generator=draw)
        code = torch.zeros(30, 16)
        code[torch.arange(30)[:, None], values + 4 * torch.arange(3)] = 1
        code = code * (0.8 + 0.4 * torch.rand(30, 16, generator=draw))
        code[:, 12:] = torch.rand(30, 4, generator=draw)
        self.subjects = code @ basis
        self.readout = 6 * basis[:12].T.contiguous()
        subject, other = torch.randint(30, (2, 600), generator=draw)
        asked = torch.arange(600) % 3
        own, wanted = (4 * asked + values[who, asked] for who in (subject, other))
        kept = own != wanted
        self.base, self.source = (
            torch.stack([asked, who], 1)[kept] for who in (subject, other)
        )  # fmt: skip
        self.own, self.wanted, self.cause = own[kept], wanted[kept], (asked == 0)[kept]

    def effects(self) -> tuple[Tensor, Tensor]:
        """What each unit's exchange adds to the margin, and the margin as it is."""
        start, end = (self.subjects[rows[:, 1]] for rows in (self.base, self.source))
        slope = (self.readout[:, self.wanted] - self.readout[:, self.own]).T
        moved = self.sae.encode(end) - self.sae.encode(start)
        return moved * (slope @ self.sae.W_dec.T), (start * slope).sum(1)


def family() -> tuple[S.Sae, Tensor, Tensor, S.Probe]:
    """A parent with its child, whose unit writes both; x, parent, and the parent's probe."""
    token = torch.arange(800)
    parent, child, any_ = token % 2 == 0, token % 40 == 0, token % 4 > 1
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]]))
    into = torch.linalg.inv(rows).contiguous()
    acts = torch.stack([parent & ~child, child * 2**0.5, any_], 1).float()
    one = S.Sae(
        "relu", into, torch.full((3,), -1e-4), rows, torch.zeros(3), hook="blocks.0.hook_resid_post"
    )
    return one, acts @ rows, parent, S.Probe(torch.tensor([1.0, 0.0, 0.0]), -0.5)


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory):
    """All that SAEBench says; skips where it has no environment."""
    try:
        python = peers.python_of("sae-bench")
    except peers.PeerError as err:
        pytest.skip(str(err))
    folder, (x, _, _, _, one) = tmp_path_factory.mktemp("saebench"), given
    jobs: dict[str, dict] = {"probing": {}, "tpp": {}}
    for name, (acts, y, train) in ours_probing(given).items():
        parts = split(acts, torch.stack([y, ~y], 1), train, ["yes", "no"])
        jobs["probing"] |= {f"{name}, {k}": {"k": k, **parts} for k in (1, 5)}
    for name, (rows, y, train, of, probes) in ours_tpp(given).items():
        parts = split(rows, y, train, of)
        pairs = zip(of, probes, strict=True)
        parts["probes"] = {one: (p.weights, torch.tensor(p.bias)) for one, p in pairs}
        for seed in range(DRAWS if name == "all" else 1):
            jobs["tpp"][f"{name}, {seed}"] = {"n": N, "seed": seed, **parts}
    mask = torch.rand(one.d_sae, generator=torch.Generator().manual_seed(1)) < 0.3
    jobs["exchange"] = {"base": x[:60], "source": x[60:120], "mask": mask}
    facts, (of_family, rows, parent, _) = Facts(), family()
    wanted = torch.where(facts.cause, facts.wanted, facts.own)
    shape = {name: getattr(facts, name) for name in ("subjects", "readout", "attribute_of")}
    pairs = {"base": facts.base, "source": facts.source, "own": facts.own, "wanted": wanted}
    jobs["mask"] = shape | pairs | {"steps": STEPS}
    seen = rows[400:][parent[400:]]
    jobs["absorbed"] = {"x": seen, "probe": torch.tensor([1.0, 0, 0]), "own": [0]}
    for name, sae in (("pocket", one), ("facts", facts.sae), ("family", of_family)):
        S.save(sae, folder / name)
    torch.save(jobs, folder / "in.pt")
    script = [str(python), str(ROOT / "tests" / "saebench_side.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return jobs, torch.load(folder / "out.pt")


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 5])
def test_sparse_probing_is_saebenchs(given, theirs, k: int) -> None:
    """The same units; the same accuracy once they are standardised as ours are."""
    apart = []
    for name, (acts, y, train) in ours_probing(given).items():
        hers = theirs[1]["probing"][f"{name}, {k}"]
        gaps = S.judging.mean_differences(acts[train], y[train][:, None])[:, 0].abs()
        assert set(gaps.topk(k).indices.tolist()) == set(hers["units"].tolist()), name
        mine = float(S.sparse_probing(acts, y[:, None], train, k)[0])
        assert mine == pytest.approx(hers["standardised"], abs=1.01 / int((~train).sum())), name
        apart.append(abs(mine - hers["accuracy"]))
    print(f"k = {k}: without standardising, accuracies differ by", apart)
    assert sum(apart) / len(apart) < 0.03


@pytest.mark.slow
def test_targeted_perturbation_is_saebenchs(given, theirs) -> None:
    """Between two classes nothing is drawn there: the same losses, entry by entry."""
    W_dec, encode, most = given[4].W_dec, given[4].encode, 0.0
    for name, (x, y, train, _, probes) in ours_tpp(given).items():
        lost = S.targeted_perturbation(encode(x), W_dec, x, y, train, probes, N)
        draws = [theirs[1]["tpp"][f"{name}, {i}"] for i in range(DRAWS if name == "all" else 1)]
        if name != "all":
            most = max(most, float(lost.abs().max()))
            assert (lost - draws[0]["lost"]).abs().max() < 1e-6, name
            continue
        mine, hers = S.targeted_score(lost), [one["score"] for one in draws]
        print("all classes:", mine, "SAEBench's draws:", hers)
        assert abs(mine - sum(hers) / DRAWS) < 0.02 < mine
    assert most > 0.2, "no probe lost anything"


@pytest.mark.slow
def test_an_exchange_of_units_is_that_of_saebenchs_ravel(given, theirs) -> None:
    """With what the dictionary misses kept, as we do; SAEBench's default leaves it out."""
    one, job = given[4], theirs[0]["exchange"]
    base, source, mask = job["base"], job["source"], job["mask"]
    moved = one.encode(source) - one.encode(base)
    mine = base + moved[:, mask] @ one.W_dec[mask]
    found = theirs[1]["exchange"]
    size = (mine - base).abs().max()
    assert (mine - found["kept"]).abs().max() < 1e-5 * size
    missed = one(base) - base
    torch.testing.assert_close(found["left out"] - found["kept"], missed, atol=1e-4, rtol=1e-4)
    assert missed.abs().max() > 0.1 * size


@pytest.mark.slow
def test_the_mask_and_its_scores_are_those_of_saebenchs_ravel(theirs) -> None:
    """Where effects are linear our mask is the one that SAEBench learns by running the model."""
    facts, (job, found) = Facts(), (theirs[0]["mask"], theirs[1]["mask"])
    effects, margins = facts.effects()
    mask = S.units_to_swap(effects, margins, facts.cause, steps=STEPS)
    say = slice(0, 12)  # the others change no answer, so that rounding decides
    assert torch.equal(mask[say], found["mask"][say])
    assert mask[say].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    cells = SOURCE.read_text(encoding="utf-8").split("\n# %%")
    cell = next(c for c in cells if "def disentangled(" in c and "NotImplemented" not in c)
    names: dict = {"torch": torch}
    exec(cell.split("\n", 1)[1], names)
    answers = found["logits"].argmax(-1)
    mine = names["disentangled"](answers, job["own"], facts.wanted, facts.cause)
    assert mine[:2].tolist() == pytest.approx(list(found["scores"]))
    assert mine[0] > 0.9 and mine[1] > 0.9


@pytest.mark.slow
def test_full_absorption_is_saebenchs_where_nothing_else_is_seen(theirs) -> None:
    """A probe that sees nothing elsewhere, so that its projection exceeds that by all of it."""
    one, x, parent, probe = family()
    train = torch.arange(len(x)) < 400
    found = S.absorption(one.encode(x), one.W_dec, x, parent, train, probe)
    assert found.own.tolist() == [0]
    assert torch.equal(found.absorbed(), theirs[1]["absorbed"])
    assert 0 < int(found.absorbed().sum()) < len(found.hole)
