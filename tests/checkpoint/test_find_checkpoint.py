"""The checkpoint to resume from: the named one, or the newest that is whole."""

import os

from mmengine.logging import MMLogger

from mmssl.checkpoint import find_resume_checkpoint, save_file


def test_find_resume_checkpoint(tmp_path, capsys):
    MMLogger.get_instance('find')  # the one that 'current' means
    assert find_resume_checkpoint(tmp_path) is None
    state = dict(meta=dict(iter=1), optimizer={}, state_dict={})
    for step in (1, 2, 3):
        save_file(state, tmp_path / f'iter_{step}.pth')
        os.utime(tmp_path / f'iter_{step}.pth', (step, step))
    save_file(
        dict(meta=dict(iter=9), state_dict={}), tmp_path / 'best_acc_iter_9.pth'
    )  # nothing to resume from
    note = tmp_path / 'last_checkpoint'
    for named in ('iter_2.pth', '/another/machine/run/iter_2.pth', r'C:\runs\iter_2.pth'):
        note.write_text(named)
        assert find_resume_checkpoint(tmp_path) == tmp_path / 'iter_2.pth'
    note.write_text('iter_3.pth')
    (tmp_path / 'iter_3.pth').write_bytes((tmp_path / 'iter_3.pth').read_bytes()[:300])
    capsys.readouterr()
    assert find_resume_checkpoint(tmp_path) == tmp_path / 'iter_2.pth'
    assert ''.join(capsys.readouterr()).count('going on from iter_2.pth') == 1
    note.unlink()
    assert find_resume_checkpoint(tmp_path) == tmp_path / 'iter_2.pth'
