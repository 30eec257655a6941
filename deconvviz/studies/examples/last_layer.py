"""The last layer of a classifier as a softmax regression: gradients, Hessian, influence and TracIn in closed form.

The scores are W x + b of the embedding x. With a = [x, 1] and V = [W, b], the loss -log p of class y has the gradient
(p - y) a^T with respect to V, where p are the probabilities and y is one at the class. So no gradient is ever kept: the
product of two images' gradients is ((p - y) . (p' - y')) (a . a').
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.errors import DataError
from deconvviz.graph.classifier import LinearEnd
from deconvviz.results.features import FeatureTable
from deconvviz.types import Floats, Ints

EXACT = 3000  # parameters of a last layer whose Hessian is factorised; of more, conjugate gradients solve with it
BLOCK = 4096  # images at once
KEPT = 2 << 30  # bytes of features that stay in memory
TIGHT, MOST = 1e-6, 10_000  # of conjugate gradients: relative residual at which they end, and steps
FITTED, STEPS = 1e-7, 500  # of a fit: largest entry of the gradient at which it ends, and steps

Block = tuple[slice, Tensor, Tensor]


class TrainingFeatures:
    """The embeddings of labelled images, read in blocks.

    Attributes:
        table: the features.
        layer: the embedding.
        outputs: int64 [N], the output that is right for each image, on the device.
        device: where the arithmetic is done, in float64.
        scale: by which each embedding is multiplied.
    """

    def __init__(
        self, table: FeatureTable, layer: str, outputs: Ints, device: torch.device | str = "cpu", scale: float = 1.0
    ) -> None:
        self.table, self.layer, self.device, self.scale = table, layer, torch.device(device), scale
        self.outputs = torch.from_numpy(outputs.copy()).to(self.device)
        self._in_memory = len(outputs) * table.layers[layer] * 4 <= KEPT

    def __len__(self) -> int:
        return len(self.outputs)

    @cached_property
    def _rows(self) -> Tensor:
        return self._read(0, len(self))

    def _read(self, start: int, stop: int) -> Tensor:
        from numpy import arange

        return torch.from_numpy(self.table.rows(self.layer, arange(start, stop)))

    def rows(self, start: int, stop: int) -> Tensor:
        """Return some embeddings with a one behind each, float64 [n, D + 1]."""
        rows = self._rows[start:stop] if self._in_memory else self._read(start, stop)
        return functional.pad(rows.to(self.device, torch.float64) * self.scale, (0, 1), value=1.0)

    def blocks(self) -> Iterator[Block]:
        """Yield (which images, their rows [n, D + 1], their outputs [n])."""
        for start in range(0, len(self), BLOCK):
            part = slice(start, min(start + BLOCK, len(self)))
            yield part, self.rows(part.start, part.stop), self.outputs[part]

    def mean_square(self) -> float:
        """Return the mean over the images of the squared length of a row, the one included."""
        return sum(float(a.square().sum()) for _, a, _ in self.blocks()) / len(self)


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A softmax regression on an embedding.

    Attributes:
        weights: float64 [C, D + 1], the bias in the last column.

    >>> layer = LastLayer(torch.zeros(2, 3, dtype=torch.float64))
    >>> layer.residuals(torch.ones(1, 3, dtype=torch.float64), torch.tensor([0])).tolist()
    [[-0.5, 0.5]]
    """

    weights: Tensor

    @classmethod
    def of(cls, end: LinearEnd) -> LastLayer:
        """Return a network's own last layer."""
        return cls(torch.cat([end.weight, end.bias[:, None]], 1))

    @classmethod
    def fitted(cls, training: TrainingFeatures, classes: int, penalty: float) -> LastLayer:
        """Return the regression with the smallest mean loss plus penalty / 2 times the sum of squared weights.

        Args:
            training: the labelled embeddings.
            classes: number of outputs, C.
            penalty: above 0, so that there is one optimum.
        """
        width = training.table.layers[training.layer] + 1
        weights = torch.zeros(classes, width, dtype=torch.float64, device=training.device, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [weights],
            max_iter=STEPS,
            tolerance_grad=FITTED,
            tolerance_change=1e-14,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            layer, total = cls(weights.detach()), penalty / 2 * weights.detach().square().sum()
            weights.grad = penalty * weights.detach()
            for _, a, y in training.blocks():
                total += functional.cross_entropy(a @ layer.weights.T, y, reduction="sum") / len(training)
                weights.grad += layer.residuals(a, y).T @ a / len(training)
            return total

        with torch.no_grad():
            optimiser.step(loss)  # type: ignore[no-untyped-call, unused-ignore]
        return cls(weights.detach())

    def probabilities(self, a: Tensor) -> Tensor:
        """Return the probability of each class, float64 [n, C], for rows [n, D + 1]."""
        return (a @ self.weights.T).softmax(1)

    def residuals(self, a: Tensor, y: Tensor) -> Tensor:
        """Return p - y, float64 [n, C]: the gradient of the loss with respect to the scores."""
        return self.probabilities(a) - functional.one_hot(y, len(self.weights))

    def gradient(self, a: Tensor, y: Tensor) -> Tensor:
        """Return the gradient of one image's loss, float64 [C, D + 1]; a is [1, D + 1], y is [1]."""
        return self.residuals(a, y).T @ a

    def products(self, training: TrainingFeatures, vector: Tensor) -> Tensor:
        """Return the product of each training image's gradient with a vector [C, D + 1], float64 [N]."""
        parts = [(self.residuals(a, y) * (a @ vector.T)).sum(1) for _, a, y in training.blocks()]
        return torch.cat(parts)

    def squares(self, training: TrainingFeatures, lengths: bool = True) -> Tensor:
        """Return the squared length of each training image's gradient, float64 [N].

        Args:
            training: the training images.
            lengths: see `tracin`.
        """
        parts = []
        for _, a, y in training.blocks():
            of_residuals = self.residuals(a, y).square().sum(1)
            parts.append(of_residuals * a.square().sum(1) if lengths else of_residuals)
        return torch.cat(parts)

    def tracin(self, training: TrainingFeatures, a: Tensor, y: Tensor, lengths: bool = True) -> Tensor:
        """Return the product of each training image's gradient with that of one image, float64 [N].

        Args:
            training: the training images.
            a: row of the image, [1, D + 1].
            y: its output, [1].
            lengths: whether rows keep their lengths, as the paper has it. Without them a . a' is a cosine: images with
                long embeddings then do not come first always.

        Source: Pruthi et al. 2020, TracIn (arXiv 2002.08484), one term of TracInCP, for the last layer, where
        ((p - y) . (p' - y')) (a . a') is exact.
        """
        residual, row = self.residuals(a, y), a if lengths else functional.normalize(a)
        parts = []
        for _, rows, outputs in training.blocks():
            agreement = (rows if lengths else functional.normalize(rows)) @ row[0]
            parts.append((self.residuals(rows, outputs) @ residual[0]) * agreement)
        return torch.cat(parts)


class Curvature:
    """The Hessian of the mean loss of a last layer on its training images, with damping, and its inverse.

    H = 1/N sum_i (diag(p_i) - p_i p_i^T) x (a_i a_i^T) + damping, with x the Kronecker product. With at most EXACT
    parameters it is factorised; otherwise conjugate gradients solve with it, which need products with H only.

    Attributes:
        layer: the last layer.
        training: its training images.
        damping: what is added to the diagonal.
        steps: of conjugate gradients in the last solution; 0 where H is factorised.

    Source: Koh and Liang 2017 (arXiv 1703.04730), section 3; the damping of section 4.2.
    """

    def __init__(self, layer: LastLayer, training: TrainingFeatures, damping: float | None, share: float) -> None:
        """Prepare the Hessian; `damping` None takes `share` of the mean of its diagonal."""
        self.layer, self.training, self.steps = layer, training, 0
        self._diagonal = torch.zeros_like(layer.weights)
        for _, a, _ in training.blocks():
            p = layer.probabilities(a)
            self._diagonal += (p * (1 - p)).T @ a.square() / len(training)
        self.damping = share * float(self._diagonal.mean()) if damping is None else damping
        if not self.damping > 0:
            raise DataError("the training images have no curvature: their probabilities are all 0 or 1; give a damping")

    @property
    def exact(self) -> bool:
        """Whether the Hessian is factorised."""
        return self.layer.weights.numel() <= EXACT

    def times(self, vector: Tensor) -> Tensor:
        """Return H times a vector, both [C, D + 1]."""
        result = self.damping * vector
        for _, a, _ in self.training.blocks():
            p, s = self.layer.probabilities(a), a @ vector.T
            result = result + (p * (s - (p * s).sum(1, keepdim=True))).T @ a / len(self.training)
        return result

    @cached_property
    def factor(self) -> Tensor:
        """The Cholesky factor of H, float64 [C (D + 1), C (D + 1)]."""
        classes, width = self.layer.weights.shape
        hessian = torch.zeros(classes, width, classes, width, dtype=torch.float64, device=self.training.device)
        for _, a, _ in self.training.blocks():
            p = self.layer.probabilities(a)
            for c in range(classes):
                weights = -p[:, c, None] * p  # of a a^T, for class c and each other one
                weights[:, c] += p[:, c]
                for other in range(classes):
                    hessian[c, :, other] += (a * weights[:, other, None]).T @ a / len(self.training)
        flat = hessian.reshape(classes * width, classes * width)
        flat.diagonal().add_(self.damping)
        factor: Tensor = torch.linalg.cholesky(flat)
        return factor

    def solve(self, vector: Tensor, step: Callable[[], object] = lambda: None) -> Tensor:
        """Return H^-1 times a vector, both [C, D + 1]; `step` is called at each step of conjugate gradients.

        Raises:
            DataError: conjugate gradients do not converge.
        """
        if self.exact:
            return torch.cholesky_solve(vector.reshape(-1, 1), self.factor).reshape(vector.shape)
        scale = self._diagonal + self.damping  # Jacobi's preconditioner
        solution, residual = torch.zeros_like(vector), vector.clone()
        direction = z = residual / scale
        agreement, target = (residual * z).sum(), TIGHT * vector.norm()
        for self.steps in range(1, MOST + 1):
            if residual.norm() <= target:
                return solution
            curved = self.times(direction)
            length = agreement / (direction * curved).sum()
            solution, residual = solution + length * direction, residual - length * curved
            z = residual / scale
            before, agreement = agreement, (residual * z).sum()
            direction = z + agreement / before * direction
            step()
        raise DataError(f"conjugate gradients did not converge in {MOST} steps; give a larger damping")

    def influence(self, a: Tensor, y: Tensor, step: Callable[[], object] = lambda: None) -> Tensor:
        """Return by how much the loss of one image would rise without each training image, in nats, float64 [N].

        Args:
            a: row of the image, [1, D + 1].
            y: its output, [1].
            step: called at each step of conjugate gradients.

        Source: Koh and Liang 2017, equation 2: 1/N grad L(test)^T H^-1 grad L(z), to first order in 1/N.
        """
        solved = self.solve(self.layer.gradient(a, y), step)
        return self.layer.products(self.training, solved) / len(self.training)

    def self_influence(self) -> Tensor:
        """Return by how much the loss of each training image would rise without itself, in nats, float64 [N]."""
        parts = []
        for _, a, y in self.training.blocks():
            gradients = (self.layer.residuals(a, y)[:, :, None] * a[:, None, :]).flatten(1)
            parts.append(torch.linalg.solve_triangular(self.factor, gradients.T, upper=False).square().sum(0))
        return torch.cat(parts) / len(self.training)


def as_floats(values: Tensor) -> Floats:
    """Return a tensor's values, float64, on the host."""
    array: Floats = values.double().cpu().numpy()
    return array
