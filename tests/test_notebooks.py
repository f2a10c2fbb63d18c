"Every notebook runs from top to bottom, in a process of its own; recipes have tests of their own."
import pytest
from notebook_run import run_notebook
from readme import root
from warm import Fork

ALL = [p for p in (root/'nbs').rglob('*.ipynb') if p.parent.name != 'recipes']
NOTEBOOKS = sorted(ALL, key=lambda p: (p.parent.name != 'train', p))   # those that train take longest

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(root/'nbs').as_posix())
def test_notebook(path, tmp_path):
    log = tmp_path/'said.txt'
    assert Fork(run_notebook, path, cwd=root/'nbs', log=log).wait() == 0, log.read_text(errors='replace')
