"The order of the tests: those that take longest come first, so that no process is left alone with one at the end."

LONG = ('test_recipes', 'test_multiprocess', 'test_resume', 'test_grid', 'test_toys')   # modules

def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.module.__name__, len(LONG)))
