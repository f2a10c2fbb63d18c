"Every notebook runs from top to bottom, in a process of its own; recipes have tests of their own."
import sys
import pytest
from readme import root
from warm import Fork

ALL = [p for p in (root/'nbs').rglob('*.ipynb') if p.parent.name != 'recipes']
NOTEBOOKS = sorted(ALL, key=lambda p: (p.parent.name != 'train', p))   # those that train take longest

def run_notebook(path):
    "What `nbdev_test --path` does; ends the process with 1 where a cell fails."
    from nbdev.config import get_config
    from nbdev.test import test_nb
    passed, _ = test_nb(path, skip_flags=get_config().tst_flags.split(), basepath=root)
    sys.exit(not passed)

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(root/'nbs').as_posix())
def test_notebook(path, tmp_path):
    log = tmp_path/'said.txt'
    assert Fork(run_notebook, path, cwd=root/'nbs', log=log).wait() == 0, log.read_text(errors='replace')
