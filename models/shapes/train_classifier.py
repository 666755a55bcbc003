"""Trains the classifier of drawings; a run goes on from where it was stopped.

python -m ddimcache.models.shapes.train_classifier --folder /tmp/classifier --minutes 10
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ddimcache.models.shapes.classifier import LABEL_VALUES, WEIGHTS, Classifier, labels, load_classifier
from ddimcache.models.shapes.drawing import draw, drawings
from ddimcache.models.shapes.grammar import Scene, SceneSampler
from ddimcache.models.shapes.judge import classified_scores, examine
from ddimcache.models.shapes.run_folder import Budget, RunFolder

_BATCH = 64
_BETWEEN_CHECKPOINTS = 100  # steps
_MOST_NOISE = 12.0  # of 255, as the decoder's pictures have at most
_CHECKED_DRAWINGS = 500


def _batch(sampler: SceneSampler, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return uint8 (64, 128, 128, 3) drawings and int64 (64, 7) labels.

    Half of the drawings are noisy, some of these also blurred, so that small flaws of painted pictures do
    not change an answer.
    """
    pictures = np.empty((_BATCH, 128, 128, 3), np.uint8)
    rows = np.empty((_BATCH, len(LABEL_VALUES)), np.int64)
    for index in range(_BATCH):
        scene = sampler.sample(random)
        picture: np.ndarray = draw(scene, random)[0].astype(np.float32)
        if random.random() < 0.25:
            picture = (
                picture + np.roll(picture, 1, 0) + np.roll(picture, 1, 1) + np.roll(picture, (1, 1), (0, 1))
            ) / 4
        if random.random() < 0.5:
            deviation = np.float32(random.uniform(0, _MOST_NOISE))
            picture += random.standard_normal(picture.shape, np.float32) * deviation
        pictures[index] = np.clip(np.rint(picture), 0, 255)
        rows[index] = _indices(scene)
    return torch.from_numpy(pictures), torch.from_numpy(rows)


def _indices(scene: Scene) -> list[int]:
    values = labels(scene)
    return [LABEL_VALUES[name].index(values[name]) for name in LABEL_VALUES]


def _checked(classifier: Classifier) -> float:
    """Return the share of held-out drawings that are told wholly right."""
    pictures, scenes = drawings(_CHECKED_DRAWINGS, seed=77, held_out=True)
    scores = classified_scores(classifier.eval(), pictures, scenes)
    classifier.train()
    return scores.all_right


def train(folder: RunFolder, minutes: float, seed: int) -> Classifier:
    """Train for ``minutes`` in all, going on from the folder's checkpoint; return the classifier."""
    torch.manual_seed(seed)
    classifier = Classifier().train()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=0, weight_decay=1e-3)
    budget, step = Budget(minutes, 3e-3), 0
    state = folder.load("classifier")
    if state is not None:
        classifier.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        budget.spent, step = state["spent"], state["step"]
    folder.log(
        torch=torch.__version__, threads=torch.get_num_threads(), minutes=minutes, seed=seed, step=step
    )
    sampler, random = SceneSampler(), np.random.default_rng((seed, step))
    budget.skip()
    while budget.share < 1:
        pictures, rows = _batch(sampler, random)
        for group in optimiser.param_groups:
            group["lr"] = budget.rate()
        logits = classifier(pictures)
        loss = torch.stack(
            [functional.cross_entropy(part, row) for part, row in zip(logits, rows.T, strict=True)]
        )
        loss.mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        budget.tick()
        if step % _BETWEEN_CHECKPOINTS == 0 or budget.share >= 1:
            right = _checked(classifier)
            state = {"model": classifier.state_dict(), "optimiser": optimiser.state_dict()}
            folder.save("classifier", {**state, "spent": budget.spent, "step": step})
            values = {"loss": round(loss.mean().item(), 5), "held_out_right": round(right, 4)}
            folder.log(step=step, seconds=round(budget.spent, 1), **values)
            budget.skip()
    return classifier.eval()


def main(
    folder: Annotated[Path, typer.Option(help="Folder of the run: log.jsonl and the checkpoint.")],
    minutes: Annotated[
        float, typer.Option(help="Training time in all, over every run in this folder.")
    ] = 10.0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves PyTorch's choice.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the drawings and of the first weights.")] = 1,
    output: Annotated[Path, typer.Option(help="Where to write the weights.")] = WEIGHTS,
) -> None:
    """Train the classifier, examine it on real drawings and write it; the same command resumes a run."""
    if threads:
        torch.set_num_threads(threads)
    classifier = train(RunFolder(folder), minutes, seed)
    state = classifier.state_dict()
    save_file(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
        output,
    )
    shares = examine(load_classifier(output))
    typer.echo(
        f"{output}: {output.stat().st_size / 1e3:.0f} kB, {shares['classifier']:.1%} of the exam right"
    )


if __name__ == "__main__":
    typer.run(main)
