"""Train a small InfoGAN (Chen et al. 2016) on generated scenes of 32 px, and see what its codes and its parts do.

python examples/infogan.py                   # three minutes on one core; infogan.pth is written where it runs
deconvviz latent examples/infogan.py:make --scorer demo --segment examples/infogan.py:colours -o latent

The discriminator is a CNN like any other, that says whether a picture is a scene:

deconvviz pack scenes:2000 scenes.h5
deconvviz mine examples/infogan.py:discriminator scenes.h5 -l body.4 -o mined.h5
deconvviz grid mined.h5 -l body.4 -o grid.png
deconvviz diagnose examples/infogan.py:discriminator scenes:500 -o findings
deconvviz latent examples/infogan.py:make --scorer examples/infogan.py:discriminator -o real
"""

import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import deconvviz as dv

KINDS, CONTINUOUS, NOISE, SIDE = 10, 2, 20, 32
SIZE, WEIGHTS = KINDS + CONTINUOUS + NOISE, pathlib.Path("infogan.pth")
CODES = {"categorical": ((0, KINDS),), "codes": (KINDS, KINDS + 1)}


def generator() -> nn.Sequential:
    layers = [nn.Linear(SIZE, 64 * 16, bias=False), nn.BatchNorm1d(64 * 16), nn.ReLU(), nn.Unflatten(1, (64, 4, 4))]
    for before, after in ((64, 32), (32, 24), (24, 16)):
        conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [nn.Upsample(scale_factor=2), conv, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(16, 3, 3, padding=1), nn.Tanh())


class Critic(nn.Module):
    """Is it a scene (one score)? And with which code was it made (ten scores, and two means)?"""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 24), (24, 48), (48, 96))
        self.body = nn.Sequential(*[layer for a, b in sizes for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.1))])
        self.real, self.code = nn.Linear(96 * 16, 1), nn.Linear(96 * 16, KINDS + CONTINUOUS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.real(self.body(x).flatten(1))

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        return self.code(self.body(x).flatten(1))


def loaded() -> tuple[nn.Module, nn.Module]:
    parts = nn.ModuleList([generator(), Critic()])
    if WEIGHTS.exists():
        parts.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return parts[0], parts[1]


def make() -> dv.LatentModel:
    return dv.LatentModel(module=loaded()[0], size=SIZE, **CODES, name="InfoGAN")


def discriminator() -> tuple[nn.Module, dv.Preprocess, tuple[str, str]]:
    return loaded()[1], dv.Preprocess(resize=SIDE, crop=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3), ("scene", "generated")


def colours(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Masks of what is known of any picture: from images [N, 3, H, W] in 0..1 to name -> bool [N, H, W]."""
    red, green, blue = images.unbind(1)
    bright, spread = images.mean(1), images.amax(1) - images.amin(1)
    coloured = {"red": red, "green": green, "blue": blue}
    masks = {name: (spread > 0.2) & (each == images.amax(1)) for name, each in coloured.items()}
    return {**masks, "bright": bright > 0.75, "dark": bright < 0.25}


def scenes(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    drawn = dv.Scenes(count, seed=seed)
    pixels = torch.from_numpy(np.stack([drawn[i][0] for i in range(count)])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(pixels, (SIDE, SIDE), mode="area"), drawn.labels


def train(seed: int, steps: int, count: int = 2000) -> tuple[nn.Module, nn.Module, float]:
    """Train for some steps; return both networks, and the bound of the mutual information of code and picture."""
    torch.manual_seed(seed)
    model, critic = generator(), Critic()
    source, (real, _) = dv.LatentModel(module=model, size=SIZE, **CODES), scenes(count, seed + 1)
    slow, fast = {"lr": 2e-4, "betas": (0.5, 0.99)}, {"lr": 1e-3, "betas": (0.5, 0.99)}
    of_critic = torch.optim.Adam([*critic.body.parameters(), *critic.real.parameters()], **slow)
    of_model = torch.optim.Adam([*model.parameters(), *critic.code.parameters()], **fast)
    bounds = []
    for step in range(steps):
        z = torch.from_numpy(source.sample(seed, np.arange(32 * step, 32 * step + 32)))
        batch, made = real[torch.randint(count, (32,))], model(z)
        batch = torch.where(torch.rand(32, 1, 1, 1) < 0.5, batch, batch.flip(3))
        loss = F.softplus(-critic(batch)).mean() + F.softplus(critic(made.detach())).mean()
        of_critic.zero_grad(), loss.backward(), of_critic.step()
        told = critic.codes(made)
        kind = F.cross_entropy(told[:, :KINDS], z[:, :KINDS].argmax(1))
        place = F.mse_loss(told[:, KINDS:], z[:, KINDS : KINDS + CONTINUOUS])
        loss = F.softplus(-critic(made)).mean() + kind + 0.1 * place
        of_critic.zero_grad(), of_model.zero_grad(), loss.backward(), of_model.step()
        bounds.append(float(np.log(KINDS) - kind.detach()))
    return model.eval(), critic.eval(), float(np.mean(bounds[-100:]))


def agreement(codes: np.ndarray, classes: np.ndarray) -> float:
    """Mutual information of two labellings in nats."""
    joint = np.histogram2d(codes, classes, bins=(range(KINDS + 1), range(11)))[0] / len(codes)
    apart = joint.sum(1, keepdims=True) * joint.sum(0)
    return float((joint[joint > 0] * np.log(joint[joint > 0] / apart[joint > 0])).sum())


if __name__ == "__main__":
    seed, steps = int([*sys.argv[1:], "0"][0]), int([*sys.argv[2:], "2000"][0])
    model, critic, bound = train(seed, steps)
    torch.save(nn.ModuleList([model, critic]).state_dict(), WEIGHTS)
    print(f"mutual information of code and picture: at least {bound:.2f} of {np.log(KINDS):.2f} nats")
    pictures, labels = scenes(1000, seed + 1000)  # never seen
    with torch.no_grad():
        codes = critic.codes(pictures)[:, :KINDS].argmax(1).numpy()
    rng = np.random.default_rng(0)
    chance = np.quantile([agreement(codes, rng.permutation(labels)) for _ in range(999)], 0.95)
    print(f"code and class of new scenes share {agreement(codes, labels):.3f} nats; by chance up to {chance:.3f}")
