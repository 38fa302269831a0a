"""The optimiser of both training stages: Muon for the layers' matrices, AdamW for everything else."""

import torch
from torch import nn


class Muon:
    """Momentum whose steps are made orthogonal: every matrix moves by about ``rate`` in all its directions.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with its five
    quintic Newton-Schulz iterations.  Matrices of one shape go through them together, which at these sizes is
    what counts.
    """

    def __init__(self, matrices: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.05) -> None:
        self.momentum, self.decay = momentum, decay
        shapes = sorted({tuple(w.shape) for w in matrices})
        self.groups = [[w for w in matrices if tuple(w.shape) == shape] for shape in shapes]
        self.means = [torch.zeros(len(g), *shape) for g, shape in zip(self.groups, shapes, strict=True)]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for group, mean in zip(self.groups, self.means, strict=True):
            grad = torch.stack([w.grad for w in group])
            mean.lerp_(grad, 1 - self.momentum)
            x = grad.lerp(mean, self.momentum)
            rows, columns = x.shape[1:]
            x = x.mT if rows > columns else x
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):
                gram = x @ x.mT
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = x.mT if rows > columns else x
            step = rate * max(1, rows / columns) ** 0.5
            for w, direction in zip(group, x, strict=True):
                w.mul_(1 - rate * self.decay).sub_(direction, alpha=step)


class Optimiser:
    """Muon at ``rate`` for the layers' matrices, AdamW at half of it for embedding and norms."""

    def __init__(self, model: nn.Module) -> None:
        matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name]
        others = [w for name, w in model.named_parameters() if w.ndim == 1 or "embed" in name]
        self.model = model
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)

    def step(self, rate: float) -> None:
        """Take one step down the gradients, and clear them."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.muon.step(rate)
        self.adam.param_groups[0]["lr"] = rate / 2
        self.adam.step()
        self.model.zero_grad()
