"""Train a small InfoGAN (Chen et al. 2016) on generated scenes of 32 px, and see what its codes and its parts do.

python examples/infogan.py                   # some minutes on one core; infogan.pth is written where it runs
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
from torch.optim import Adam, swa_utils

import deconvviz as dv
from deconvviz.studies.latent.sweeps import mutual_information

KINDS, CONTINUOUS, NOISE, SIDE, BATCH = 10, 2, 20, 32, 32
SIZE, WEIGHTS = KINDS + CONTINUOUS + NOISE, pathlib.Path("infogan.pth")
CODES = {"categorical": ((0, KINDS),), "codes": (KINDS, KINDS + 1)}


def generator() -> nn.Sequential:
    layers = [nn.Linear(SIZE, 128 * 16, bias=False), nn.Unflatten(1, (128, 4, 4)), nn.BatchNorm2d(128), nn.ReLU()]
    for before, after in ((128, 64), (64, 32)):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())


class Critic(nn.Module):
    """Is it a scene (one score)? And with which code was it made (ten scores, and two means)?"""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 32), (32, 64), (64, 128))
        self.body = nn.Sequential(*[layer for a, b in sizes for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.1))])
        self.real = nn.Linear(128 * 16, 1)
        self.code = nn.Sequential(nn.Linear(128 * 16, 128), nn.LeakyReLU(0.1), nn.Linear(128, KINDS + CONTINUOUS))

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
    return loaded()[1], dv.Preprocess(resize=SIDE, crop=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3), ("generated", "scene")


def colours(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Masks of what is known of any picture: from images [N, 3, H, W] in 0..1 to name -> bool [N, H, W]."""
    bright, spread = images.mean(1), images.amax(1) - images.amin(1)
    masks = {name: (spread > 0.2) & (images[:, n] == images.amax(1)) for n, name in enumerate(("red", "green", "blue"))}
    return {**masks, "bright": bright > 0.75, "dark": bright < 0.25}


def scenes(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    drawn = dv.Scenes(count, seed=seed)
    pixels = torch.from_numpy(np.stack([drawn[i][0] for i in range(count)])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(pixels, (SIDE, SIDE), mode="area"), drawn.labels


def train(seed: int, steps: int, count: int = 4000) -> tuple[nn.Module, nn.Module, np.ndarray]:
    """Train for some steps; return both networks, and of each step the critic's loss and the bound of information."""
    torch.manual_seed(seed)
    model, critic = (part.to(memory_format=torch.channels_last) for part in (generator(), Critic()))
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True)
    source, (real, _) = dv.LatentModel(module=model, size=SIZE, **CODES), scenes(count, seed + 1)
    of_critic = Adam([*critic.body.parameters(), *critic.real.parameters()], 5e-4, (0.5, 0.99))
    of_model = Adam([*model.parameters(), *critic.code.parameters()], 1e-3, (0.5, 0.99))
    history = []
    for step in range(steps):
        z = torch.from_numpy(source.sample(seed, np.arange(BATCH * step, BATCH * step + BATCH)))
        batch, made = real[torch.randint(count, (BATCH,))], model(z)
        batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, batch, batch.flip(3)).requires_grad_(step % 8 == 0)
        told, slope = critic(batch), torch.zeros(1, 1, 1, 1)
        loss = F.softplus(-told).mean() + F.softplus(critic(made.detach())).mean()
        if step % 8 == 0:  # a critic that is steep at real pictures teaches nothing: R1, Mescheder et al. 2018
            slope = torch.autograd.grad(told.sum(), batch, create_graph=True)[0]
        of_critic.zero_grad(), (loss + 0.4 * slope.square().sum((1, 2, 3)).mean()).backward(), of_critic.step()
        codes = critic.codes(made)
        kind = F.cross_entropy(codes[:, :KINDS], z[:, :KINDS].argmax(1))
        place = F.mse_loss(codes[:, KINDS:], z[:, KINDS : KINDS + CONTINUOUS])
        whole = F.softplus(-critic(made)).mean() + kind + 0.1 * place
        of_model.zero_grad(), whole.backward(), of_model.step()
        averaged.update_parameters(model)
        history.append((loss.item(), np.log(KINDS) - kind.item()))
    return averaged.module.eval(), critic.eval(), np.array(history)


if __name__ == "__main__":
    seed, steps = int([*sys.argv[1:], "0"][0]), int([*sys.argv[2:], "2000"][0])
    model, critic, history = train(seed, steps)
    torch.save(nn.ModuleList([model, critic]).state_dict(), WEIGHTS)
    bound = history[-100:, 1].mean()
    print(f"mutual information of code and picture: at least {bound:.2f} of {np.log(KINDS):.2f} nats")
    pictures, labels = scenes(1000, seed + 1000)  # never seen
    codes = critic.codes(pictures)[:, :KINDS].argmax(1).numpy()
    rng = np.random.default_rng(0)
    chance = np.quantile([mutual_information(codes, rng.permutation(labels)) for _ in range(999)], 0.95)
    shared = mutual_information(codes, labels)
    print(f"code and class of new scenes share {shared:.3f} nats; by chance up to {chance:.3f}")
