"""``mmssl embedding``: positions of known features, points and legend of the figure, wrong arguments."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.cli import main

pytest.importorskip('sklearn')
pytest.importorskip('matplotlib')
from mmssl.visualization.embedding import METHODS, check_method, embed, scatter

CONFIG = 'configs/smoke/mae.py'
COLOURS = {'red': (220, 40, 40), 'green': (40, 200, 40), 'blue': (40, 40, 220)}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Three classes of one colour each, grey noise on top."""
    root = tmp_path_factory.mktemp('colours ü')
    generator = np.random.default_rng(0)
    for split, count in (('train', 3), ('val', 8)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.array(colour) + generator.integers(-20, 21, (48, 48, 1))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                    root / split / name / f'{number}.png'
                )
    return root


def clusters(count=20, width=16):
    """Three bundles of directions, of all lengths."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(3, width, generator=generator)
    labels = torch.arange(3).repeat_interleave(count)
    bundles = axes[labels] + 0.1 * torch.randn(3 * count, width, generator=generator)
    return bundles * (1 + torch.rand(3 * count, 1, generator=generator)), labels


def apart(points, labels):
    """Smallest distance between the classes' centres over the largest distance of a point from its own."""
    points = torch.as_tensor(points)
    centres = torch.stack([points[labels == label].mean(0) for label in labels.unique()])
    spread = max(
        (points[labels == label] - centre).norm(dim=1).max()
        for label, centre in zip(labels.unique(), centres, strict=True)
    )
    return float(torch.pdist(centres).min() / spread)


@pytest.mark.parametrize('method', ['tsne', 'pca'])
def test_bundles_of_directions_come_apart(method):
    features, labels = clusters()
    points = embed(features, method, seed=3)
    assert points.shape == (60, 2) and points.dtype == np.float32 and np.isfinite(points).all()
    assert apart(points, labels) > 2
    assert np.array_equal(points, embed(features, method, seed=3))
    # lengths do not matter
    assert np.allclose(
        embed(features * torch.linspace(1, 9, 60)[:, None], 'pca'), embed(features, 'pca'), atol=1e-6
    )


def test_principal_components_are_scikit_learns():
    from sklearn.decomposition import PCA

    features = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    expected = PCA(2).fit_transform(torch.nn.functional.normalize(features).numpy())
    assert np.abs(np.abs(embed(features, 'pca')) - np.abs(expected)).max() < 1e-5
    one = embed(torch.tensor([[1.0], [2.0], [-1.0], [-2.0]]), 'pca')
    assert one[:, 1].tolist() == [0] * 4 and sorted(one[:, 0].tolist()) == [-1, -1, 1, 1]


def test_few_images_lower_the_perplexity():
    assert embed(torch.eye(4), 'tsne').shape == (4, 2)
    with pytest.raises(ValueError, match='3 images are too few'):
        embed(torch.eye(3))
    with pytest.raises(ValueError, match='not finite'):
        embed(torch.full((5, 2), torch.nan))


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    from mmssl.visualization import embedding

    original = embedding.find_spec
    monkeypatch.setattr(
        embedding, 'find_spec', lambda name: None if name in ('umap', 'matplotlib') else original(name)
    )
    with pytest.raises(ImportError, match='pip install umap-learn'):
        check_method('umap')
    with pytest.raises(ImportError, match='pip install matplotlib'):
        check_method('tsne')
    with pytest.raises(ValueError, match="'tsnee' is unknown; one of tsne, umap, pca"):
        check_method('tsnee')


def test_umap_gets_its_settings(monkeypatch):
    calls = []

    class UMAP:
        def __init__(self, **settings):
            calls.append(settings)

        def fit_transform(self, points):
            calls.append(np.linalg.norm(points, axis=1))
            return points[:, :2].astype(float)

    monkeypatch.setitem(sys.modules, 'umap', type(sys)('umap'))
    sys.modules['umap'].UMAP = UMAP
    sys.modules['umap'].__spec__ = sys.__spec__
    points = embed(clusters()[0], 'umap', seed=7)
    assert (
        calls[0] == dict(n_neighbors=15, random_state=7, n_jobs=1)
        and np.allclose(calls[1], 1)
        and points.dtype == np.float32
    )


def test_points_colours_and_legend():
    generator = np.random.default_rng(0)
    points, labels = generator.normal(size=(120, 2)), np.arange(120) % 12 + 1
    names = [f'class {number}' for number in range(20)]
    figure = scatter(points, labels, names, 'a title')
    (axes,) = figure.axes
    assert axes.get_title() == 'a title' and len(axes.collections) == 12
    looks = set()
    for label, drawn in zip(range(1, 13), axes.collections, strict=True):
        assert (
            np.array_equal(drawn.get_offsets(), points[labels == label]) and drawn.get_label() == names[label]
        )
        looks.add((tuple(drawn.get_facecolor()[0]), len(drawn.get_paths()[0].vertices)))
    assert len(looks) == 12
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names[1:13]
    long = scatter(points, labels, names, 'config-of-a-long-name_' * 8 + ' epoch_100.pth')
    long.canvas.draw()
    assert long.axes[0].title.get_window_extent().x0 >= 0
    assert long.axes[0].title.get_window_extent().x1 <= long.legends[0].get_window_extent().x0
    many = scatter(generator.normal(size=(70, 2)), np.arange(70), [str(number) for number in range(70)])
    assert (
        not many.legends
        and len({tuple(drawn.get_facecolor()[0]) for drawn in many.axes[0].collections}) == 70
    )


def run(*arguments):
    return main(['embedding', *map(str, arguments)])


@pytest.mark.parametrize('method', ['tsne', 'pca'])
def test_the_command_draws_the_classes(repo_root, images, tmp_path, capsys, method):
    arguments = [repo_root / CONFIG, 'random', '--data', images, '--workers', 0, '--method', method]
    out = tmp_path / 'new' / 'picture.png'
    assert run(*arguments, '--out', out) == 0
    assert f'{out}: {METHODS[method][0]} of 24 images of 3 classes' in capsys.readouterr().out
    picture = np.asarray(Image.open(out).convert('RGB')).astype(int)
    assert picture.shape[0] > 700 and picture.shape[1] > 900
    import matplotlib

    for colour in matplotlib.colormaps['tab10'].colors[:3]:
        blended = np.array(colour) * 255 * 0.8 + 255 * 0.2
        assert (np.abs(picture - blended).max(axis=2) < 8).sum() > 60, (
            'every class has its points and its place in the legend'
        )
    assert run(*arguments, '--out', tmp_path / 'again.png') == 0
    assert (np.asarray(Image.open(tmp_path / 'again.png').convert('RGB')) == picture).all()


def test_the_command_takes_a_part(repo_root, images, tmp_path, capsys):
    arguments = [
        repo_root / CONFIG,
        'random',
        '--data',
        images,
        '--workers',
        0,
        '--method',
        'pca',
        '--out',
        tmp_path / 'a.svg',
    ]
    assert run(*arguments, '--split', 'train', '--classes', 'red', 'blue') == 0
    assert 'of 6 images of 2 classes' in capsys.readouterr().out
    text = (tmp_path / 'a.svg').read_text()
    assert '<!-- red -->' in text and '<!-- blue -->' in text and '<!-- green -->' not in text
    assert run(*arguments, '--max-images', 9) == 0
    assert 'of 9 images of 3 classes' in capsys.readouterr().out


def test_what_cannot_be_drawn_is_refused(repo_root, images, tmp_path, capsys, monkeypatch):
    def refused(*extra, checkpoint='random', out='x.png'):
        assert (
            run(
                repo_root / CONFIG,
                checkpoint,
                '--data',
                images,
                '--workers',
                0,
                '--out',
                tmp_path / out,
                *extra,
            )
            == 1
        )
        assert not (tmp_path / 'x.png').exists()
        return capsys.readouterr().err

    assert "no class 'rad'; did you mean 'red'" in refused('--classes', 'rad')
    assert 'give a name that ends in .png' in refused(out='x.pth')
    assert '--max-images 3 must be at least 4' in refused('--max-images', 3)
    assert '--perplexity 1.0 must be at least 2' in refused('--perplexity', 1)
    assert "no checkpoint 'none.pth'" in refused(checkpoint='none.pth')
    from importlib import util

    original = util.find_spec
    monkeypatch.setattr(
        util, 'find_spec', lambda name, *rest: None if name == 'umap' else original(name, *rest)
    )
    assert 'pip install umap-learn' in refused('--method', 'umap')
