"""Cases for the fast forms of the losses."""

import torch
from fast_case import Case


def scores(*shape, scale=1.0, offset=0.0):
    def inputs(dtype):
        return (torch.randn(*shape, dtype=torch.float64).mul(scale).add(offset).to(dtype),), {}

    return inputs


def with_an_unused_prototype(dtype):
    values = torch.randn(12, 5, dtype=torch.float64)
    values[:, 2] = -torch.inf
    return (values.to(dtype), 0.1, 4), {}


def pairs(batch, ncrops, classes=6):
    def inputs(dtype):
        log_probs = torch.randn(ncrops * batch, classes, dtype=torch.float64).log_softmax(1)
        targets = torch.randn(2 * batch, classes, dtype=torch.float64).softmax(1)
        return (log_probs.to(dtype).requires_grad_(), targets.to(dtype).requires_grad_(), ncrops), {}

    return inputs


CASES = {
    'mmssl.losses.fast.sinkhorn:sinkhorn': [
        Case('one-batch', scores(9, 4), gradients=False),
        Case('two-batches', scores(2, 9, 4), gradients=False),
        Case('one-sample', scores(1, 3), gradients=False),
        Case('one-prototype', scores(5, 1), gradients=False),
        Case('large-scores', scores(7, 3, scale=10.0, offset=1e4), gradients=False),
        Case('unused-prototype', with_an_unused_prototype, gradients=False),
        Case('half', scores(9, 4), gradients=False, dtypes=(torch.bfloat16,)),
    ],
    'mmssl.losses.fast.dino:cross_entropy_of_pairs': [
        Case('global-crops', pairs(3, 2)),
        Case('local-crops', pairs(3, 6)),
        Case('one-image', pairs(1, 3)),
    ],
}
