"""MAE's variants of table 1: principal components of patches as targets, encoded mask tokens."""

import numpy as np
import pytest
import torch

from mmssl.layers.patch import patchify
from mmssl.registry import MODELS, build
from mmssl.selfsup.mae import SMALL, MAEHead
from mmssl.selfsup.mae_targets import PatchPCA


def mae(head=None, **backbone):
    torch.manual_seed(0)
    settings = SMALL['MAE'].settings
    return build(
        dict(
            type='mmssl.MAE',
            backbone={**settings['backbone'], **backbone},
            neck=settings['neck'],
            head={**settings['head'], **(head or {})},
        ),
        MODELS,
    )


def test_coefficients_are_those_of_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(4, 50, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    pca = PatchPCA(12, 5).double()
    pca.fit(torch.from_numpy(patches))
    flat = patches.reshape(-1, 12)
    _, _, rows = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    got, expected = pca(torch.from_numpy(patches)).numpy().reshape(-1, 5), (flat - flat.mean(0)) @ rows[:5].T
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-5)  # the signs are free
    pca.fit(torch.zeros(1, 2, 12))  # only the first batch counts
    np.testing.assert_allclose(pca.mean, flat.mean(0), atol=1e-5)
    whole = PatchPCA(12, 12).double()
    whole.fit(torch.from_numpy(patches))
    np.testing.assert_allclose(whole.patches_of(whole(torch.from_numpy(patches))), patches, atol=1e-5)


def test_the_loss_compares_coefficients_and_the_components_are_saved():
    model = mae(head=dict(pca_components=7))
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    loss = model.loss(images, noise=noise)['loss']
    pred, mask, _ = model.reconstruct(images, noise)
    patches = patchify(images, 8)
    expected = (pred - (patches - model.head.pca.mean) @ model.head.pca.basis).square().mean(-1)[mask > 0]
    assert pred.shape == (2, 16, 7) and torch.allclose(loss, expected.mean(), rtol=1e-4)
    other = mae(head=dict(pca_components=7))
    other.load_state_dict(model.state_dict())
    other.loss(torch.randn(2, 3, 32, 32))
    assert torch.equal(other.head.pca.basis, model.head.pca.basis)


def test_encoded_mask_tokens_are_those_of_a_plain_transformer():
    model = mae(encode_mask_tokens=True).eval()
    vit = model.backbone
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    with torch.no_grad():
        latent, mask, restore = vit(images, mask=True, noise=noise)
        patches = vit.patch_embed.projection(images).flatten(2).transpose(1, 2)
        tokens = torch.where(mask[..., None] > 0, vit.mask_token, patches) + vit.pos_embed[:, 1:]
        tokens = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(2, -1, -1), tokens], 1)
        for layer in vit.layers:
            tokens = layer(tokens)
        expected = vit.ln1(tokens)
    assert latent.shape == (2, 17, 32)
    assert torch.allclose(latent[:, 0], expected[:, 0], atol=1e-5)
    in_order = latent[:, 1:].gather(1, restore[..., None].expand(-1, -1, 32))
    assert torch.allclose(in_order, expected[:, 1:], atol=1e-5)


def test_a_step_learns_the_encoders_mask_token_and_not_the_decoders():
    model = mae(encode_mask_tokens=True)
    model.loss(torch.randn(2, 3, 32, 32))['loss'].backward()
    assert model.backbone.mask_token.grad.abs().sum() > 0 and model.neck.mask_token.grad is None


@pytest.mark.parametrize(
    'head, message',
    [
        (dict(pca_components=0), 'from 1 to 192'),
        (dict(pca_components=193), 'from 1 to 192'),
        (dict(pca_components=4, norm_pix=True), 'two targets'),
    ],
)
def test_wrong_targets(head, message):
    with pytest.raises(ValueError, match=message):
        MAEHead(patch_size=8, **head)
