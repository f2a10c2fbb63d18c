"""The order of the tests: those that take longest come first in either half.

pytest-xdist gives each of two processes one half, and then what is left of the other's: neither ends alone with one."""

LONG = {   # module -> half
    'test_recipes': 0,
    'test_documented': 0,
    'test_multiprocess': 1,
    'test_resume': 1,
    'test_grid': 1,
    'test_toys': 1,
    'test_notebooks': 1,
}

def pytest_collection_modifyitems(items):
    long = [[i for i in items if LONG.get(i.module.__name__) == half] for half in (0, 1)]
    short = [i for i in items if i.module.__name__ not in LONG]
    first = max(0, len(items)//2 - len(long[0]))   # short ones of the first half
    items[:] = long[0] + short[:first] + long[1] + short[first:]
