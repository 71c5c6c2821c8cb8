"""SAEs carried to SAELens and back: what one writes, the other opens and computes the same with.

tests/data/saelens was written by real SAELens (saelens_side.py tells how), so its files are read
here always; SAELens reads ours where its environment is there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_helpers import sae as S

HERE = Path(__file__).parent
WRITTEN = sorted((HERE / "data" / "saelens").iterdir())
LIMIT = 1e-5
TRANSCODERS = [folder for folder in WRITTEN if folder.name.endswith("transcoder")]
KINDS = {"batchtopk": "jumprelu", "jumprelu": "jumprelu", "transcoder": "relu"}
KINDS |= {"skip_transcoder": "relu"}
KINDS |= {f"jumprelu_{name}": "jumprelu" for name in ("transcoder", "skip_transcoder")}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gap(sae: S.Sae, io: dict[str, torch.Tensor], length: torch.Tensor | float = 1.0) -> float:
    """The largest difference of features and reconstruction from those in a file.

    `length` is that of the file's decoder rows, where its features are not in the stream's unit.
    """
    x = io["x"].flatten(1)
    features = sae.encode(x) - io["features"] * length
    out = sae(x) - io["reconstruction"].flatten(1)
    return float(torch.cat([features, out], dim=1).abs().max())


def row_length(folder: Path) -> torch.Tensor:
    """Of the decoder in a file; 1 where its features are rescaled by it already."""
    rescaled = json.loads((folder / "cfg.json").read_text()).get("rescale_acts_by_decoder_norm")
    length = load_file(folder / "sae_weights.safetensors")["W_dec"].norm(dim=-1)
    return torch.ones_like(length) if rescaled else length


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_what_saelens_wrote_opens_here(folder: Path) -> None:
    sae, io = S.load(folder), load_file(folder / "io.safetensors")
    assert sae.kind == KINDS.get(folder.name, folder.name.partition("_")[0].replace(
        "standard", "relu"))  # fmt: skip
    is_transcoder = folder in TRANSCODERS
    assert sae.family == ("transcoder" if is_transcoder else "SAE")
    hook = "ln2.hook_normalized" if is_transcoder else "hook_resid_post"
    assert sae.hook == f"blocks.1.{hook}"
    assert sae.target == "blocks.1.hook_mlp_out" * is_transcoder
    assert gap(sae, io, row_length(folder)) <= LIMIT
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(sae.d_sae))
    assert 0.02 < (io["features"] > 0).float().mean() < 0.8


@pytest.mark.parametrize(
    ("name", "setting", "wrong"),
    [
        ("standard", "apply_b_dec_to_input", False),
        ("standard_uncentred", "apply_b_dec_to_input", True),
        ("standard_layer_norm", "normalize_activations", "none"),
        ("topk", "k", 4),
    ],
)
def test_each_setting_counts(tmp_path: Path, name: str, setting: str, wrong: object) -> None:
    """Read with one setting wrong, the same weights give something else."""
    folder = shutil.copytree(HERE / "data" / "saelens" / name, tmp_path / name)
    config = json.loads((folder / "cfg.json").read_text())
    assert config[setting] != wrong
    (folder / "cfg.json").write_text(json.dumps(config | {setting: wrong}))
    found = gap(S.load(folder), load_file(folder / "io.safetensors"), row_length(folder))
    assert found > 100 * LIMIT


@pytest.mark.parametrize("folder", TRANSCODERS, ids=lambda folder: folder.name)
def test_a_transcoder_of_saelenss_comes_back_the_same_from_ours(
    folder: Path, tmp_path: Path
) -> None:
    """Read here, written here, read again: what SAELens made of the inputs still comes out."""
    sae, io = S.load(folder), load_file(folder / "io.safetensors")
    again = S.load(S.save(sae, tmp_path / folder.name))
    assert (again.kind, again.hook, again.target) == (sae.kind, sae.hook, sae.target)
    assert gap(again, io, row_length(folder)) <= LIMIT
    assert (sae.W_skip is not None) == ("skip" in folder.name)
    if sae.W_skip is not None:
        turned = replace(sae, W_skip=torch.zeros_like(sae.W_skip))
        assert gap(turned, io, row_length(folder)) > 100 * LIMIT
    told = json.loads((folder / "cfg.json").read_text())
    del told["metadata"]["hook_name_out"]
    there = shutil.copytree(folder, tmp_path / "told_less")
    (there / "cfg.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="does not say where it writes"):
        S.load(there)


def changed(tmp_path: Path, name: str, **settings: object) -> Path:
    """A file of SAELens's with other settings."""
    folder = shutil.copytree(HERE / "data" / "saelens" / name, tmp_path / name)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | settings))
    return folder


def test_rows_that_differ_are_refused_where_the_choice_would_change(tmp_path: Path) -> None:
    folder = changed(tmp_path, "topk_unfolded", rescale_acts_by_decoder_norm=False)
    with pytest.raises(ValueError, match="before their decoder rows"):
        S.load(folder)


@pytest.mark.parametrize("key", ["activation_fn_str", "activation_fn"])
def test_topk_by_its_older_names(tmp_path: Path, key: str) -> None:
    folder = changed(tmp_path, "topk", architecture="standard", k=None,
                     **{key: "topk", "activation_fn_kwargs": {"k": 3}})  # fmt: skip
    sae = S.load(folder)
    assert (sae.kind, sae.k) == ("topk", 3)
    assert (sae.encode(random(50, sae.d_in)) > 0).sum(-1).max() == 3


@pytest.mark.parametrize("function", ["tanh-relu", "gelu", "topk_softmax"])
def test_a_function_that_is_not_known_is_refused(tmp_path: Path, function: str) -> None:
    folder = changed(tmp_path, "standard", activation_fn=function)
    with pytest.raises(ValueError, match=f"{function}.*readable is relu"):
        S.load(folder)


@pytest.mark.parametrize("name", ["relu", "jumprelu", "topk"])
def test_activations_are_in_the_unit_of_the_stream(tmp_path: Path, name: str) -> None:
    """However the file shares the scale between encoder and decoder."""
    folder = S.save(ours()[name], tmp_path / name)
    want, path = S.load(folder), folder / "sae_weights.safetensors"
    tensors = load_file(path)
    by = torch.linspace(0.2, 5, 20) if name != "topk" else torch.full((20,), 5.0)
    for key in {"W_enc", "b_enc", "threshold"} & set(tensors):
        tensors[key] = tensors[key] / by
    save_file(tensors | {"W_dec": tensors["W_dec"] * by[:, None]}, path)
    got, x = S.load(folder), random(40, 6, seed=4)
    torch.testing.assert_close(got.encode(x), want.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got(x), want(x), atol=1e-5, rtol=1e-5)
    assert 0.02 < (want.encode(x) > 0).float().mean() < 0.8


def ours() -> dict[str, S.Sae]:
    """One of each kind that SAELens has too, an attention head's, and transcoders."""
    W_dec = torch.nn.functional.normalize(random(20, 6))
    relu = S.Sae(
        "relu", W_dec.T.contiguous(), 0.1 * random(20, seed=1), W_dec, random(6, seed=2),
        hook="blocks.1.hook_resid_post", model_id="pocket", notes={"measured": {"l0": 3.5}},
    )  # fmt: skip
    transcoder = replace(
        relu, W_dec=torch.nn.functional.normalize(random(20, 5, seed=5)), b_dec=random(5, seed=6),
        hook="blocks.1.mlp.hook_in", target="blocks.1.hook_mlp_out", subtract_b_dec=False,
    )  # fmt: skip
    return {
        "relu": relu,
        "uncentred": replace(relu, subtract_b_dec=False),
        "layer_norm": replace(relu, normalize="layer_norm"),
        "topk": replace(relu, kind="topk", k=3),
        "jumprelu": replace(relu, kind="jumprelu", threshold=random(20, seed=3).abs()),
        "heads": replace(relu, hook="blocks.1.attn.hook_z"),
        "transcoder": transcoder,
        "skip": replace(transcoder, W_skip=random(6, 5, seed=7)),
        "jumprelu_transcoder": replace(
            transcoder, kind="jumprelu", threshold=random(20, seed=3).abs()
        ),
        "jumprelu_skip": replace(
            transcoder, kind="jumprelu", threshold=random(20, seed=3).abs(),
            W_skip=random(6, 5, seed=7),
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def python() -> Path:
    """SAELens's interpreter; skips where there is none, with the remedy."""
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    try:
        from peers import PeerError, python_of

        return python_of("sae-lens")
    except PeerError as err:
        pytest.skip(str(err))
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def carried(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ours and the committed ones, each with what SAELens computes with it."""
    top = tmp_path_factory.mktemp("ours")
    folders = {name: S.save(sae, top / name) for name, sae in ours().items()}
    for folder in files("mi_data.sae").iterdir():
        if (Path(str(folder)) / "cfg.json").is_file():
            folders[folder.name] = shutil.copytree(str(folder), top / folder.name)
    for folder in folders.values():
        sae = S.load(folder)
        x = 2 * random(40, sae.d_in, seed=4) + (0 if sae.target else sae.b_dec)
        x = x.unflatten(1, (2, -1)) if sae.hook.endswith("hook_z") else x
        save_file({"x": x}, folder / "io.safetensors")
    script = [str(python), str(HERE / "saelens_side.py"), "read"]
    done = subprocess.run([*script, *map(str, folders.values())], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("name", ours())
def test_what_is_written_here_opens_in_saelens(carried: dict[str, Path], name: str) -> None:
    theirs = load_file(carried[name] / "theirs.safetensors")
    assert gap(ours()[name], theirs) <= LIMIT
    assert 0.02 < (theirs["features"] > 0).float().mean() < 0.8


@pytest.mark.slow
def test_the_committed_saes_open_in_saelens(carried: dict[str, Path]) -> None:
    committed = sorted(set(carried) - set(ours()))
    assert len(committed) >= 10
    for name in committed:
        theirs = load_file(carried[name] / "theirs.safetensors")
        assert gap(S.load(carried[name]), theirs) <= LIMIT, name
        assert theirs["features"].any(), name
