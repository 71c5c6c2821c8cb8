"""One trainer of sparse autoencoders behind one interface; bench_sae.py runs one in each process.

    <an environment's python> benchmarks/sae_trainers.py ours|sae-lens|eai-sparsify

Reads jobs from standard input, one JSON object a line, and answers each with one. Only what every
environment has is imported at the top. All train with Adam, from scratch, on the CPU, in single
precision, with the same number of steps, batch, width, peak learning rate and dead-unit window;
what a library does beyond that (initial weights, schedule, clipping, bookkeeping) is its own.
SAELens's option `use_sparse_activations` is left off, as by default: on a CPU its backward pass
stops at an operation that sparse tensors lack.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

AUX, DEAD_STEPS, HOOK, BUFFER, ROWS_AT_ONCE = 1 / 32, 250, "blocks.3.hook_resid_post", 65_536, 32
POCKET = str(Path(__file__).resolve().parents[1] / "data" / "pocket" / "model")


class Training(NamedTuple):
    """What to time, what then takes activations to (reconstruction, code), and tokens seen."""

    fit: Callable[[], Any]
    use: Callable[[Tensor], tuple[Tensor, Tensor]]
    tokens: int


def order(count: int, epoch: int) -> Tensor:
    """The order in which activations are handed out: the same for all trainers."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(epoch))


def batches(acts: Tensor, job: dict[str, Any]) -> Iterator[Tensor]:
    """Shuffled batches without end."""
    epoch = 0
    while True:
        mixed = order(len(acts), epoch)
        for start in range(0, len(acts) - job["batch"] + 1, job["batch"]):
            yield acts[mixed[start : start + job["batch"]]]
        epoch += 1


class Given:
    """Activations at hand, in place of those that `mi_helpers.sae.Activations` reads."""

    def __init__(self, acts: Tensor, target: int = 0, places: int = 1) -> None:
        from mi_helpers.sae import Activations

        self.acts, self.device, self.hook, self.model_id = acts, acts.device, HOOK, "given"
        self.notes: dict[str, str] = {}
        self.target = "target" * bool(target)
        width = (acts.shape[1] - target) // places
        self.widths = (width,) * places, (target,) if target else ()
        self._orders: dict[int, Tensor] = {}
        self.batch = Activations.batch.__get__(self)

    def chunk(self, n: int) -> Tensor:
        """All of them."""
        return self.acts

    def order(self, n: int) -> Tensor:
        """Of the n-th epoch."""
        if n not in self._orders:
            self._orders = {n: order(len(self.acts), n)}
        return self._orders[n]


def ours(job: dict[str, Any], data: dict[str, Tensor]) -> Training:
    """`mi_helpers.sae`."""
    from mi_helpers import sae

    recipe = sae.Recipe(
        job["kind"], d_sae=job["d_sae"], k=job["k"], l1=job["l1"], steps=job["steps"],
        batch=job["batch"], lr=job["lr"], aux=AUX, dead_after=DEAD_STEPS * job["batch"],
        skip=job["skip"],
    )  # fmt: skip
    model = pocket() if job["streamed"] else None
    runs = []

    def fit() -> None:
        if model is None:
            stream: Any = Given(data["acts"], job["target"], job["places"])
        else:
            stream = sae.Activations(
                model, HOOK, data["tokens"], buffer=BUFFER, rows_at_once=ROWS_AT_ONCE
            )
        runs.append(sae.train(sae.start(stream, recipe), progress=False))

    def use(x: Tensor) -> tuple[Tensor, Tensor]:
        trained = runs[0].sae()
        return trained(x), trained.encode(x)

    return Training(fit, use, job["steps"] * job["batch"])


@cache
def pocket() -> Any:
    """The embedded model, as the notebooks load it."""
    import mi_helpers as mi

    return mi.load_model("pocket", device="cpu")


def sae_lens(job: dict[str, Any], data: dict[str, Tensor]) -> Training:
    """SAELens: `SAETrainer` on given activations, `LanguageModelSAETrainingRunner` on a model."""
    import sae_lens as lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    kinds = {
        "topk": (lens.TopKTrainingSAE, lens.TopKTrainingSAEConfig),
        "batchtopk": (lens.BatchTopKTrainingSAE, lens.BatchTopKTrainingSAEConfig),
        "relu": (lens.StandardTrainingSAE, lens.StandardTrainingSAEConfig),
    }
    make, config = kinds[job["kind"]]
    own: dict[str, Any] = {"k": job["k"], "aux_loss_coefficient": AUX}
    if job["kind"] == "relu":
        own = {"l1_coefficient": job["l1"], "l1_warm_up_steps": max(1, job["steps"] // 10)}
    made = make(config(d_in=job["d_in"], d_sae=job["d_sae"], **own))
    common = {
        "lr": job["lr"], "lr_end": job["lr"], "lr_warm_up_steps": min(50, job["steps"] // 3),
        "lr_decay_steps": int(0.3 * job["steps"]), "dead_feature_window": DEAD_STEPS,
        "logger": LoggingConfig(log_to_wandb=False),
    }  # fmt: skip
    if job["streamed"]:
        runner_config = lens.LanguageModelSAERunnerConfig(
            sae=made.cfg, model_name="pocket", hook_name=HOOK, context_size=128, streaming=False,
            n_batches_in_buffer=BUFFER // (ROWS_AT_ONCE * 128), verbose=False,
            training_tokens=job["steps"] * job["batch"], train_batch_size_tokens=job["batch"],
            store_batch_size_prompts=ROWS_AT_ONCE, exclude_special_tokens=True, prepend_bos=False,
            checkpoint_path=None, output_path=None, **common,
        )  # fmt: skip
        model, dataset = hooked_pocket(), rows(data["tokens"])
        fit = lens.LanguageModelSAETrainingRunner(
            runner_config, override_dataset=dataset, override_model=model, override_sae=made
        ).run
    else:
        samples = job["steps"] * job["batch"]
        trainer_config = SAETrainerConfig(samples, job["batch"], **common)
        fit = SAETrainer(trainer_config, made, batches(data["acts"], job)).fit

    def use(x: Tensor) -> tuple[Tensor, Tensor]:
        with TemporaryDirectory() as folder:
            made.save_inference_model(folder)
            opened = lens.SAE.load_from_disk(folder)
        return opened(x), opened.encode(x)

    return Training(fit, use, job["steps"] * job["batch"])


@cache
def hooked_pocket() -> Any:
    """The embedded model in the class that SAELens reads, with the same weight processing."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import AutoTokenizer, GPT2LMHeadModel

    source = GPT2LMHeadModel.from_pretrained(POCKET, dtype=torch.float32)
    c = source.config
    cfg = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_heads=c.n_head, d_head=c.n_embd // c.n_head,
        d_mlp=4 * c.n_embd, d_vocab=c.vocab_size, n_ctx=c.n_positions, act_fn="gelu_new",
        normalization_type="LN", model_name="pocket", original_architecture="GPT2LMHeadModel",
        device="cpu",
    )  # fmt: skip
    model = HookedTransformer(cfg, AutoTokenizer.from_pretrained(POCKET))
    model.load_and_process_state_dict(convert_gpt2_weights(source, cfg))
    return model.eval()


def rows(tokens: Tensor) -> Any:
    """Tokens as a data set."""
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": tokens.tolist()}).with_format("torch")


def sparsify(job: dict[str, Any], data: dict[str, Tensor]) -> Training:
    """EleutherAI's sparsify; given activations are read by a model that only looks them up."""
    from sparsify import SparseCoderConfig, TrainConfig, Trainer
    from transformers import GPT2LMHeadModel, PretrainedConfig, PreTrainedModel

    target = bool(job["target"])

    class LookUp(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self) -> None:
            super().__init__(PretrainedConfig())
            self.acts = torch.nn.Embedding.from_pretrained(data["acts"])
            self.pair = Pair()

        dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}

        def forward(self, input_ids: Tensor) -> Tensor:
            both = self.acts(input_ids)
            return self.pair(*both.split([job["d_in"], job["target"]], -1)) if target else both

    class Pair(torch.nn.Module):
        def forward(self, read: Tensor, written: Tensor) -> Tensor:
            """What stands for a module: it reads the one and gives the other."""
            return written

    class Silent(Trainer):
        def save(self) -> None:
            """Writing is not timed."""

    if job["streamed"]:
        model: Any = GPT2LMHeadModel.from_pretrained(POCKET, dtype=torch.float32)
        hook, tokens, excluded = "h.3", data["tokens"], [int(data["tokens"][0, 0])]
    else:
        model, hook, excluded = LookUp(), "pair" if target else "acts", []
        epochs = -(-job["steps"] * job["batch"] // len(data["acts"]))
        mixed = torch.cat([order(len(data["acts"]), epoch) for epoch in range(epochs)])
        tokens = mixed[: job["steps"] * job["batch"]].view(-1, 128)
    config = TrainConfig(
        SparseCoderConfig(
            num_latents=job["d_sae"], k=job["k"], transcode=target, skip_connection=job["skip"]
        ),
        batch_size=job["batch"] // 128,
        optimizer="adam", lr=job["lr"], lr_warmup_steps=min(50, job["steps"] // 3),
        auxk_alpha=AUX, dead_feature_threshold=DEAD_STEPS * job["batch"], exclude_tokens=excluded,
        hookpoints=[hook], log_to_wandb=False,
    )  # fmt: skip
    tokens = tokens[: job["steps"] * job["batch"] // 128]
    trainer = Silent(config, rows(tokens), model)

    def use(x: Tensor) -> tuple[Tensor, Tensor]:
        out = trainer.saes[hook](x)
        code = torch.zeros(len(x), job["d_sae"]).scatter_(1, out.latent_indices, out.latent_acts)
        return out.sae_out, code

    seen = torch.isin(tokens, torch.tensor(excluded, dtype=tokens.dtype), invert=True)
    return Training(trainer.fit, use, int(seen.sum()))


def answer(trainer: Callable[..., Training], job: dict[str, Any]) -> dict[str, float]:
    """Train once; seconds of clock and processor, and how well held-out activations come out."""
    torch.set_num_threads(job["threads"])
    data = load_file(job["path"])
    training = trainer(job, data)
    wall, cpu = time.perf_counter(), time.process_time()
    training.fit()
    found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    found["tokens"] = training.tokens
    if job.get("score"):
        x = data["held_out"]
        x, y = (x[:, : job["d_in"]], x[:, job["d_in"] :]) if job["target"] else (x, x)
        with torch.no_grad():
            out, code = training.use(x)
        missed = (y - out).square().sum() / (y - y.mean(0)).square().sum()
        found["explained_variance"] = float(1 - missed)
        found["l0"] = float((code > 0).sum(1).float().mean())
    return found


TRAINERS = {"ours": ours, "sae-lens": sae_lens, "eai-sparsify": sparsify}

if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(answer(TRAINERS[sys.argv[1]], json.loads(line))), file=replies)
