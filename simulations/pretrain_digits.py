"""Make the embedded base model: a small vision transformer, pretrained on upright digits.

    python -m simulations.pretrain_digits

Trains on the 2,000 images that no client ever sees (``potara_flwr.tasks.digits.split_images``) and
writes an ordinary Hugging Face model folder. The accuracy it prints is measured on the clients'
3,000 images, upright, which have no part in the training. Takes about five minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from potara_flwr.tasks.digits import load_images, split_images

SEED = 0
FOLDER = Path(__file__).parent.parent / "potara_flwr" / "models" / "digits-vit"


def build_model() -> ViTForImageClassification:
    """Return the untrained model: width 96, 6 layers, patch 7 on 28 × 28, 0.46 M parameters."""
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=96,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=192,
            image_size=28,
            patch_size=7,
            num_channels=1,
            num_labels=10,  # type: ignore[call-arg]  # a field of the base class
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate by up to 12°, scale by up to 10 % and move by up to 2 pixels, image by image."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, scale = uniform(math.radians(12)), 1 + uniform(0.1)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    x, y = uniform(2 / 14), uniform(2 / 14)
    affine = torch.stack([torch.stack([cos, -sin, x], -1), torch.stack([sin, cos, y], -1)], 1)
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images classified correctly."""
    model.eval()
    logits = torch.cat([model(pixel_values=part).logits for part in images.split(500)])
    return (logits.argmax(-1) == labels).float().mean().item()


def main() -> None:
    """Train the model and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="model folder to write")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the 2,000 images")
    args = parser.parse_args()

    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, labels = load_images()
    pretraining, clients = split_images()
    model = build_model()
    steps = args.epochs * math.ceil(len(pretraining) / 64)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    start = time.perf_counter()
    for epoch in range(1, args.epochs + 1):
        model.train()
        for at in pretraining[torch.randperm(len(pretraining), generator=generator)].split(64):
            logits = model(pixel_values=augment(images[at], generator)).logits
            loss = nn.functional.cross_entropy(logits, labels[at], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 10 == 0 or epoch == args.epochs:
            held_out = accuracy(model, images[clients], labels[clients])
            print(
                f"epoch {epoch}/{args.epochs}: loss {loss.item():.3f}, accuracy on the clients' "
                f"images, upright: {held_out:.4f}, {time.perf_counter() - start:.0f} s"
            )
    model.save_pretrained(args.out)
    size = (args.out / "model.safetensors").stat().st_size
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {size:,} bytes: {args.out}")


if __name__ == "__main__":
    main()
