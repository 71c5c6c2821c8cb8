"""Groups, their irreps and subgroups, and networks that compose: against loops and known lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mi_data.groups import train as script
from mi_data.groups.card import card

from mi_helpers.toys import composition, groups, runs
from mi_helpers.toys.composition import CompositionConfig

SMALL = CompositionConfig("D3", seeds=(0, 5), d_embed=4, d_hidden=6, share=0.5, log_every=3)
EVERY = [groups.cyclic(7), groups.cyclic(8), groups.dihedral(5), groups.dihedral(6),
         groups.symmetric(4), groups.alternating(5)]  # fmt: skip


@pytest.mark.parametrize("group", EVERY, ids=lambda group: group.name)
def test_a_table_is_that_of_a_group(group: groups.Group) -> None:
    g, table = torch.arange(group.order), group.table
    assert torch.equal(table[0], g) and torch.equal(table[:, 0], g)
    assert torch.equal(table[table], table[:, table])  # (a b) c and a (b c)
    assert (table[g, group.inverse] == 0).all()
    a, b = 1, group.order - 1
    assert torch.equal(group.elements[table[a, b]], group.elements[a][group.elements[b]])


@pytest.mark.parametrize("group", EVERY, ids=lambda group: group.name)
def test_irreps_multiply_like_the_group_and_are_all(group: groups.Group) -> None:
    squares = 0.0
    for matrices in group.irreps.values():
        d = matrices.shape[-1]
        assert torch.allclose(matrices[:, None] @ matrices, matrices[group.table])
        assert torch.allclose(matrices @ matrices.mT, torch.eye(d, dtype=torch.double))
        norm = groups.character(matrices).square().mean()  # 1, or 2 for two complex ones
        squares += d**2 / norm
    assert round(float(squares), 6) == group.order
    chi = torch.stack([groups.character(matrices) for matrices in group.irreps.values()])
    overlap = chi @ chi.T
    assert torch.allclose(overlap, overlap.diagonal().diag(), atol=1e-8)


def test_known_lists() -> None:
    s4, a5 = groups.symmetric(4), groups.alternating(5)
    assert {n: m.shape[-1] for n, m in s4.irreps.items()} == {
        "trivial": 1, "sign": 1, "2d-1": 2, "standard": 3, "standard x sign": 3
    }  # fmt: skip
    assert sorted(m.shape[-1] for m in a5.irreps.values()) == [1, 3, 3, 4, 5]
    assert len(s4.subgroups) == 30 and len(a5.subgroups) == 59
    assert len(groups.dihedral(6).subgroups) == 16 and len(groups.cyclic(8).subgroups) == 4
    for subgroup in s4.subgroups:
        inside = subgroup.nonzero()[:, 0]
        assert subgroup[s4.table[inside][:, inside]].all() and subgroup[0]


def test_what_is_left_over_is_the_identity_at_the_product() -> None:
    group = groups.dihedral(4)
    for a, b, c in [(1, 2, 3), (5, 6, 7), (4, 1, 0)]:
        assert group.table[group.left_over[a, b, c], c] == group.table[a, b]
    assert torch.equal((group.left_over == 0).int().argmax(-1), group.table)


def test_networks_equal_a_loop_and_seeds_do_not_meet() -> None:
    model = composition.Composers(SMALL)
    pairs = torch.cartesian_prod(torch.arange(6), torch.arange(6)).expand(2, -1, -1)
    got = model(pairs)
    for i, seed in enumerate(SMALL.seeds):
        alone = composition.Composers(replace(SMALL, seeds=(seed,)))
        assert torch.allclose(alone(pairs[:1])[0], got[i], atol=1e-5)
        left = model.embed_left[i, 4] @ model.in_left[i]
        right = model.embed_right[i, 1] @ model.in_right[i]
        assert torch.allclose((left + right).relu() @ model.unembed[i], got[i, 25], atol=1e-5)


def test_seeds_side_by_side_are_trained_as_alone() -> None:
    both = runs.train(composition.start(SMALL), 7)
    alone = runs.train(composition.start(replace(SMALL, seeds=(5,))), 7)
    for name, weight in alone.model.state_dict().items():
        assert torch.allclose(weight[0], both.model.state_dict()[name][1], atol=1e-4), name
    assert both.curve("test_loss").shape == (4, 2)


def test_products_and_what_is_held_out() -> None:
    table = groups.dihedral(3).table.flatten()
    assert torch.equal(composition.products(SMALL), table.expand(2, -1))
    dealt = composition.products(replace(SMALL, shuffled=True))
    assert torch.equal(dealt.sort(1).values[0], table.sort().values)
    assert not torch.equal(dealt[0], dealt[1])
    new = composition.held_out(SMALL)
    assert new.sum(1).tolist() == [18, 18] and not torch.equal(new[0], new[1])
    run = composition.start(SMALL)
    pairs, answers, n = run._split
    assert n == 18 and torch.equal(answers[0], table[pairs[0, :, 0] * 6 + pairs[0, :, 1]])
    assert new[0, pairs[0, n:, 0] * 6 + pairs[0, n:, 1]].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"group": "X3"}, "like C7"), ({"group": "C2"}, "like C7"), ({"seeds": (1, 1)}, "different"),
     ({"share": 1.0}, "both sides"), ({"share": 0.02}, "both sides")],
)  # fmt: skip
def test_bad_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_the_script_goes_on_and_writes_a_card(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(script, "STEPS", 6)
    script.train(SMALL, tmp_path, tmp_path, every=2)
    one, config = composition.load(tmp_path / "D3.safetensors")
    assert config == SMALL and capsys.readouterr().out.count("\n") == 3
    whole = runs.train(composition.start(SMALL), 6).model
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight.half().float(), one.state_dict()[name]), name
    assert "| D3 | 6 | 2 | 50% |" in card(tmp_path, 6)
    with pytest.raises(FileNotFoundError, match="mi_data.groups.train makes them"):
        composition.load(tmp_path / "none.safetensors")


def test_what_is_committed_multiplies() -> None:
    folder = Path(script.__file__).parent
    for config in script.CONFIGS:
        model, saved = composition.load(folder / f"{config.group}.safetensors")
        assert saved == config
        if config.group != "S5":
            measured = composition.CompositionRun(saved, model).measures()
            assert measured["test_accuracy"].min() > 0.9
        else:  # a part of its pairs: all would take minutes
            pairs = torch.randint(120, (4, 500, 2), generator=torch.Generator().manual_seed(0))
            a, b = pairs.unbind(-1)
            right = composition.group_of(config).table[a, b]
            assert (model(pairs).argmax(-1) == right).float().mean(1).min() > 0.9
