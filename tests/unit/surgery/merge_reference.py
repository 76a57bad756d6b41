"""Writes merge_reference.json: merges of small tensors by mergekit's definitions, computed with NumPy in f64.

    python3 tests/unit/surgery/merge_reference.py > tests/unit/surgery/merge_reference.json

The definitions are those of mergekit 0.1.5 (sparsify.py, generalized_task_arithmetic.py, model_stock.py, nearswap.py).
"""

import json

import numpy as np


def outliers(delta, density, gamma, rescale):
    order = np.argsort(np.abs(delta).ravel(), kind="stable")
    size = delta.size
    kept = int(density * size)
    least = max(0, size - kept - int(gamma * size))
    mask = np.zeros(size)
    mask[order[least : least + kept]] = 1
    masked = delta * mask.reshape(delta.shape)
    return masked * (np.abs(delta).sum() / np.abs(masked).sum()) if rescale else masked


def combined(base, deltas, weights, elect, normalize, factor):
    weighted = np.stack([w * d for w, d in zip(weights, deltas)])
    weights = np.array(weights).reshape(-1, *[1] * base.ndim) * np.ones_like(weighted)
    if elect:
        sign = np.where(weighted.sum(0) >= 0, 1, -1)
        mask = np.sign(weighted) == sign
        total, divisor = (weighted * mask).sum(0), (weights * mask).sum(0)
        divisor[divisor == 0] = 1
    else:
        total, divisor = weighted.sum(0), weights.sum(0)
    return base + factor * (total / divisor if normalize else total)


def stock(base, models, by_rows):
    shape = base.shape
    rows = base.reshape(-1, shape[-1]) if by_rows else base.reshape(1, -1)
    deltas = [m.reshape(rows.shape) - rows for m in models]
    cosines = []
    for a in range(len(deltas)):
        for b in range(a + 1, len(deltas)):
            lengths = np.linalg.norm(deltas[a], axis=1) * np.linalg.norm(deltas[b], axis=1)
            cosines.append((deltas[a] * deltas[b]).sum(1) / lengths)
    cosine = np.mean(cosines, axis=0)[:, None]
    count = len(deltas)
    share = count * cosine / (1 + (count - 1) * cosine)
    return (share * np.mean([m.reshape(rows.shape) for m in models], axis=0) + (1 - share) * rows).reshape(shape)


def nearswap(a, b, t):
    weight = np.clip(t / np.maximum(np.abs(a - b), 1e-6), 0, 1)
    return weight * b + (1 - weight) * a


def della_probabilities(delta, density, epsilon):
    if delta.ndim < 2:
        return della_probabilities(delta[None], density, epsilon)[0]
    ranks = np.argsort(np.argsort(np.abs(delta), axis=1, kind="stable"), axis=1, kind="stable")
    return density - epsilon + 2 * epsilon * ranks / (delta.shape[1] - 1)


def main():
    random = np.random.default_rng(22)
    shape = (7, 9)
    base = random.normal(size=shape).astype(np.float32)
    # Changes with a direction in common, so that Model Stock has something to go by.
    common = random.normal(size=shape)
    models = [(base + 0.3 * common + 0.2 * random.normal(size=shape)).astype(np.float32) for _ in range(3)]
    wide = base.astype(np.float64)
    inputs = [m.astype(np.float64) for m in models]
    deltas = [(m - base).astype(np.float64) for m in models]
    weights = [0.7, 0.4, -0.2]
    cases = []

    def case(method, values, **settings):
        cases.append({"method": method, "expected": values.ravel().tolist(), **settings})

    for method, elect in (("breadcrumbs", False), ("breadcrumbs_ties", True)):
        for density, gamma, rescale, normalize in ((0.6, 0.1, False, False), (0.3, 0.2, True, True), (0.95, 0.2, True, False)):
            dropped = [outliers(d, density, gamma, rescale) for d in deltas]
            case(method, combined(wide, dropped, weights, elect, normalize, 0.9), density=density, gamma=gamma,
                 rescale=rescale, normalize=normalize)
    case("model_stock", stock(wide, inputs, False), filter_wise=False)
    case("model_stock", stock(wide, inputs, True), filter_wise=True)
    for t in (0.05, 0.4, 10):
        case("nearswap", nearswap(wide, inputs[0], t), t=t)
    probabilities = [{"density": density, "epsilon": epsilon,
                      "rows": della_probabilities(deltas[0], density, epsilon).ravel().tolist(),
                      "vector": della_probabilities(deltas[0].ravel(), density, epsilon).tolist()}
                     for density, epsilon in ((0.5, 0.15), (0.3, 0.29))]
    print(json.dumps({"shape": shape, "base": base.ravel().tolist(), "models": [m.ravel().tolist() for m in models],
                      "weights": weights, "lambda": 0.9, "cases": cases, "probabilities": probabilities}))


if __name__ == "__main__":
    main()
