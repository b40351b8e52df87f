"""Write tests/model_step_reference.json: three training steps of small DLRMs, computed by PyTorch in float64.

Needs torch (any 2.x), which cupyrec itself does not; run by hand when the cases below change:

    python scripts/make_step_reference.py

Nothing of cupyrec is used here: the model is built from torch's EmbeddingBag, linear layers, autograd and
optimizers. Row-wise Adagrad, which torch lacks, is written out.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "model_step_reference.json"
DIGITS = 13

TABLE_ROWS = (7, 5, 1)
DIMENSION = 4
DENSE_FEATURES = 3
BOTTOM = (5, 4)
TOP = (6, 1)
SAMPLES = 6
EPS = 1e-3
# The first step is half a warm-up of two steps to 0.2.
LEARNING_RATES = (0.1, 0.2, 0.2)
MODELS = {"sum": {"self_interaction": False}, "mean": {"self_interaction": True}}
OPTIMIZERS = ("sgd", "adagrad", "rowwise-adagrad")


def make_batch() -> dict:
    """Bags of 0 to 3 ids within each table, F lists of B lists, with duplicates inside a bag and between bags."""
    bags = [[torch.randint(rows, (int(torch.randint(4, ())),)).tolist() for _ in range(SAMPLES)] for rows in TABLE_ROWS]
    return {
        # Multiples of 1/64, so that float32 holds them too.
        "dense": (torch.randint(-128, 128, (SAMPLES, DENSE_FEATURES)) / 64).tolist(),
        "bags": bags,
        "labels": torch.randint(2, (SAMPLES,)).double().tolist(),
    }


def make_initial(pooling: str) -> dict[str, torch.Tensor]:
    """Weights by name: bottom.0.weight (out, in), bottom.0.bias (out,), ..., table.0 (rows, D), ..."""
    vectors = len(TABLE_ROWS) + 1
    pairs = vectors * (vectors + (1 if MODELS[pooling]["self_interaction"] else -1)) // 2
    widths = {"bottom": (DENSE_FEATURES, *BOTTOM), "top": (DIMENSION + pairs, *TOP)}
    weights = {}
    for name, layers in widths.items():
        for layer in range(len(layers) - 1):
            weights[f"{name}.{layer}.weight"] = torch.randn(layers[layer + 1], layers[layer]) / 2
            weights[f"{name}.{layer}.bias"] = torch.randn(layers[layer + 1]) / 2
    for table, rows in enumerate(TABLE_ROWS):
        weights[f"table.{table}"] = torch.randn(rows, DIMENSION)
    # float32 values, so that both precisions start from the same weights.
    return {name: weight.float().double() for name, weight in weights.items()}


def logits_of(weights: dict[str, torch.Tensor], batch: dict, pooling: str) -> torch.Tensor:
    """(B,)."""
    X = mlp(weights, "bottom", torch.tensor(batch["dense"], dtype=torch.float64), relu_last=True)
    vectors = [X]
    for table, bags in enumerate(batch["bags"]):
        ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
        offsets = torch.tensor([0, *(len(bag) for bag in bags)]).cumsum(0)
        vectors.append(
            torch.nn.functional.embedding_bag(
                ids, weights[f"table.{table}"], offsets, mode=pooling, include_last_offset=True
            )
        )
    Z = torch.stack(vectors, dim=1)
    diagonal = 0 if MODELS[pooling]["self_interaction"] else -1
    i, j = torch.tril_indices(Z.shape[1], Z.shape[1], diagonal)
    R = torch.cat([X, torch.bmm(Z, Z.transpose(1, 2))[:, i, j]], dim=1)
    return mlp(weights, "top", R, relu_last=False)[:, 0]


def mlp(weights: dict[str, torch.Tensor], name: str, X: torch.Tensor, *, relu_last: bool) -> torch.Tensor:
    layers = sum(key.startswith(f"{name}.") for key in weights) // 2
    for layer in range(layers):
        X = torch.nn.functional.linear(X, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"])
        if relu_last or layer < layers - 1:
            X = torch.relu(X)
    return X


class RowwiseAdagrad:
    """h[row] += mean(g[row]**2);  w[row] -= rate * g[row] / (sqrt(h[row]) + eps), for tables alone."""

    def __init__(self, tables: list[torch.Tensor]) -> None:
        self.tables = tables
        self.h = [torch.zeros(table.shape[0], 1, dtype=torch.float64) for table in tables]
        self.param_groups = [{"lr": 0.0}]

    @torch.no_grad()
    def step(self) -> None:
        for table, h in zip(self.tables, self.h, strict=True):
            h += table.grad.square().mean(dim=1, keepdim=True)
            table -= self.param_groups[0]["lr"] * table.grad / (h.sqrt() + EPS)


def optimizers_for(name: str, weights: dict[str, torch.Tensor]) -> list:
    tables = [weight for key, weight in weights.items() if key.startswith("table")]
    if name == "sgd":
        return [torch.optim.SGD(weights.values(), lr=1.0)]
    if name == "adagrad":
        return [torch.optim.Adagrad(weights.values(), lr=1.0, eps=EPS)]
    dense = [weight for key, weight in weights.items() if not key.startswith("table")]
    return [torch.optim.Adagrad(dense, lr=1.0, eps=EPS), RowwiseAdagrad(tables)]


def train(initial: dict[str, torch.Tensor], batches: list[dict], pooling: str, optimizer: str) -> dict:
    """Losses and logits of each step (before its update), the first step's gradients, the last weights."""
    weights = {name: weight.clone().requires_grad_() for name, weight in initial.items()}
    optimizers = optimizers_for(optimizer, weights)
    losses, logits_of_steps, first_gradients = [], [], None
    for batch, rate in zip(batches, LEARNING_RATES, strict=True):
        for weight in weights.values():
            weight.grad = None
        logits = logits_of(weights, batch, pooling)
        labels = torch.tensor(batch["labels"], dtype=torch.float64)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        losses.append(loss.item())
        logits_of_steps.append(logits.tolist())
        if first_gradients is None:
            first_gradients = {name: weight.grad.clone() for name, weight in weights.items()}
        for each in optimizers:
            each.param_groups[0]["lr"] = rate
            each.step()
    return {"losses": losses, "logits": logits_of_steps, "first_gradients": first_gradients, "weights": weights}


def rounded(value):
    """The same in lists of floats of DIGITS significant digits."""
    if isinstance(value, torch.Tensor):
        return rounded(value.tolist())
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def main() -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    batches = [make_batch() for _ in LEARNING_RATES]
    models = {}
    for pooling, model in MODELS.items():
        initial = make_initial(pooling)
        runs = {name: train(initial, batches, pooling, name) for name in OPTIMIZERS}
        # The gradients of the first step are those of every optimizer.
        gradients, *_ = [run.pop("first_gradients") for run in runs.values()]
        models[pooling] = {**model, "initial": initial, "first_gradients": gradients, "runs": runs}
    content = {
        "made_by": f"scripts/make_step_reference.py with torch {torch.__version__}",
        "table_rows": list(TABLE_ROWS),
        "dimension": DIMENSION,
        "dense_features": DENSE_FEATURES,
        "bottom": list(BOTTOM),
        "top": list(TOP),
        "eps": EPS,
        "learning_rate": LEARNING_RATES[-1],
        "warmup_steps": 2,
        "batches": batches,
        "models": models,
    }
    OUTPUT.write_text(json.dumps(rounded(content), separators=(",", ":")).replace("},", "},\n") + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
