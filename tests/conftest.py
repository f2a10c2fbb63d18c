"""The order of the tests: those that take longest come first, in parts that share what they make.

pytest-xdist gives each of its processes a part, and then what is left of the others': none ends alone. Its processes
are forked from a server that has imported what they need."""
import shlex
import pytest
from warm import CLIENT, server

PARTS = (   # modules of long tests
    ('test_repository', 'test_recipes'),
    ('test_notebooks',),
    ('test_browser', 'test_documented', 'test_multiprocess', 'test_resume', 'test_grid', 'test_toys'),
)

def pytest_collection_modifyitems(config, items):
    processes = getattr(config, 'workerinput', {}).get('workercount', 1)
    parts = [[] for _ in range(processes)]
    for i, modules in enumerate(PARTS):
        parts[i % processes] += [t for name in modules for t in items if t.module.__name__ == name]
    long = {t for part in parts for t in part}
    short = [t for t in items if t not in long]
    for i, part in enumerate(parts):   # of equal lengths: pytest-xdist divides the list by numbers
        room = max(0, len(items)*(i + 1)//processes - len(items)*i//processes - len(part))
        part += short[:room]
        del short[:room]
    items[:] = sum(parts, [])

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs):
    server()
    for spec in specs:
        if spec.popen: spec.python = shlex.join([*CLIENT, ''])
