"""The page about the families of self-supervision links the page of every folder of configs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_folder_of_configs_is_linked():
    text = (ROOT / 'docs/systems/families.md').read_text(encoding='utf-8')
    folders = {path.parent.name for path in (ROOT / 'configs').glob('*/*.py')} - {'_base_', 'smoke'}
    assert [name for name in sorted(folders) if f'(../configs/{name}.md)' not in text] == []
