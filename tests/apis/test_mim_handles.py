"""What onedl-mim needs of the package: metafiles that are complete, and a RECORD that leads to it."""

import importlib.metadata
from collections import Counter

import pytest
import yaml

from mmssl.cli import main
from mmssl.config.catalogue import alias_target
from mmssl.hosts import mim

# as pip writes it: sorted
RECORD = [
    '../../../bin/tool,sha256=x,220\n',
    'tool-1.0.dist-info/METADATA,sha256=x,1\n',
    'tool-1.0.dist-info/RECORD,,\n',
    'tool/.mim/model-index.yml,sha256=x,1\n',
    'tool/__init__.py,sha256=x,1\n',
]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution in a folder on the path."""
    info = tmp_path / 'tool-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: tool\nVersion: 1.0\n')
    (info / 'RECORD').write_text(''.join(RECORD))
    for name in ('tool/.mim/model-index.yml', 'tool/__init__.py'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    return info / 'RECORD'


def folder_for_mim(name):
    """The rule of onedl-mim 0.5.1 (``mim.utils.get_installed_path``)."""
    distribution = importlib.metadata.distribution(name)
    return distribution.locate_file('.') / str(distribution.files[0]).split('/')[0]


def test_mim_finds_the_package_when_its_files_come_first(installed):
    assert not mim.finds_package('tool') and not (folder_for_mim('tool') / '.mim').exists()
    assert mim.put_package_first('tool') == installed
    assert mim.finds_package('tool') and (folder_for_mim('tool') / '.mim/model-index.yml').is_file()
    assert installed.read_text() == ''.join(RECORD[3:] + RECORD[:3])  # nothing is added or lost
    assert mim.put_package_first('tool') is None


def test_what_is_not_installed_from_a_wheel_is_told(monkeypatch, capsys):
    assert mim.record_of('no-such-distribution') is None and not mim.finds_package('no-such-distribution')
    monkeypatch.setattr(mim, 'record_of', lambda name: None)
    assert main(['doctor', '--mim']) == 1
    assert (
        'mmssl is not installed from a wheel; in a clone mim takes the path of a config'
        in capsys.readouterr().err
    )


def test_weights_are_where_mim_download_looks(tmp_path):
    copied = mim.copy_weights(tmp_path)
    assert [path.name for path in copied] == sorted(
        path.name for path in (mim.PACKAGE / 'weights').glob('*.safetensors')
    )
    assert copied and all(
        path.read_bytes() == (mim.PACKAGE / 'weights' / path.name).read_bytes() for path in copied
    )
    assert mim.copy_weights(tmp_path) == [] and not list(tmp_path.glob('.*'))
    copied[0].write_bytes(b'damaged')
    assert mim.copy_weights(tmp_path) == copied[:1]


def test_metafiles_are_complete(repo_root):
    names, configs = Counter(), Counter()
    for path in sorted((repo_root / 'configs').rglob('metafile.yml')):
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        collections = {collection['Name']: collection for collection in content['Collections']}
        for collection in collections.values():
            assert collection['Paper']['Title'] and collection['Paper']['URL'].startswith('https://'), path
            assert (repo_root / collection['README']).is_file(), path
        for entry in content['Models']:
            names[entry['Name']] += 1
            configs[entry['Config']] += 1
            facts = entry['Metadata']
            assert entry['In Collection'] in collections and (repo_root / entry['Config']).is_file(), entry[
                'Name'
            ]
            assert (
                isinstance(facts['Parameters'], int) and facts['Training Data'] and facts['Batch Size'] > 0
            ), entry['Name']
            assert ('Epochs' in facts) != ('Iterations' in facts), entry['Name']
            # a result, or the admission that there is none; weights are files that can be fetched
            assert 'Results' in entry and (entry['Results'] is None or entry['Results'][0]['Metrics']), entry[
                'Name'
            ]
            weights = entry.get('Weights', 'https://')
            assert weights.startswith('https://') or (repo_root / weights).is_file(), entry['Name']
    assert max(names.values()) == max(configs.values()) == 1
    without = {'smoke', 'tutorial', '_base_'}
    assert set(configs) >= {
        path.relative_to(repo_root).as_posix()
        for path in (repo_root / 'configs').rglob('*.py')
        if not without & set(path.parts) and alias_target(path) is None
    }
