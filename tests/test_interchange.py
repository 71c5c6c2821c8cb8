"""Models trained to have a known circuit: what is drawn, what is swapped, what is committed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mi_data.known_circuits import train as tool
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from mi_helpers.circuits import EdgeGraph, EdgeScores
from mi_helpers.toys import interchange, programs, scoreboard
from mi_helpers.toys.interchange import NOTHING, Recipe

SMALL = Recipe("count", steps=6, batch=8)


def test_a_variable_that_is_given_is_not_computed():
    program = programs.PROGRAMS["count"][0]
    share = next(var for var in program.variables if var.name == "share")
    text, other = list("abaca"), list("aaaaa")
    assert program.says(text)[-1] == "3"
    assert program.says(text, {share: program.run(other)[share]})[-1] == "5"
    assert program.run(text, {share: program.run(text)[share]}) == program.run(text)


@pytest.mark.parametrize("name", ["count", "indirect object"])
def test_what_is_drawn_is_what_the_program_says(name):
    recipe, program = Recipe(name), programs.PROGRAMS[name][0]
    drawn = interchange.swaps(name, recipe.truth, 60, seed=1)
    words = [None, *program.vocabulary]
    texts = [[words[token] for token in row[1:]] for row in drawn.base.tolist()]
    for text, said in zip(texts, drawn.said.tolist(), strict=True):
        assert [NOTHING if w is None else words.index(w) for w in program.says(text)] == said[1:]
    assert (drawn.base[:, 0] == 0).all() and (drawn.said[:, 0] == NOTHING).all()
    still = ~drawn.swapped.any(1)
    assert still.any() and (drawn.target[still] == drawn.said[still]).all()
    last = drawn.swapped[:, [sorted(recipe.truth.nodes).index(recipe.truth.place[
        next(iter(program.output)).name])]]  # fmt: skip
    assert (drawn.target[~still] != drawn.said[~still]).any() and last.any()
    one = interchange.swaps(name, recipe.truth, 30, seed=2, single=True)
    assert (one.swapped.sum(1) == 1).all() and (one.target[:, -1] != one.said[:, -1]).all()
    again = interchange.swaps(name, recipe.truth, 30, seed=2, single=True)
    assert torch.equal(one.base, again.base) and torch.equal(one.swapped, again.swapped)


def test_the_pass_of_many_models_is_that_of_each():
    group = [SMALL, replace(SMALL, seed=1)]
    weights = tool.start(group)
    tokens = torch.stack([interchange.swaps("count", r.truth, 4, r.seed).base for r in group])
    logits = tool.run(weights, tokens, tool.Taken({}))
    for i, recipe in enumerate(group):
        one = GPT2LMHeadModel(recipe.config)
        one.load_state_dict({name: value[i] for name, value in weights.items()})
        torch.testing.assert_close(one(tokens[i]).logits, logits[i])


def test_parts_are_swapped_and_no_others():
    weights, drawn = tool.start([SMALL]), interchange.swaps("count", SMALL.truth, 8)
    base, other = drawn.base[None], drawn.other[None]
    theirs = tool.Taken({})
    there = tool.run(weights, other, theirs)
    none = {name: torch.zeros(1, 8, 1, out.shape[-1], dtype=torch.bool)
            for name, out in theirs.outputs.items()}  # fmt: skip
    plain = tool.run(weights, base, tool.Taken({}))
    same = tool.run(weights, base, tool.Taken(theirs.outputs, none))
    torch.testing.assert_close(plain, same)
    some = none["H1"].clone()
    some[:, :4, :, 16:24] = True  # the third head of layer 1, in four texts
    swapped = tool.run(weights, base, tool.Taken(theirs.outputs, none | {"H1": some}))
    torch.testing.assert_close(plain[:, 4:], swapped[:, 4:])
    assert (plain[:, :4] - swapped[:, :4]).abs().amax((0, 2, 3)).gt(1e-6).any()
    # With all parts and the embeddings from the other text nothing is left of this one.
    whole = {name: torch.ones_like(mask) for name, mask in none.items()}
    all_theirs = tool.run(weights, other, tool.Taken(theirs.outputs, whole))
    torch.testing.assert_close(all_theirs, there)


def test_a_batch_swaps_the_parts_that_were_drawn():
    drawn = interchange.swaps("count", SMALL.truth, 40)
    batch, wide = tool.batch_of(SMALL, drawn, 3)
    rows = [int((drawn.base == one).all(1).nonzero()[0]) for one in batch[0]]
    torch.testing.assert_close(batch[3], drawn.target[rows])
    width = SMALL.config.n_embd // SMALL.config.n_head
    for i, node in enumerate(sorted(SMALL.truth.nodes)):
        mask = wide[node] if node in wide else None
        if mask is None:  # a head, such as L1H2: its part of all heads of the layer
            layer, head = map(int, node[1:].split("H"))
            mask = wide[f"H{layer}"][..., head * width : (head + 1) * width]
        torch.testing.assert_close(mask.all(2)[:, 0], drawn.swapped[rows, i])
        torch.testing.assert_close(mask.any(2)[:, 0], drawn.swapped[rows, i])


def test_a_free_model_is_not_asked_about_parts_and_none_about_another():
    drawn = interchange.swaps("count", SMALL.truth, 50)
    group = [SMALL, replace(SMALL, strict=False)]
    both = tool.losses(tool.start(group), group, [drawn, drawn], 0)
    alone = tool.losses(tool.start([SMALL]), [SMALL], [drawn], 0)
    assert both[0] > both[1]
    torch.testing.assert_close(both[:1], alone)
    later = tool.losses(tool.start([SMALL]), [SMALL], [drawn], 1)
    assert not torch.equal(later, alone)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "DRAWS", 100)
    group = [SMALL, replace(SMALL, strict=False)]
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    tool.train(group, folders[0], folders[0] / "work")
    tool.train(group, folders[1], folders[1] / "work", every=2, until=4)
    assert not (folders[1] / f"{SMALL.name}.safetensors").exists()
    tool.train(group, folders[1], folders[1] / "work", every=2)
    for recipe in group:
        one, two = (load_file(folder / f"{recipe.name}.safetensors") for folder in folders)
        assert one and all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ValueError, match="another recipe"):
        tool.train([replace(SMALL, lr=1e-3)], folders[1], folders[1] / "work")


@pytest.mark.parametrize("recipe", [Recipe("count", seed=2), Recipe("brackets")])
def test_a_committed_model_is_its_program_by_its_parts(recipe):
    case = interchange.case(recipe)
    accuracy = interchange.interchange_accuracy(recipe, case.model, 100)
    assert set(accuracy) == case.truth.nodes and min(accuracy.values()) > 0.9
    free = Recipe(recipe.program, strict=False)
    assert min(interchange.interchange_accuracy(free, interchange.load(free), 100).values()) < 0.6


def test_the_truth_about_parts_scores_one():
    case = interchange.case(Recipe("count", seed=2))
    graph = EdgeGraph.of(case.model)
    sizes = torch.zeros(graph.valid.shape)
    for writer, reader in case.moving:  # by another input than the program's
        part = reader.split(".")[0]
        sizes[graph.edge(writer, reader if part == reader else f"{part}.q")] = 1.0
    assert set(scoreboard.score(case, EdgeScores(graph, sizes)).values()) == {1.0}
    largest, true = scoreboard.edge_items(case, sizes)
    inside = case.truth.nodes | {"embed"}
    pairs = {(w, r.split(".")[0]) for w, r in case.moving}
    assert int(true.sum()) == len(pairs) == int(largest.sum())
    parts = [*graph.writers[1:], "logits"]
    first = {
        reader.split(".")[0]: n for reader, n in zip(graph.readers, graph.n_before, strict=True)
    }
    asked = sum(
        (writer, part) in pairs or not (writer in inside and part in {*inside, "logits"})
        for part in parts for writer in graph.writers[: first[part]]
    )  # fmt: skip
    assert len(true) == asked


def test_unknown_and_altered_models_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="count_small_99; there are: .*count_large_0"):
        interchange.load(Recipe("count", seed=99))
    (tmp_path / "known_circuits").mkdir()
    name = f"{Recipe('count', seed=2).name}.safetensors"
    (tmp_path / "known_circuits" / name).write_bytes(b"other")
    (tmp_path / "known_circuits" / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    monkeypatch.setattr(interchange, "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match="git checkout"):
        interchange.load(Recipe("count", seed=2))
