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
KINDS = {"batchtopk": "jumprelu", "jumprelu": "jumprelu"}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gap(sae: S.Sae, io: dict[str, torch.Tensor]) -> float:
    """The largest difference of features and reconstruction from those in a file."""
    x = io["x"].flatten(1)
    features, out = sae.encode(x) - io["features"], sae(x) - io["reconstruction"].flatten(1)
    return float(torch.cat([features, out], dim=1).abs().max())


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_what_saelens_wrote_opens_here(folder: Path) -> None:
    sae, io = S.load(folder), load_file(folder / "io.safetensors")
    assert sae.kind == KINDS.get(folder.name, folder.name.partition("_")[0].replace(
        "standard", "relu"))  # fmt: skip
    assert sae.hook == "blocks.1.hook_resid_post"
    assert gap(sae, io) <= LIMIT
    assert 0.02 < (io["features"] > 0).float().mean() < 0.8


@pytest.mark.parametrize(
    ("name", "setting", "wrong"),
    [
        ("standard", "apply_b_dec_to_input", False),
        ("standard_uncentred", "apply_b_dec_to_input", True),
        ("standard_layer_norm", "normalize_activations", "none"),
        ("topk", "k", 4),
        ("topk_unfolded", "rescale_acts_by_decoder_norm", False),
    ],
)
def test_each_setting_counts(tmp_path: Path, name: str, setting: str, wrong: object) -> None:
    """Read with one setting wrong, the same weights give something else."""
    folder = shutil.copytree(HERE / "data" / "saelens" / name, tmp_path / name)
    config = json.loads((folder / "cfg.json").read_text())
    assert config[setting] != wrong
    (folder / "cfg.json").write_text(json.dumps(config | {setting: wrong}))
    assert gap(S.load(folder), load_file(folder / "io.safetensors")) > 100 * LIMIT


def ours() -> dict[str, S.Sae]:
    """One of each kind that we write, and an attention head's."""
    W_dec = torch.nn.functional.normalize(random(20, 6))
    relu = S.Sae(
        "relu", W_dec.T.contiguous(), 0.1 * random(20, seed=1), W_dec, random(6, seed=2),
        hook="blocks.1.hook_resid_post", model_id="pocket", notes={"measured": {"l0": 3.5}},
    )  # fmt: skip
    return {
        "relu": relu,
        "uncentred": replace(relu, subtract_b_dec=False),
        "layer_norm": replace(relu, normalize="layer_norm"),
        "topk": replace(relu, kind="topk", k=3),
        "jumprelu": replace(relu, kind="jumprelu", threshold=random(20, seed=3).abs()),
        "heads": replace(relu, hook="blocks.1.attn.hook_z"),
    }


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
        x = 2 * random(40, sae.d_in, seed=4) + sae.b_dec
        x = x.unflatten(1, (2, 3)) if sae.hook.endswith("hook_z") else x
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
