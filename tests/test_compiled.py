"""Programs do what they say, and the compiled models do what the programs do."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from mi_helpers import patching
from mi_helpers.patching import OtherRun, Zero
from mi_helpers.toys import programs, scoreboard
from mi_helpers.toys.compiled import compiled
from mi_helpers.toys.rasp import Cut, Gather, Indices, Map, Mean, Program, Select, Tokens

SAID = {
    "reverse": {"c a b >": "b", "c a b > b": "a", "c a b > b a": "c", "a > ": "a", "c a": None},
    "count": {"a b a a b": "2", "b": "1", "a a a a a": "5"},
    "brackets": {"( ( ) )": "yes", "( )": "yes", "(": "no", ") (": "no", "( ) ) ( ( )": "no"},
    "induction": {"c a f b a": "f", "a a": "a", "a b": None},
    "silent pair": {"c a f b a": "f", "a b": None},
    "indirect object": {"Mary John John :": "Mary", "John Mary John :": "Mary"},
    "backup": {"Mary John John :": "Mary", "John Mary John :": "Mary"},
    "sort by frequency": {"b a b c >": "b", "b a b > b": "a", "a c c > c a": "b", "b a": None},
}


@pytest.fixture(scope="module")
def cases():
    return {name: programs.case(name) for name in programs.PROGRAMS}


@pytest.mark.parametrize("name", SAID)
def test_programs_say_what_one_expects(name):
    program = programs.PROGRAMS[name][0]
    for text, said in SAID[name].items():
        assert program.says(text.split())[-1] == said, text
    assert set(SAID) == set(programs.PROGRAMS)


def _texts_to_sort():
    return [text for length in range(1, 6) for text in product("abc", repeat=length)]


def _sorted(text):
    return sorted("abc", key=lambda letter: -text.count(letter))  # of equals "a" is before "b"


def test_sorting_by_frequency_is_what_python_sorts():
    program = programs.PROGRAMS["sort by frequency"][0]
    for text in _texts_to_sort():
        want = _sorted(text)[: 6 - len(text)]  # what fits in after ">"
        said = program.says([*text, ">", *want[:-1]])
        assert said == [*[None] * len(text), *want], text
    short = [[*text, ">", *_sorted(text)[:2]] for text in _texts_to_sort() if len(text) < 3]
    model, _ = compiled(program)  # the longer ones: below, for two seeds
    for length in (4, 5):
        some = [text for text in short if len(text) == length]
        assert some and programs.disagreements(model, program, some) == 0


def _every_text(name):
    if name == "brackets":
        return [list(one) for one in product("()", repeat=8)]
    if name == "count":
        return [list(one) for one in product("abc", repeat=5)]
    if name == "sort by frequency":
        return [[*text, ">", *_sorted(text)][:6] for text in _texts_to_sort() if len(text) >= 3]
    return [text for seed in range(3) for text in programs.texts(name, 1000, seed)]


@pytest.mark.parametrize("name", programs.PROGRAMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_says_what_its_program_says(name, seed):
    program = programs.PROGRAMS[name][0]
    model, _ = compiled(program, seed)
    assert programs.disagreements(model, program, _every_text(name)) == 0
    assert model.cfg.architecture == "GPT2LMHeadModel"


def test_disagreement_is_noticed(cases):
    tokens = Tokens("tokens", tuple("abcdefgh"))
    indices = Indices("indices", 7)
    back = Select(indices, indices, lambda here, there: there == here - 1)
    other = Program(tokens, indices, {Gather("echo", back, tokens): 1.0})
    texts = programs.texts("induction", 20)
    assert programs.disagreements(cases["induction"].model, other, texts) > 15
    untrained = programs.case("induction", trained=False)
    program = programs.PROGRAMS["induction"][0]
    assert programs.disagreements(untrained.model, program, texts) > 10


@pytest.mark.parametrize("sharp", [8.0, 32.0])
def test_heads_may_be_more_or_less_sure(sharp):
    program = programs.PROGRAMS["indirect object"][0]
    model, _ = compiled(program, sharp=sharp)
    assert programs.disagreements(model, program, programs.texts("indirect object", 200)) == 0


def test_layernorm_divides_by_one_number(cases):
    for case in cases.values():
        with torch.no_grad():
            cache = case.model.run_with_cache(case.pairs.clean_tokens)[1]
        scales = [cache[f"blocks.{i}.ln1.hook_scale"] for i in range(case.model.cfg.n_layers)]
        assert max(s.max() for s in scales) / min(s.min() for s in scales) < 1.001


def test_the_truth_of_induction_by_hand(cases):
    truth = cases["induction"].truth
    previous, following = truth.place["previous"], truth.place["following"]
    assert truth.place["tokens"] == truth.place["indices"] == "embed"
    assert truth.nodes == {previous, following}
    assert truth.edges == {
        ("embed", f"{previous}.v"),
        ("embed", f"{following}.q"),
        (previous, f"{following}.k"),
        ("embed", f"{following}.v"),
        (following, "logits"),
    }
    assert truth.steady == {("embed", f"{previous}.q"), ("embed", f"{previous}.k")}


def test_a_query_that_matches_whatever_it_is_tells_nothing(cases):
    end = cases["reverse"].truth.place["end"]
    assert ("embed", f"{end}.q") in cases["reverse"].truth.steady
    assert ("embed", f"{end}.k") in cases["reverse"].truth.edges


def test_nodes_of_the_program_and_no_others_matter(cases):
    for name in ("reverse", "count", "brackets", "induction", "indirect object"):
        case = cases[name]
        metric = scoreboard.metric_of(case)
        nodes = scoreboard.nodes_of(case)
        idle = sorted(set(nodes) - case.truth.nodes)
        sets = [idle, *([node] for node in sorted(case.truth.nodes))]
        swept = patching.ablate(case.model, case.pairs.clean_tokens, Zero(), metric, sets)
        lost = (-swept.effect() / swept.base.mean()).tolist()
        assert abs(lost[0]) < 0.05, name
        assert min(lost[1:]) > 0.1, name


def test_the_backup_stands_in(cases):
    case = cases["backup"]
    mover, backup = case.truth.place["mover"], case.truth.place["backup"]
    metric, sets = scoreboard.metric_of(case), [[mover], [backup], [mover, backup]]
    swept = patching.ablate(case.model, case.pairs.clean_tokens, Zero(), metric, sets)
    lost = (-swept.effect() / swept.base.mean()).tolist()
    assert abs(lost[0]) < 0.1 and abs(lost[1]) < 0.1 and lost[2] > 0.9


def test_the_silent_pair_is_silent(cases):
    case = cases["silent pair"]
    echo = case.truth.place["echo"]
    twins, metric = OtherRun(case.pairs.corrupt_tokens), scoreboard.metric_of(case)
    alone = patching.ablate(case.model, case.pairs.clean_tokens, twins, metric, [[echo]]).effect()
    edges = scoreboard.by_node(case, scoreboard.each_edge(case))
    assert abs(float(alone[0])) < 0.05 * edges[echo]


def test_moving_edges_are_those_that_twins_change(cases):
    for case in cases.values():
        assert case.moving <= case.truth.edges
    free = cases["reverse"]
    narrow = programs.case("reverse", alike=lambda a, b: a.index(">") == b.index(">"))
    end, partner = narrow.truth.place["end"], narrow.truth.place["partner"]
    assert (end, partner) in free.moving and (end, partner) not in narrow.moving


def test_twins_have_another_answer_and_draws_repeat(cases):
    for name, case in cases.items():
        program, pairs = programs.PROGRAMS[name][0], case.pairs
        for i in range(len(pairs)):
            assert program.says(pairs.clean[i].split())[-1] == pairs.answers[i].strip()
            assert program.says(pairs.corrupt[i].split())[-1] == pairs.wrong[i].strip()
    again = programs.case("count")
    assert again.pairs.clean == cases["count"].pairs.clean
    assert torch.equal(again.model.W_O, cases["count"].model.W_O)


def test_the_seed_draws_places_and_idle_weights():
    program = programs.PROGRAMS["induction"][0]
    places = {tuple(compiled(program, seed)[1].place.values()) for seed in range(4)}
    assert len(places) > 1


TOKENS, INDICES = Tokens("tokens", ("a", "b")), Indices("indices", 4)
ANY = Select(TOKENS, TOKENS, lambda *_: True)
SHARE = Mean("share", ANY, TOKENS, {"a": 1.0})


def _program(*output, tokens=TOKENS):
    return Program(tokens, INDICES, dict.fromkeys(output, 1.0))


def test_a_gather_of_several_values_is_refused():
    program = _program(Gather("both", ANY, TOKENS))
    assert program.says(["a", "a"]) == ["a", "a"]
    with pytest.raises(ValueError, match="'both' gathers .*'a', 'b'.* at position 1"):
        program.says(["a", "b"])


def test_wrong_programs_are_refused_by_name():
    same = Select(TOKENS, TOKENS, programs.same)
    with pytest.raises(ValueError, match=r"two variables are called \['x'\]"):
        _program(Gather("x", same, TOKENS), Gather("x", same, TOKENS))
    with pytest.raises(ValueError, match="'square' reads 'share', which is a number: Cut it"):
        _program(Map("square", (SHARE,), lambda share: share))
    with pytest.raises(ValueError, match="'share' is said, so its values must be tokens"):
        _program(SHARE)
    with pytest.raises(ValueError, match="'where' is said"):
        _program(Gather("where", same, INDICES))
    with pytest.raises(ValueError, match="'few' needs rising edges and one name more"):
        _program(Cut("few", SHARE, (0.5, 0.2), ("a", "b", "a"), 0.1))
    with pytest.raises(ValueError, match="'never' has no value for any input"):
        _program(Map("never", (TOKENS,), lambda token: None))
    with pytest.raises(ValueError, match="'more': a program has one Tokens"):
        more = Tokens("more", ("a",))
        _program(Map("copy", (more,), lambda token: token))


def test_bad_texts_are_refused():
    program = _program(Map("same", (TOKENS,), lambda token: token))
    with pytest.raises(ValueError, match=r"\['c'\] are not in the vocabulary"):
        program.says(["c"])
    with pytest.raises(ValueError, match="5 tokens; the program reads 1 to 4"):
        program.says(["a"] * 5)
    near = _program(Cut("near", SHARE, (0.5,), ("a", "b"), 0.1))
    with pytest.raises(ValueError, match="'near': 0.5 is nearer than 0.1"):
        near.says(["a"])
    with pytest.raises(KeyError, match="no program is called 'sort'; there are reverse"):
        programs.texts("sort", 1)


def test_too_many_heads_are_refused():
    heads = [Gather(f"head {i}", Select(TOKENS, TOKENS, programs.same), TOKENS) for i in range(3)]
    with pytest.raises(ValueError, match="no head is left for 'head 2': give n_heads=3"):
        compiled(_program(*heads), n_heads=2)
