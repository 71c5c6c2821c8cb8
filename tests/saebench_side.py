"""What real SAEBench does in the tests, in the environment of the benchmarks.

    build/bench/sae-bench/bin/python tests/saebench_side.py FOLDER

Takes tensors from FOLDER/in.pt and writes what SAEBench's own functions make of them to out.pt. Its
data sets, models and prompts, which it fetches, are left out: they come before these functions. A
stand-in answers where one of them asks a model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.modules["torchvision"] = None  # type: ignore[assignment]  # made for another build of torch

import sae_bench.evals.ravel.mdbm as ravel  # noqa: E402
import sae_bench.evals.scr_and_tpp.main as tpp  # noqa: E402
import sae_bench.evals.sparse_probing.probe_training as probing  # noqa: E402
import sae_lens as lens  # noqa: E402
import torch  # noqa: E402
from sae_bench.evals.absorption.feature_absorption_calculator import (  # noqa: E402
    FeatureAbsorptionCalculator,
)
from torch import Tensor  # noqa: E402

BATCH = 4096


def sparse_probing(job: dict[str, Any]) -> dict[str, Any]:
    """Of one label: chosen units, accuracy as it is run, and of its probe on standardised units."""
    torch.manual_seed(0)
    _, accuracies = probing.train_probe_on_activations(
        job["train"], job["test"], select_top_k=job["k"]
    )
    parts = {name: torch.cat([job[name]["yes"], job[name]["no"]]) for name in ("train", "test")}
    labels = {n: (torch.arange(len(x)) < len(x) // 2).int() for n, x in parts.items()}
    mask = probing.get_top_k_mean_diff_mask(parts["train"], labels["train"], job["k"])
    few = {name: probing.apply_topk_mask_reduce_dim(x, mask) for name, x in parts.items()}
    mean, spread = few["train"].mean(0), few["train"].std(0)
    few = {name: (x - mean) / spread for name, x in few.items()}
    _, standardised = probing.train_sklearn_probe(
        few["train"], labels["train"], few["test"], labels["test"]
    )
    return {
        "accuracy": accuracies["yes"], "standardised": standardised,
        "units": (~mask).nonzero()[:, 0],
    }  # fmt: skip


def perturbation(sae: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Targeted probe perturbation with given probes, all of it as SAEBench runs it."""
    torch.manual_seed(job["seed"])
    train, test = ({c: x[:, None] for c, x in job[name].items()} for name in ("train", "test"))
    probes = {name: probing.Probe(sae.cfg.d_in, torch.float32) for name in job["probes"]}
    for name, (weights, bias) in job["probes"].items():
        probes[name].net.weight.data, probes[name].net.bias.data = weights[None], bias[None]
    names, n = list(train), job["n"]
    effects = tpp.get_all_node_effects_for_one_sae(sae, probes, names, False, train, BATCH)
    clean = tpp.get_probe_test_accuracy(probes, names, job["test"], BATCH, False)
    left = tpp.perform_feature_ablations(
        probes, sae, BATCH, test, effects, [n], names, BATCH, False
    )
    overall, _ = tpp.create_tpp_plotting_dict(left, clean)
    lost = [[clean[j] - left[i][n][j] for j in names] for i in names]
    return {"lost": torch.tensor(lost), "score": overall[f"tpp_threshold_{n}_total_metric"]}


def at_layer_0(sae: Any) -> Any:
    """A dictionary that says its layer where RAVEL looks for it."""
    cfg = SimpleNamespace(hook_layer=0, d_sae=sae.cfg.d_sae)
    return SimpleNamespace(cfg=cfg, encode=sae.encode, decode=sae.decode)


@torch.no_grad()
def exchange(sae: Any, job: dict[str, Any]) -> dict[str, Tensor]:
    """The base's vectors with the masked units of the source; with the error kept and without."""
    model, config = SimpleNamespace(device="cpu"), SimpleNamespace(llm_batch_size=BATCH)
    one, out = ravel.MDBM(model, None, config, at_layer_0(sae)), {}
    one.binary_mask.data = job["mask"].float() - 0.5
    where = torch.zeros(len(job["base"]), dtype=torch.long)
    for name, kept in (("kept", True), ("left out", False)):
        hook = one.create_intervention_hook(job["source"], where, add_error=kept)
        rows = job["base"][:, None].repeat(1, 2, 1)  # one position alone is not touched there
        out[name] = hook(None, None, (rows,))[0][:, 0]
    return out


class Facts(torch.nn.Module):
    """A model of one layer, of subjects that are vectors and questions about them.

    Rows are (question, subject). Of the logits of all values those of the attribute that is asked
    are what `readout` finds in the subject's vector, the others are -20.
    """

    device, dtype = "cpu", torch.float32

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        self.subjects, self.readout, self.of = job["subjects"], job["readout"], job["attribute_of"]
        self.config = SimpleNamespace(architectures=["GPTNeoXForCausalLM"])
        self.layer = torch.nn.Identity()
        self.gpt_neox = SimpleNamespace(layers=[self.layer])

    def forward(self, input_ids: Tensor, attention_mask: Any = None) -> Any:
        resid = self.subjects[input_ids[:, 1]][:, None].repeat(1, 2, 1)
        values = self.layer((resid,))[0][:, 0] @ self.readout
        logits = values.masked_fill(self.of != input_ids[:, :1], -20.0)
        return SimpleNamespace(logits=logits[:, None])


def learned_mask(sae: Any, job: dict[str, Any]) -> dict[str, Any]:
    """The mask that RAVEL learns by running the model, and its cause and isolation at the end."""
    model = Facts(job)
    base, source, own, wanted = job["base"], job["source"], job["own"], job["wanted"]
    where = torch.zeros(len(base), dtype=torch.long)
    batch = ({"input_ids": base}, {"input_ids": source}, where, where, own, wanted, None, None)
    config = SimpleNamespace(llm_batch_size=BATCH, num_epochs=job["steps"], learning_rate=0.1)
    words = SimpleNamespace(decode=str)
    with torch.enable_grad():  # which SAEBench's probes leave switched off
        trained = ravel.train_mdbm(model, words, config, at_layer_0(sae), [batch], [batch])
    with torch.no_grad():
        logits, _ = trained(*batch[:4])
    scores = ravel.get_cause_isolation_score_estimates(logits, wanted, own)
    return {"mask": trained.binary_mask.detach() > 0, "logits": logits, "scores": scores[:2]}


def absorbed(sae: Any, job: dict[str, Any]) -> Tensor:
    """Which of the given vectors are full absorption."""
    left = list(job["x"].split(10))
    hook = "blocks.0.hook_resid_post"
    model = SimpleNamespace(
        to_tokens=lambda text: [[0]],
        run_with_cache=lambda texts, names_filter: (
            None, {hook: left.pop(0)[:, None].expand(-1, 2, -1)}
        ),
    )  # fmt: skip
    words, examples = ["word"] * len(job["x"]), ["other", "third", "fourth"]
    calculator = FeatureAbsorptionCalculator(model, examples, max_icl_examples=1, topk_feats=1)
    found = calculator.calculate_absorption(
        sae, words, job["probe"], job["own"], 0, show_progress=False
    )
    return torch.tensor([one.is_full_absorption for one in found.word_results])


def main(folder: Path) -> None:
    """Read, judge, write."""
    jobs = torch.load(folder / "in.pt")
    saes = {name: lens.SAE.load_from_disk(folder / name) for name in ("pocket", "facts", "family")}
    torch.save(
        {
            "probing": {name: sparse_probing(job) for name, job in jobs["probing"].items()},
            "tpp": {name: perturbation(saes["pocket"], job) for name, job in jobs["tpp"].items()},
            "exchange": exchange(saes["pocket"], jobs["exchange"]),
            "mask": learned_mask(saes["facts"], jobs["mask"]),
            "absorbed": absorbed(saes["family"], jobs["absorbed"]),
        },
        folder / "out.pt",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
