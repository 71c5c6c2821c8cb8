"""The loader: frozen numerics, names decided by weights, refusals, and no network."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from checkpoints import save_tiny
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mi_helpers import checksums, models, prompts
from mi_helpers.models import files, folders, hub, loading, start_token

HOOKS = """hook_resid_pre hook_resid_mid hook_resid_post hook_attn_out hook_mlp_out attn.hook_q
attn.hook_k attn.hook_v attn.hook_z attn.hook_pattern attn.hook_attn_scores mlp.hook_pre
mlp.hook_post ln1.hook_scale ln2.hook_scale"""


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test begins without MI_MODEL, MI_GPT2_DIR and with an empty cache."""
    for name in ("MI_MODEL", "MI_GPT2_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MI_CACHE_DIR", str(tmp_path / "no-conversion"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty-cache"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was touched: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _check_numerics(bridge, folder: Path, tolerance: float = 1e-4) -> None:
    """Against `transformers` on the same files, without folding or centring."""
    raw = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    special = set(bridge.tokenizer.all_special_ids)
    words = [i for i in range(0, len(bridge.tokenizer), 7) if i not in special][:60]
    tokens = torch.tensor([[bridge.tokenizer.bos_token_id, *words[:30]], words[-31:]])
    with torch.no_grad():
        expected, got = raw.eval()(tokens).logits, bridge(tokens)
    difference = got - expected
    assert (difference - difference.mean(-1, keepdim=True)).abs().max() < tolerance
    assert (got.log_softmax(-1) - expected.log_softmax(-1)).abs().max() < tolerance
    assert got.mean(-1).abs().max() < tolerance  # the unembedding is centred
    # The processing did something: each property fails on the weights as they are in the file.
    assert bridge.W_E.mean(-1).abs().max() < 1e-5 < raw.transformer.wte.weight.mean(-1).abs().max()
    assert bridge.W_out.mean(-1).abs().max() < 1e-5
    assert bridge.W_O.mean(-1).abs().max() < 1e-5
    assert bridge.b_V.abs().max() == 0
    for norm in (bridge.blocks[0].ln1, bridge.blocks[0].ln2, bridge.ln_final):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))


def test_tiny_model_equals_transformers_up_to_a_constant(tiny_model, tiny_folder) -> None:
    raw = load_file(tiny_folder / "model.safetensors")
    assert raw["transformer.h.0.attn.c_attn.bias"].abs().max() > 0.1  # there is a b_V to fold
    assert (raw["transformer.ln_f.weight"] - 1).abs().max() > 0.1  # and a gain
    _check_numerics(tiny_model, tiny_folder)


def test_pocket_equals_transformers_up_to_a_constant(pocket) -> None:
    assert models.model_id(pocket) == "pocket"
    _check_numerics(pocket, models.model_source(pocket).directory)


@pytest.mark.slow
def test_gpt2_shaped_model_loads_from_an_ordinary_cache(gpt2_shaped) -> None:
    source = models.model_source(gpt2_shaped)
    assert source.n_params == 124_439_808
    assert source.directory.name == hub.GPT2_REVISION
    assert models.model_id(gpt2_shaped) == "gpt2 (other weights)"
    ids = gpt2_shaped.to_tokens("When Mary and John went to the store, John gave a drink to")
    assert ids[0, :5].tolist() == [50256, 2215, 5335, 290, 1757]
    _check_numerics(gpt2_shaped, source.directory)


def test_gpt2_small_itself_if_it_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    try:
        model = models.load_model("gpt2")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if models.model_id(model) != "gpt2":
        pytest.skip("the cached weights are not the published ones")
    tokens = model.to_tokens("When John and Mary went to the shops, John gave the bag to")
    top = model(tokens)[0, -1].softmax(-1).max()
    assert top.item() == pytest.approx(0.6993, abs=2e-3)  # reference pred.shops


def test_what_a_loaded_model_is(tiny_model) -> None:
    assert not tiny_model.training
    assert not any(p.requires_grad for p in tiny_model.parameters())
    assert tiny_model(torch.tensor([[0, 1]])).requires_grad is False
    assert tiny_model.cfg.model_name == models.model_id(tiny_model) == "tiny"
    _, cache = tiny_model.run_with_cache(torch.tensor([[0, 1, 2]]))
    for layer in range(2):
        for hook in HOOKS.split():
            assert f"blocks.{layer}.{hook}" in cache
    assert {"hook_embed", "hook_pos_embed", "ln_final.hook_scale"} <= set(cache)
    assert cache["blocks.1.attn.hook_z"].shape == (1, 3, 4, 8)


def test_one_banner_line_says_what_was_loaded(tiny_folder, capfd, monkeypatch) -> None:
    state = torch.random.get_rng_state()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    models.load_model(str(tiny_folder), device="cpu")
    assert torch.equal(state, torch.random.get_rng_state())
    captured = capfd.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.err == ""
    n_params = sum(t.numel() for t in load_file(tiny_folder / "model.safetensors").values())
    assert (
        captured.out == f"tiny ({n_params:,} parameters) on cpu, one thread, from {tiny_folder}\n"
    )


# ------------------------------------------------------------------------------- the control


def test_untrained_is_the_same_architecture_with_other_weights(tiny_model) -> None:
    state = torch.random.get_rng_state()
    control = models.untrained(tiny_model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert models.model_id(control) == "untrained tiny"
    assert control.tokenizer.get_vocab() == tiny_model.tokenizer.get_vocab()
    assert control.W_Q.shape == tiny_model.W_Q.shape
    assert not torch.allclose(control.W_Q, tiny_model.W_Q)
    assert torch.equal(models.untrained(tiny_model, 0).W_Q, control.W_Q)
    assert not torch.allclose(models.untrained(tiny_model, 1).W_Q, control.W_Q)
    tokens = torch.tensor([[0, 5, 9]])
    assert control(tokens).mean(-1).abs().max() < 1e-5
    assert not any(p.requires_grad for p in control.parameters())


def test_a_model_from_elsewhere_has_no_source(tiny_folder) -> None:
    bridge = loading.TransformerBridge.boot_transformers(str(tiny_folder))
    with pytest.raises(ValueError, match="load it with mi.load_model"):
        models.model_id(bridge)


# ---------------------------------------------------------------------- which weights are which


def _gpt2_like(shift: float) -> SimpleNamespace:
    """Something with the published corners in its embedding, one number moved by `shift`."""
    embedding = torch.zeros(50257, 768)
    embedding[[0, 1, -1], :3] = torch.tensor(loading.GPT2_CORNERS)
    embedding[0, 0] += shift
    return SimpleNamespace(state_dict=lambda: {"transformer.wte.weight": embedding})


def test_gpt2_is_known_by_its_published_embedding() -> None:
    assert loading._is_gpt2(_gpt2_like(0.0))
    assert not loading._is_gpt2(_gpt2_like(1e-5))


def _fake_pocket(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model where the package looks for pocket, with its checksums."""
    folder = save_tiny(root / "pocket" / "model", seed=5)
    sums = [f"{checksums.sha256(p)}  {p.name}\n" for p in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(sums))
    monkeypatch.setattr(folders.resources, "files", lambda package: root)
    return folder


def test_pocket_is_known_by_its_checksum_wherever_it_lies(tmp_path, monkeypatch, capsys) -> None:
    folder = _fake_pocket(tmp_path / "data", monkeypatch)
    assert models.model_id(models.load_model("pocket")) == "pocket"
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert models.model_id(models.load_model(str(copy))) == "pocket"
    weights = load_file(copy / "model.safetensors")
    weights["transformer.wpe.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert models.model_id(models.load_model(str(copy))) == "copy"


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "tokenizer"])
def test_a_damaged_pocket_is_refused(tmp_path, monkeypatch, damage: str) -> None:
    folder = _fake_pocket(tmp_path, monkeypatch)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    if damage == "truncated":
        weights.write_bytes(data[:-100])
    elif damage == "altered":
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "missing":
        weights.unlink()
    else:
        (folder / "tokenizer.json").write_text("{}")
    name = "tokenizer.json" if damage == "tokenizer" else "model.safetensors"
    with pytest.raises(ValueError, match=f"{name} is not the published file.*git checkout"):
        models.load_model("pocket")


def _fake_sibling(pocket: Path) -> Path:
    """A tiny model where the package looks for pocket of seed 1, which has pocket's tokenizer."""
    folder = save_tiny(pocket.parent / "seeds" / "1", seed=6)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    names = [*sorted(p.name for p in folder.iterdir()), "../../model/tokenizer.json"]
    sums = [f"{checksums.sha256(folder / name)}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


def test_pockets_of_other_seeds_share_a_tokenizer(tmp_path, monkeypatch, capsys) -> None:
    pocket = _fake_pocket(tmp_path, monkeypatch)
    folder = _fake_sibling(pocket)
    sibling = models.load_model("pocket-seed-1")
    assert (
        models.model_id(sibling)
        == "pocket-seed-1"
        == models.model_id(models.load_model(str(folder)))
    )
    assert "data/pocket/seeds/1" in capsys.readouterr().out
    text = "Mary and John"
    one = models.load_model("pocket")
    assert torch.equal(sibling.to_tokens(text), one.to_tokens(text))
    assert not torch.equal(sibling.W_E, one.W_E)
    control = models.untrained(sibling)
    assert models.model_id(control) == "untrained pocket-seed-1"
    pockets = models.load_pockets(sibling)
    assert list(pockets) == ["pocket", "pocket-seed-1"] and pockets["pocket-seed-1"] is sibling
    assert models.load_pocket(one) is one
    assert models.model_id(models.load_pocket(sibling)) == "pocket"


@pytest.mark.parametrize("damaged", ["model.safetensors", "../../model/tokenizer.json"])
def test_a_damaged_pocket_of_another_seed_is_refused(tmp_path, monkeypatch, damaged) -> None:
    folder = _fake_sibling(_fake_pocket(tmp_path, monkeypatch))
    (folder / damaged).write_bytes(b"{}")
    with pytest.raises(ValueError, match="not the published file.*git checkout"):
        models.load_model("pocket-seed-1")


def test_a_pocket_of_a_seed_that_is_not_there_is_no_model(tmp_path, monkeypatch) -> None:
    _fake_pocket(tmp_path, monkeypatch)
    with pytest.raises(FileNotFoundError, match="no embedded model 'pocket-seed-2'"):
        folders.pocket_folder("pocket-seed-2")


def test_pocket_without_checksums_is_refused(tmp_path, monkeypatch) -> None:
    (_fake_pocket(tmp_path, monkeypatch) / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="SHA256SUMS is missing"):
        models.load_model("pocket")


def test_the_committed_pocket_matches_its_checksums(pocket) -> None:
    folder = models.model_source(pocket).directory
    sums = checksums.read(folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(sums)
    assert sum((folder / name).stat().st_size for name in sums) < 24e6


# --------------------------------------------------------------------------------- bad folders


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused_by_name(tiny_folder, tmp_path, missing: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "incomplete")
    (folder / missing).unlink()
    wanted = "safetensors" if missing == "model.safetensors" else missing
    with pytest.raises(FileNotFoundError, match=f"not a model folder.*missing: .*{wanted}"):
        models.load_model(str(folder))


def test_pickled_weights_are_never_loaded(tiny_folder, tmp_path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="pickled weights are never loaded"):
        models.load_model(str(folder))


def test_code_in_a_model_folder_is_not_run(tiny_folder, tmp_path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "coded")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(ValueError):
        models.load_model(str(folder))


def test_truncated_weights_are_refused(tiny_folder, tmp_path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "truncated")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated or altered.*fetch them again"):
        models.load_model(str(folder))


# --------------------------------------------------------- weights that are not what is described


def _changed(tiny_folder: Path, folder: Path, change) -> Path:
    """A copy of the tiny model whose weights and configuration `change` may alter."""
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    change(weights, config)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _lacks_a_layer(weights, config) -> None:
    for name in [name for name in weights if "h.1." in name]:
        del weights[name]


def _lacks_a_norm(weights, config) -> None:
    del weights["transformer.ln_f.weight"]


def _has_a_layer_too_many(weights, config) -> None:
    config["n_layer"] = 1


def _is_wider(weights, config) -> None:
    config["n_inner"] = 64


def _is_called_another_architecture(weights, config) -> None:
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    config |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "change, words",
    [
        (_lacks_a_layer, "they lack transformer.h.1.*12 in all"),
        (_lacks_a_norm, "they lack transformer.ln_f.weight"),
        (_has_a_layer_too_many, "they have besides transformer.h.1"),
        (_is_wider, "they have in another shape transformer.h.0.mlp"),
        (_is_called_another_architecture, "not those of the LlamaForCausalLM.*they lack"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_not_drawn_at_random(
    tiny_folder, tmp_path, change, words: str
) -> None:
    folder = _changed(tiny_folder, tmp_path / "changed", change)
    with pytest.raises(ValueError, match=words):
        models.load_model(str(folder), device="cpu")


def test_training_mode_changes_nothing_and_half_precision_is_refused(tiny_folder) -> None:
    """The tiny model's configuration asks for dropout of a tenth."""
    assert json.loads((tiny_folder / "config.json").read_text())["resid_pdrop"] == 0.1
    tokens = torch.tensor([[0, 5, 6, 7]])
    loaded = models.load_model(str(tiny_folder), device="cpu")
    for model in (loaded, models.untrained(loaded)):
        expected = model(tokens)
        model.train()
        assert torch.equal(model(tokens), expected)
    model.to(torch.bfloat16)
    for run in (model, model.run_with_cache):
        with pytest.raises(ValueError, match="moved to torch.bfloat16.*Load it again"):
            run(tokens)


# ------------------------------------------------------------------------------ the start token


@pytest.mark.parametrize("kind", ["GPTNeoX", "Qwen2", "Llama"])
def test_texts_begin_alike_everywhere(tmp_path, kind: str) -> None:
    """Some architectures put no BOS in front by themselves, and some tokenizers have none."""
    folder = save_tiny(tmp_path / kind)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64, "max_position_embeddings": 64, "vocab_size": 451}
    shape |= {"num_key_value_heads": 2} if kind != "GPTNeoX" else {}
    config = getattr(transformers, f"{kind}Config")(**shape)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    if kind == "Qwen2":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        del settings["bos_token"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = models.load_model(str(folder), device="cpu")
    text, other = "John gave a bag to", "Mary gave a bag to"
    pairs = prompts.from_texts(model, [text], [other], [" Mary"], [" John"])
    assert torch.equal(pairs.clean_tokens, model.to_tokens(text))
    tokens = model.to_tokens(text)[0].tolist()
    assert model.tokenizer.decode(tokens[0]) == "<|endoftext|>"
    assert tokens[1:] == model.to_tokens(text, prepend_bos=False)[0].tolist()
    assert prompts.repeated_tokens(model, 1, 3)[0, 0].item() == tokens[0]


@pytest.mark.parametrize(
    "bos, eos, separator, expected",
    [
        ("<s>", "</s>", True, "<s>"),
        ("<|im_start|>", "<|im_end|>", True, "<|endoftext|>"),
        ("<|im_start|>", "<|im_end|>", False, "<|im_start|>"),
        (None, "<|im_end|>", True, "<|endoftext|>"),
        (None, "</s>", False, "</s>"),
        (None, None, False, None),
    ],
)
def test_the_start_token_is_what_separates_documents(bos, eos, separator, expected) -> None:
    vocabulary = {"a": 0} | ({"<|endoftext|>": 1} if separator else {})
    tokenizer = SimpleNamespace(bos_token=bos, eos_token=eos, get_vocab=lambda: vocabulary)
    assert start_token.start_token(tokenizer) == expected


def test_unknown_names_and_devices(tiny_folder) -> None:
    with pytest.raises(FileNotFoundError, match="no folder './nowhere'"):
        models.load_model("./nowhere")
    with pytest.raises(ValueError, match="'a/b/c' is neither a folder here .* nor a possible"):
        models.load_model("a/b/c")
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device '{device}' is not here; there is: cpu"):
            models.load_model(str(tiny_folder), device=device)


# ------------------------------------------------------------------- which model, and the network


def test_without_a_name_mi_model_decides(tiny_folder, monkeypatch) -> None:
    monkeypatch.setenv("MI_MODEL", str(tiny_folder))
    assert models.model_id(models.load_model()) == "tiny"


@pytest.mark.parametrize("around", ["nothing", "a cached GPT-2", "MI_GPT2_DIR"])
def test_without_a_name_it_is_pocket_whatever_is_around(
    tiny_folder, tmp_path, monkeypatch, capsys, no_network, around: str
) -> None:
    if around == "a cached GPT-2":
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        _fill_cache(tmp_path, tiny_folder, hub.GPT2_REPO, hub.GPT2_REVISION)
    elif around == "MI_GPT2_DIR":
        monkeypatch.setenv("MI_GPT2_DIR", str(tiny_folder))
    _fake_pocket(tmp_path / "data", monkeypatch)
    assert models.model_id(models.load_model()) == "pocket"
    banner = capsys.readouterr().out
    assert banner.startswith("pocket (") and banner.count("\n") == 1
    assert "MI_MODEL chooses another: smollm2, gpt2" in banner


def test_on_colab_it_is_gpt2_unless_another_is_asked_for(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    name, note = files.default_name()
    assert name == "gpt2" and "%env MI_MODEL=pocket" in note


def test_a_relative_folder_that_is_not_here_names_the_working_directory(
    tiny_folder, tmp_path, monkeypatch
) -> None:
    """A notebook runs in its own folder, not where MI_MODEL was set."""
    monkeypatch.chdir(tmp_path)
    here = re.escape(str(tmp_path))  # of Windows, full of backslashes
    monkeypatch.setenv("MI_MODEL", "./tiny")
    with pytest.raises(FileNotFoundError, match=f"'./tiny'.*{here}.*full path"):
        models.load_model()
    monkeypatch.setenv("MI_MODEL", "models/tiny")
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    with pytest.raises(FileNotFoundError, match=f"'models/tiny' is no folder in {here}"):
        models.load_model()


def test_a_relative_folder_outlives_a_change_of_directory(
    tiny_folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    model = models.load_model("./tiny", device="cpu")
    monkeypatch.chdir(tmp_path)
    assert models.model_source(model).directory == tiny_folder.resolve()
    assert models.untrained(model)(torch.tensor([[0, 1]])).isfinite().all()


def _fill_cache(cache: Path, tiny_folder: Path, repo: str, revision: str) -> None:
    snapshot = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
    shutil.copytree(tiny_folder, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(revision)


@pytest.mark.parametrize("offline", [True, False])
def test_a_cached_model_never_asks_the_network(
    tiny_folder, tmp_path, monkeypatch, no_network, offline: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", str(int(offline)))
    _fill_cache(tmp_path, tiny_folder, hub.GPT2_REPO, hub.GPT2_REVISION)
    _fill_cache(tmp_path, tiny_folder, "someone/small", "abc")
    assert models.model_id(models.load_model("gpt2")) == "gpt2 (other weights)"
    assert models.model_source(models.load_model("gpt2")).name == "gpt2"
    assert models.model_id(models.load_model("someone/small")) == "someone/small"


def test_gpt2_is_found_in_a_cache_under_its_former_name(
    tiny_folder, tmp_path, monkeypatch, no_network
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    _fill_cache(tmp_path, tiny_folder, "gpt2", hub.GPT2_REVISION)
    assert models.model_source(models.load_model("gpt2")).directory.is_relative_to(tmp_path)
    assert hub.cached_snapshot("gpt2", "another-revision") is None


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors", "shard"])
def test_half_a_snapshot_in_the_cache_is_none(tiny_folder, tmp_path, monkeypatch, missing) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    _fill_cache(tmp_path, tiny_folder, "someone/half", "abc")
    folder = hub.cached_snapshot("someone/half", None)
    assert folder is not None
    if missing == "shard":
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (folder / missing).unlink()
    assert hub.cached_snapshot("someone/half", None) is None


def test_gpt2_may_lie_in_a_folder_of_its_own(tiny_folder, monkeypatch, no_network) -> None:
    monkeypatch.setenv("MI_GPT2_DIR", str(tiny_folder))
    source = models.model_source(models.load_model("gpt2"))
    assert (source.name, source.where) == ("gpt2", f"MI_GPT2_DIR={tiny_folder}")
    monkeypatch.setenv("MI_GPT2_DIR", "/nowhere")
    with pytest.raises(FileNotFoundError, match="/nowhere is not a model folder"):
        models.load_model("gpt2")


def test_an_uncached_model_offline_fails_at_once_with_the_remedy(no_network) -> None:
    start = time.monotonic()
    for name in ("gpt2", "someone/something"):
        with pytest.raises(FileNotFoundError, match="not in the Hugging Face cache.*MI_GPT2_DIR"):
            models.load_model(name)
    assert time.monotonic() - start < 4 * hub.PROBE_SECONDS


def test_a_hub_that_never_answers_is_given_up(monkeypatch) -> None:
    """Neither a name that does not resolve nor a server that is silent can hold the loader."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(FileNotFoundError, match="does not answer"):
            models.load_model("gpt2")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(60))
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    start = time.monotonic()
    assert not hub.hub_answers()
    assert time.monotonic() - start < 20


def _serve(monkeypatch, answer, stalls: str = " ") -> list[str]:
    """A hub on this machine: `answer(path)` is what it says; a path with `stalls` hangs."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(self.path)
            if stalls in self.path:
                time.sleep(60)
            body = answer(self.path)
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"ENDPOINT": endpoint, "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(constants, name, value)
    api = hub.HfApi(endpoint=endpoint)
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    return asked


def test_a_web_page_is_no_answer(monkeypatch) -> None:
    """A hotel's login page comes with status 200, whatever was asked for."""
    _serve(monkeypatch, lambda path: b"<html>Log in to the network</html>")
    assert not hub.hub_answers()
    with pytest.raises(FileNotFoundError, match="does not answer"):
        models.load_model("someone/small")
    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    with pytest.raises(FileNotFoundError, match="could not be downloaded: http.*lists no model"):
        models.load_model("someone/small")


def test_a_hub_that_falls_silent_is_given_up(monkeypatch) -> None:
    asked = _serve(monkeypatch, lambda path: b"{}", stalls="/api/models/")
    assert hub.hub_answers()
    monkeypatch.setattr(hub, "LISTING_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="said nothing for 1 seconds|timed out"):
        models.load_model("someone/small")
    assert any("/api/models/someone/small" in path for path in asked)
    assert time.monotonic() - start < 20


def test_a_failed_download_is_told(monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise OSError("401 gated")

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(hub, "_first_answers", fail)
    with pytest.raises(FileNotFoundError, match="'someone/gated' could not be downloaded: 401"):
        models.load_model("someone/gated")


def test_a_download_asks_for_the_pinned_revision_and_no_pickles_and_says_its_size(
    tiny_folder, monkeypatch, capsys
) -> None:
    asked = {}

    def download(repo, *, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tiny_folder)

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(hub, "snapshot_download", download)
    sizes = {"model.safetensors": 548_000_000, "config.json": 1000, "pytorch_model.bin": 9**9}
    listed = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
    api = SimpleNamespace(model_info=lambda *a, **k: SimpleNamespace(siblings=listed))
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setattr(hub, "hf_hub_download", lambda *a, **k: capsys.readouterr())
    models.load_model("gpt2")
    assert capsys.readouterr().out.startswith("Downloading openai-community/gpt2: 548 MB")
    assert (asked["repo"], asked["revision"]) == (
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    )
    assert not any(pattern.endswith((".bin", ".pt", "*", ".h5")) for pattern in asked["patterns"])
