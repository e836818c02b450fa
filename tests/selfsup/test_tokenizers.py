"""Visual tokenizers: DALL-E's encoder against a plain reading and mmpretrain's, its pickle, and k-means."""

import os
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmssl.checkpoint import UnsafeCheckpointError, load_file
from mmssl.cli import main
from mmssl.registry import MODELS
from mmssl.selfsup.kmeans import MiniBatchKMeans
from mmssl.selfsup.tokenizers import DALLEEncoder, KMeansTokenizer, map_pixels, read_dalle

SMALL = dict(num_tokens=12, n_hid=8)


# DALL-E


def test_dalle_has_the_released_names_and_sizes():
    with torch.device('meta'):
        shapes = {key: tuple(value.shape) for key, value in DALLEEncoder('random').state_dict().items()}
    assert shapes['blocks.input.w'] == (256, 3, 7, 7) and shapes['blocks.output.conv.w'] == (8192, 2048, 1, 1)
    assert shapes['blocks.group_2.block_1.id_path.w'] == (512, 256, 1, 1)
    assert 'blocks.group_2.block_2.id_path.w' not in shapes
    assert shapes['blocks.group_4.block_2.res_path.conv_3.w'] == (512, 512, 3, 3)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 53_786_240


def plain_dalle(weights, pixels):
    """The encoder written out block by block."""

    def conv(x, name):
        return nn.functional.conv2d(
            x, weights[f'{name}.w'], weights[f'{name}.b'], padding=weights[f'{name}.w'].shape[-1] // 2
        )

    x = conv(pixels * 0.8 + 0.1, 'blocks.input')
    for group in range(1, 5):
        for block in (1, 2):
            name = f'blocks.group_{group}.block_{block}'
            branch = x
            for index in range(1, 5):
                branch = conv(branch.clamp(min=0), f'{name}.res_path.conv_{index}')
            x = (conv(x, f'{name}.id_path') if f'{name}.id_path.w' in weights else x) + branch / 64
        if group < 4:
            rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
            x = x.view(*x.shape[:2], rows, 2, columns, 2).amax((3, 5))
    return conv(x.clamp(min=0), 'blocks.output.conv')


def test_dalle_equals_its_plain_reading_and_tokens_of_some_patches_those_of_all():
    torch.manual_seed(0)
    encoder = DALLEEncoder('random', **SMALL).double()
    pixels = torch.rand(2, 3, 24, 32, dtype=torch.float64)
    logits = encoder(pixels)
    torch.testing.assert_close(logits, plain_dalle(encoder.state_dict(), pixels), atol=1e-12, rtol=0)
    tokens = logits.permute(0, 2, 3, 1).reshape(24, 12).argmax(1)
    assert logits.shape == (2, 12, 3, 4) and torch.equal(encoder.tokenize(pixels), tokens)
    assert torch.equal(encoder.tokenize(pixels, torch.tensor([0, 3, 17])), tokens[[0, 3, 17]])
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_dalle_equals_the_hosts():
    from mmpretrain.models.selfsup.cae import DALLEEncoder as HostEncoder

    host = HostEncoder(n_hid=8, vocab_size=12)
    ours = DALLEEncoder('random', **SMALL)
    ours.load_state_dict(host.state_dict(), strict=True)
    pixels = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(pixels), host(map_pixels(pixels)), atol=1e-5, rtol=1e-5)


def released_module(weights):
    """A module as ``torch.save`` of the package dall_e wrote it, made of stand-ins for its classes."""
    package = types.ModuleType('dall_e')
    for module, names in (('encoder', ('Encoder', 'EncoderBlock')), ('utils', ('Conv2d',))):
        child = types.ModuleType(f'dall_e.{module}')
        for name in names:
            setattr(child, name, type(name, (nn.Module,), dict(__module__=f'dall_e.{module}')))
        setattr(package, module, child)

    def conv(name):
        made = package.utils.Conv2d()
        made.w, made.b = (
            nn.Parameter(weights[f'{name}.w']),
            nn.Parameter(weights[f'{name}.b'], requires_grad=False),
        )
        made.device, made.kw = torch.device('cpu'), 3
        return made

    def block(name):
        made = package.encoder.EncoderBlock()
        made.id_path = conv(f'{name}.id_path') if f'{name}.id_path.w' in weights else nn.Identity()
        layers = [
            (f'{kind}_{i}', nn.ReLU() if kind == 'relu' else conv(f'{name}.res_path.conv_{i}'))
            for i in range(1, 5)
            for kind in ('relu', 'conv')
        ]
        made.res_path = nn.Sequential(OrderedDict(layers))
        return made

    groups = [('input', conv('blocks.input'))]
    for group in range(1, 5):
        blocks = [(f'block_{i}', block(f'blocks.group_{group}.block_{i}')) for i in (1, 2)]
        groups.append(
            (
                f'group_{group}',
                nn.Sequential(OrderedDict(blocks + ([('pool', nn.MaxPool2d(2))] if group < 4 else []))),
            )
        )
    groups.append(
        ('output', nn.Sequential(OrderedDict([('relu', nn.ReLU()), ('conv', conv('blocks.output.conv'))])))
    )
    encoder = package.encoder.Encoder()
    encoder.blocks = nn.Sequential(OrderedDict(groups))
    return encoder, {'dall_e': package, 'dall_e.encoder': package.encoder, 'dall_e.utils': package.utils}


@pytest.mark.parametrize('zipped', [True, False])
def test_the_released_pickle_is_read_without_its_package(zipped, tmp_path, monkeypatch):
    torch.manual_seed(1)
    source = DALLEEncoder('random', **SMALL)
    module, modules = released_module(source.state_dict())
    for name, fake in modules.items():
        monkeypatch.setitem(sys.modules, name, fake)
    torch.save(module, tmp_path / 'encoder.pkl', _use_new_zipfile_serialization=zipped)
    for name in modules:
        monkeypatch.delitem(sys.modules, name)
    encoder = MODELS.build(dict(type='mmssl.DALLEEncoder', checkpoint=str(tmp_path / 'encoder.pkl'), **SMALL))
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(
        encoder.tokenize(pixels), source.tokenize(pixels)
    )  # read at the first use, or by init_weights
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in source.state_dict().items())
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'tensors.pth')
    assert read_dalle(str(tmp_path / 'tensors.pth')).keys() == source.state_dict().keys()
    other = DALLEEncoder(str(tmp_path / 'encoder.pkl'), num_tokens=13, n_hid=8)
    with pytest.raises(
        ValueError, match=r'not the encoder of DALL-E with 13 tokens: 2 tensors .*blocks\.output\.conv'
    ):
        other.init_weights()


class Trap:
    def __reduce__(self):
        return os.mkdir, (Trap.folder,)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    Trap.folder = str(tmp_path / 'trapped')
    torch.save(Trap(), tmp_path / 'encoder.pkl')
    with pytest.raises(UnsafeCheckpointError, match='nothing was run'):
        DALLEEncoder(str(tmp_path / 'encoder.pkl'), **SMALL).init_weights()
    with open(tmp_path / 'plain.pkl', 'wb') as file:
        pickle.dump(Trap(), file)
    with pytest.raises(ValueError, match=r'plain\.pkl'):
        DALLEEncoder(str(tmp_path / 'plain.pkl'), **SMALL).init_weights()
    assert not os.path.exists(Trap.folder)


# k-means


def test_tokens_are_the_nearest_centroids_of_normalised_patches():
    torch.manual_seed(0)
    tokenizer = KMeansTokenizer('random', num_tokens=9, patch_size=(2, 4)).double()
    pixels = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    pixels[0, :, :2, :4] = 0.5  # a flat patch
    expected = []
    for image in pixels:
        for top in (0, 2, 4):
            for left in (0, 4):
                values = [
                    image[c, top + y, left + x].item() for y in range(2) for x in range(4) for c in range(3)
                ]
                mean = sum(values) / 24
                spread = (sum((value - mean) ** 2 for value in values) / 24 + 1e-3) ** 0.5
                values = [(value - mean) / spread for value in values]
                distances = [
                    sum((a - b) ** 2 for a, b in zip(values, centroid, strict=True))
                    for centroid in tokenizer.centroids.tolist()
                ]
                expected.append(distances.index(min(distances)))
    assert tokenizer.tokenize(pixels).tolist() == expected
    assert tokenizer.tokenize(pixels, torch.tensor([1, 4, 11])).tolist() == [expected[n] for n in (1, 4, 11)]
    assert tokenizer(pixels).argmax(1).flatten().tolist() == expected
    bright = tokenizer.tokenize(pixels.double() * 0.5 + 0.3)
    assert (bright == torch.tensor(expected)).double().mean() > 0.8  # another light, mostly the same tokens


def distortion(samples, centroids):
    return torch.cdist(samples, centroids).min(1).values.square().mean().item()


def lookup(samples, centroids):
    return torch.cdist(samples, centroids).argmin(1)


def test_kmeans_finds_clusters_as_well_as_scikit_learn():
    cluster = pytest.importorskip('sklearn.cluster')
    samples = torch.randn(6000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2, 1, 1])
    kmeans = MiniBatchKMeans(20, lookup, seed=0)
    for part in samples.repeat(3, 1).split(200):
        kmeans.update(part)
    centroids, counts = kmeans.finish()
    reference = cluster.MiniBatchKMeans(
        20, batch_size=200, n_init=1, init='random', max_iter=3, random_state=0
    ).fit(samples.numpy())
    assert distortion(samples, centroids) < 1.05 * distortion(
        samples, torch.from_numpy(reference.cluster_centers_)
    )
    assert counts.sum() > 0 and torch.equal(counts, counts.sort(descending=True).values)
    again = MiniBatchKMeans(20, lookup, seed=0)
    for part in samples.repeat(3, 1).split(200):
        again.update(part)
    assert torch.equal(again.finish()[0], centroids)


def test_a_centroid_is_the_mean_of_what_came_to_it_and_moves_when_nothing_comes():
    samples = torch.tensor([[0.0, 0], [10, 10], [0, 1], [10, 11], [1, 0], [11, 10]])
    kmeans = MiniBatchKMeans(2, lookup, seed=1, patience=2)
    assert (
        kmeans.update(samples[:4]).isnan() and kmeans.centroids is None
    )  # waits for three samples a centroid
    kmeans.update(samples[4:])
    kmeans.centroids = torch.tensor([[0.0, 0], [50, 50]])
    kmeans.counts, kmeans.idle = torch.tensor([1, 1]), torch.tensor([0, 0])
    kmeans.update(torch.tensor([[3.0, 0], [0, 3]]))
    torch.testing.assert_close(kmeans.centroids, torch.tensor([[1.0, 1], [50, 50]]))
    for _ in range(2):
        kmeans.update(torch.tensor([[1.0, 1], [1, 1]]))
    assert kmeans.centroids[1].tolist() == [1, 1] and kmeans.counts[1] == 1


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Twelve images of stripes in four directions."""
    folder = tmp_path_factory.mktemp('photos')
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40]
    for n in range(12):
        wave = (
            np.sin((x, y, x + y, x - y)[n % 4] * 0.8 + n)[..., None] * 90
            + 128
            + generator.normal(0, 5, (40, 40, 3))
        )
        Image.fromarray(wave.clip(0, 255).astype(np.uint8)).save(folder / f'{n}.png')
    return folder


FIT = [
    '--tokens',
    '6',
    '--patch-size',
    '8',
    '--image-size',
    '32',
    '--images',
    '30',
    '--batch-size',
    '8',
    '--workers',
    '0',
]


def test_fit_writes_a_tokenizer_that_a_model_uses(photos, tmp_path, capsys):
    file = tmp_path / 'tokens.pth'
    assert main(['tokenizer', 'fit', '--data', str(photos), '--out', str(file), *FIT]) == 0
    assert '6 tokens of 8x8 pixels from 480 patches of 30 crops' in capsys.readouterr().out
    saved = load_file(file)
    assert saved['centroids'].shape == (6, 192) and saved['kept_contrast'] > 0.2
    tokenizer = MODELS.build(
        dict(type='mmssl.KMeansTokenizer', checkpoint=str(file), num_tokens=6, patch_size=8)
    )
    tokenizer.init_weights()
    assert torch.equal(tokenizer.centroids, saved['centroids'])
    pixels = torch.stack(
        [
            torch.from_numpy(np.array(Image.open(photos / f'{n}.png').crop((0, 0, 40, 40)))).permute(2, 0, 1)
            / 255
            for n in range(4)
        ]
    )
    counts = [tokenizer.tokenize(image[None]).bincount(minlength=6) for image in pixels]
    assert (
        sum(not torch.equal(counts[0], other) for other in counts[1:]) >= 2
    )  # directions have tokens of their own
    assert main(['tokenizer', 'fit', '--data', str(photos), '--out', str(tmp_path / 'again.pth'), *FIT]) == 0
    assert torch.equal(load_file(tmp_path / 'again.pth')['centroids'], saved['centroids'])
    assert (
        main(
            [
                'tokenizer',
                'fit',
                '--data',
                str(photos),
                '--out',
                str(tmp_path / 'other.pth'),
                *FIT,
                '--seed',
                '1',
            ]
        )
        == 0
    )
    assert not torch.equal(load_file(tmp_path / 'other.pth')['centroids'], saved['centroids'])
    assert main(['tokenizer', 'show', str(file), '--out', str(tmp_path / 'sheet.png')]) == 0
    assert np.asarray(Image.open(tmp_path / 'sheet.png')).std() > 5


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (['--tokens', '1'], '--tokens 1 must be at least 2'),
        (['--tokens', '600'], '30 images with 16 patches each are too few for 600'),
        (['--patch-size', '5'], 'image 32x32 does not divide into 5x5 patches'),
        (['--data', 'nowhere'], 'no such folder: nowhere'),
        (['--out', 'there.pth'], 'there.pth exists; --force replaces it'),
        (['--crop', '0', '1'], 'crop_ratio_range'),
    ],
)
def test_fit_refuses_what_cannot_be(change, message, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.pth').touch()
    assert main(['tokenizer', 'fit', '--data', str(photos), '--out', 'tokens.pth', *FIT, *change]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'tokens.pth').exists()


# files and errors


def test_a_missing_file_names_the_command_when_training_begins(tmp_path):
    tokenizer = dict(
        type='mmssl.KMeansTokenizer', checkpoint=str(tmp_path / 'no.pth'), num_tokens=4, patch_size=8
    )
    model = MODELS.build(
        dict(
            type='mmssl.BEiT',
            backbone=dict(type='mmssl.BEiTViT', arch='t', img_size=32, patch_size=8),
            tokenizer=tokenizer,
        )
    )
    with pytest.raises(
        FileNotFoundError, match=r'no tokenizer .*no\.pth; .*mmssl tokenizer fit --data DIR --out FILE\.pth'
    ):
        model.init_weights()
    with pytest.raises(FileNotFoundError, match='mmssl tokenizer fit'):
        model.loss(torch.randn(2, 3, 32, 32))
    with pytest.raises(FileNotFoundError, match=r'encoder\.pkl of DALL-E .*mmssl tokenizer fit'):
        DALLEEncoder(str(tmp_path / 'no.pkl'), **SMALL).init_weights()
    # the tokens of a training checkpoint need no file any more
    trained = KMeansTokenizer('random', 4, 8)
    tokenizer = KMeansTokenizer(str(tmp_path / 'no.pth'), 4, 8)
    tokenizer.load_state_dict(trained.state_dict())
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(tokenizer.tokenize(pixels), trained.tokenize(pixels))


def test_a_file_of_other_sizes_names_both(tmp_path):
    torch.save(dict(centroids=torch.randn(4, 192), patch_size=(8, 8), eps=1e-3), tmp_path / 'four.pth')
    with pytest.raises(
        ValueError,
        match=r'four\.pth has num_tokens=4, the config num_tokens=5; change the config, or fit again',
    ):
        KMeansTokenizer(str(tmp_path / 'four.pth'), 5, 8).init_weights()
    torch.save(dict(state_dict={}), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth is no file of mmssl tokenizer fit'):
        KMeansTokenizer(str(tmp_path / 'other.pth'), 5, 8).init_weights()


@pytest.mark.parametrize(
    ('arguments', 'message'), [((None,), 'checkpoint=None must name a file'), (('random', 1), 'num_tokens=1')]
)
def test_impossible_tokenizers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KMeansTokenizer(*arguments)
