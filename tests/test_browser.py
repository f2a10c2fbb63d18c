"Every explorer of the package in JupyterLab, each of its controls moved by a real browser."
import os
import pytest
from selenium.common.exceptions import TimeoutException
from explorers import PAGE, names_of_explorers
from lab import BROWSER, DRIVER, Explorer, chromium, jupyterlab, run_page

def need_browser(browser, driver, ci):
    "Nothing where there is a browser with its driver; else the test is skipped, and under CI it fails."
    missing = 'no chromium with chromedriver on this machine: apt-get install chromium chromium-driver'
    if browser and driver: return
    if ci: pytest.fail(f'{missing}; under CI nothing is skipped')
    pytest.skip(missing)

def test_every_explorer_has_a_row():
    assert sorted(PAGE) == names_of_explorers(), "show it on PAGE of tests/explorers.py, on a few made-up numbers"

def flaws(explorer):
    "What is wrong with an explorer as it comes, and when each of its controls has been moved."
    found = explorer.flaws()
    for number in range(len(explorer.controls())):
        try: explorer.move(number)
        except (ValueError, TimeoutException) as e: found.append(str(e))
    return found + explorer.flaws()

def forth_and_back(explorer):
    "Menu and slider reach Python with the values that they show, by keys and by the mouse, and back."
    first = explorer.look()
    assert first[1] == 'share 0.5, matrix 1'
    for number, said in enumerate(('share 0.5, matrix 2', 'share 0.6, matrix 2')):
        explorer.move(number)
        assert explorer.look()[1] == said
    for number in (0, 1): explorer.move(number, back=True)
    assert explorer.look() == first
    explorer.drag(1, 30)
    assert 'share 0.5' not in explorer.look()[1]

def test_every_control_moves_its_picture(tmp_path):
    need_browser(BROWSER, DRIVER, os.environ.get('CI'))
    cells = ['from explorers import PAGE', *(f'PAGE[{name!r}]()' for name in PAGE)]
    with jupyterlab(tmp_path, cells) as address, chromium(tmp_path) as page:
        found, areas = {}, run_page(page, address)
        forth_and_back(Explorer(page, areas[list(PAGE).index('explorer')]))
        for name, area in zip(PAGE, areas, strict=True):
            explorer = Explorer(page, area)
            if wrong := flaws(explorer):
                found[name] = wrong
                explorer.photograph(tmp_path/f'{name}.png')
        thrown = [entry['message'] for entry in page.get_log('browser') if entry['source'] == 'javascript']
    assert (found, thrown) == ({}, [])

def test_missing_browser_is_noticed():
    "On a machine without a browser the test above is skipped, and under CI it is not."
    need_browser('chromium', 'chromedriver', 'true')
    with pytest.raises(pytest.skip.Exception, match='apt-get install chromium'): need_browser(None, 'driver', None)
    with pytest.raises(pytest.fail.Exception, match='nothing is skipped'): need_browser('chromium', None, 'true')
