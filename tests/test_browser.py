"A real browser shows an explorer in JupyterLab, and dragging its slider changes the picture."
import json, os, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
import pytest
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException, TimeoutException)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')

@pytest.fixture
def browser():
    "Nothing where there is a browser with its driver; else the test is skipped, and under CI it fails."
    missing = 'no chromium with chromedriver on this machine: apt-get install chromium chromium-driver'
    if BROWSER and DRIVER: return
    if os.environ.get('CI'): pytest.fail(f'{missing}; under CI nothing is skipped')
    pytest.skip(missing)

CODE = """\
import numpy as np
from avcomp.viz.widgets import record_explorer
p = np.linspace(1, 0, 5)[:, None] * np.ones((5, 8))
rows = {f'encoder.layers.{i}.ffn': p**(i + 1) for i in range(3)}
record_explorer({'p_open': dict(steps=range(0, 500, 100), rows=rows)})"""

def notebook(code):
    "A notebook of one cell, as JSON."
    cell = dict(cell_type='code', id='a1', metadata={}, source=code, execution_count=None, outputs=[])
    kernel = dict(name='python3', display_name='python3', language='python')
    return dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def lab_options(folder, port):
    "No browser, no password, no look for updates."
    return ['--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
            '--IdentityProvider.token=', '--ServerApp.password=', f'--ServerApp.root_dir={folder}',
            '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']

def lab_environment(home):
    "Settings of Jupyter lie in `home`, and avcomp is found."
    root = str(Path(__file__).parents[1])
    own = {f'JUPYTER_{k}_DIR': str(home/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    own |= {f'JUPYTERLAB_{k}_DIR': str(home/k.lower()) for k in ('SETTINGS', 'WORKSPACES')}
    own |= dict(IPYTHONDIR=str(home/'ipython'))
    own |= dict(PYTHONPATH=os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH')))))
    return os.environ | own

def wait_for(address, server, log):
    "Return when JupyterLab answers; fail when it ended, or after a minute."
    for _ in range(120):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f'{address}/api', timeout=5)
            return
        except (urllib.error.URLError, OSError): time.sleep(0.5)
    pytest.fail('JupyterLab did not answer within a minute:\n' + log.read_text())

@pytest.fixture
def lab(tmp_path):
    "Address of a JupyterLab server whose folder holds one small notebook."
    folder = tmp_path/'notebooks'
    folder.mkdir()
    (folder/'explorer.ipynb').write_text(json.dumps(notebook(CODE)))
    port = free_port()
    address = f'http://127.0.0.1:{port}'
    with open(tmp_path/'lab.log', 'w') as log:
        command = [sys.executable, '-m', 'jupyterlab', *lab_options(folder, port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=lab_environment(tmp_path))
    try:
        wait_for(address, server, tmp_path/'lab.log')
        yield address
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

@pytest.fixture
def page(tmp_path):
    "A headless browser."
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for arg in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'disable-gpu', 'window-size=1300,1000',
                f'user-data-dir={tmp_path/"profile"}'): options.add_argument(f'--{arg}')
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()

PICTURE = """const [img, done] = [document.querySelector('.jp-OutputArea img.widget-image'), arguments[0]];
if (!img || !img.naturalWidth) return done(null);
const text = bytes => btoa(String.fromCharCode(...new Uint8Array(bytes)));
fetch(img.src).then(r => r.arrayBuffer())
    .then(b => done([img.naturalWidth, img.clientWidth, text(b)]), () => done(null))"""

def picture(page):
    "Width of the shown picture in the file and on the screen, and its bytes; None while it loads."
    return page.execute_async_script(PICTURE)

def run_cell(page):
    "Run the first cell and give its picture some time; None if the page was redrawn meanwhile and swallowed the keys."
    page.find_element(By.CSS_SELECTOR, '.jp-Notebook .jp-CodeCell .cm-content').click()
    webdriver.ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    try: return WebDriverWait(page, 20).until(picture)
    except TimeoutException: return None

def test_slider_moves_the_picture(browser, lab, page, tmp_path):
    busy = StaleElementReferenceException, ElementNotInteractableException, ElementClickInterceptedException
    wait = WebDriverWait(page, 90, ignored_exceptions=busy)
    def find(selector): return page.find_element(By.CSS_SELECTOR, selector)
    page.get(f'{lab}/lab/tree/explorer.ipynb')
    wait.until(lambda _: find('.jp-Notebook-ExecutionIndicator').get_attribute('data-status') == 'idle')
    width, shown, before = wait.until(run_cell)
    assert width > 400 and shown <= width    # a real picture, not blown up to the width of the page
    assert wait.until(lambda _: find('.jp-OutputArea .noUi-handle').is_displayed())
    assert len(page.find_elements(By.CSS_SELECTOR, '.jp-OutputArea select')) == 2    # unit and layer

    def press(key): return wait.until(lambda _: find('.jp-OutputArea .noUi-handle').send_keys(key) or True)
    page.save_screenshot(str(tmp_path/'before.png'))
    press(Keys.ARROW_RIGHT)
    wait.until(lambda d: (now := picture(d)) and now[2] != before)
    page.save_screenshot(str(tmp_path/'after.png'))
    press(Keys.ARROW_LEFT)
    wait.until(lambda d: (now := picture(d)) and now[2] == before)

@pytest.mark.parametrize('ci, outcome', [('', '1 skipped'), ('true', '1 error')])
def test_missing_browser_is_noticed(tmp_path, ci, outcome):
    "On a machine without a browser the test above is skipped, and under CI it is not."
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__, '-k', 'moves']
    res = subprocess.run(command, capture_output=True, text=True, env=os.environ | {'CI': ci, 'PATH': str(tmp_path)})
    assert outcome in res.stdout, res.stdout + res.stderr
    assert bool(res.returncode) == bool(ci)
