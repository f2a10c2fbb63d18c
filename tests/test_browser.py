"A real browser shows an explorer in JupyterLab, and dragging its slider changes the picture."
import json, os, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
import pytest

webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed: pip install selenium')
from selenium.common.exceptions import (ElementClickInterceptedException, ElementNotInteractableException, StaleElementReferenceException,
                                        TimeoutException)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

BROWSER, DRIVER = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason='no chromium with chromedriver on this machine: apt-get install chromium chromium-driver')

CODE = """\
import numpy as np
from avcomp.viz.widgets import gate_explorer
p = np.linspace(1, 0, 5)[:, None] * np.ones((5, 8))
gate_explorer(dict(steps=range(0, 500, 100), p_open={f'encoder.layers.{i}.ffn': p**(i + 1) for i in range(3)}))"""

@pytest.fixture
def lab(tmp_path):
    "Address of a JupyterLab server whose folder holds one small notebook."
    cell = dict(cell_type='code', id='a1', metadata={}, source=CODE, execution_count=None, outputs=[])
    kernel = dict(name='python3', display_name='python3', language='python')
    folder = tmp_path/'notebooks'
    folder.mkdir()
    (folder/'explorer.ipynb').write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    root = str(Path(__file__).parents[1])
    env = os.environ | {f'JUPYTER_{k}_DIR': str(tmp_path/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    env |= dict(JUPYTERLAB_SETTINGS_DIR=str(tmp_path/'settings'), JUPYTERLAB_WORKSPACES_DIR=str(tmp_path/'workspaces'), IPYTHONDIR=str(tmp_path/'ipython'),
                PYTHONPATH=os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH')))))
    args = ['--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=', '--ServerApp.password=',
            f'--ServerApp.root_dir={folder}', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    with open(tmp_path/'lab.log', 'w') as log: server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *args], stdout=log, stderr=log, env=env)
    address = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            assert server.poll() is None, (tmp_path/'lab.log').read_text()
            try: urllib.request.urlopen(f'{address}/api', timeout=5); break
            except (urllib.error.URLError, OSError): time.sleep(0.5)
        else: pytest.fail('JupyterLab did not answer within a minute:\n' + (tmp_path/'lab.log').read_text())
        yield address
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill(); server.wait()

@pytest.fixture
def page(tmp_path):
    "A headless browser."
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for arg in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--window-size=1300,1000', f'--user-data-dir={tmp_path/"profile"}'): options.add_argument(arg)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()

PICTURE = """const [img, done] = [document.querySelector('.jp-OutputArea img.widget-image'), arguments[0]];
if (!img || !img.naturalWidth) return done(null);
fetch(img.src).then(r => r.arrayBuffer()).then(b => done([img.naturalWidth, img.clientWidth, btoa(String.fromCharCode(...new Uint8Array(b)))]), () => done(null))"""

def picture(page):
    "Width of the shown picture in the file and on the screen, and its bytes; None while it loads."
    return page.execute_async_script(PICTURE)

def run_cell(page):
    "Run the first cell and give its picture some time; None if the page was redrawn meanwhile and swallowed the keys."
    page.find_element(By.CSS_SELECTOR, '.jp-Notebook .jp-CodeCell .cm-content').click()
    webdriver.ActionChains(page).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
    try: return WebDriverWait(page, 20).until(picture)
    except TimeoutException: return None

def test_slider_moves_the_picture(lab, page, tmp_path):
    wait = WebDriverWait(page, 90, ignored_exceptions=(StaleElementReferenceException, ElementNotInteractableException, ElementClickInterceptedException))
    page.get(f'{lab}/lab/tree/explorer.ipynb')
    wait.until(lambda d: d.find_element(By.CSS_SELECTOR, '.jp-Notebook-ExecutionIndicator').get_attribute('data-status') == 'idle')
    width, shown, before = wait.until(run_cell)
    assert width > 400 and shown <= width    # a real picture, not blown up to the width of the page
    assert wait.until(lambda d: d.find_element(By.CSS_SELECTOR, '.jp-OutputArea .noUi-handle').is_displayed())
    assert len(page.find_elements(By.CSS_SELECTOR, '.jp-OutputArea select')) == 2    # unit and layer

    def press(key): return wait.until(lambda d: d.find_element(By.CSS_SELECTOR, '.jp-OutputArea .noUi-handle').send_keys(key) or True)
    page.save_screenshot(str(tmp_path/'before.png'))
    press(Keys.ARROW_RIGHT)
    wait.until(lambda d: (now := picture(d)) and now[2] != before)
    page.save_screenshot(str(tmp_path/'after.png'))
    press(Keys.ARROW_LEFT)
    wait.until(lambda d: (now := picture(d)) and now[2] == before)
