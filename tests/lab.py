"JupyterLab with one notebook, a real browser in front of it, and the hand of a user on the explorers there."
import json, os, shutil, subprocess, time, urllib.error, urllib.request
from contextlib import contextmanager
from pathlib import Path
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from warm import free_port, warm_python

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')
SETTINGS = {   # of JupyterLab: cells out of sight are there, and nothing is asked
    '@jupyterlab/notebook-extension/tracker': {'windowingMode': 'none'},
    '@jupyterlab/apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False},
}

def notebook(sources):
    "A notebook, as JSON."
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=source, execution_count=None, outputs=[])
             for i, source in enumerate(sources)]
    kernel = dict(name='python3', display_name='python3', language='python')
    return dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)

def options(folder, port):
    "No browser, no password, no look for updates; the page tells a script its application."
    return ['--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
            '--IdentityProvider.token=', '--ServerApp.password=', f'--ServerApp.root_dir={folder}',
            '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate', '--expose-app-in-browser']

def environment(home):
    "Settings of Jupyter lie in `home`; avcomp and the modules beside this one are found."
    tests = Path(__file__).parent
    own = {f'JUPYTER_{k}_DIR': str(home/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    own |= {f'JUPYTERLAB_{k}_DIR': str(home/k.lower()) for k in ('SETTINGS', 'WORKSPACES')}
    own |= dict(IPYTHONDIR=str(home/'ipython'))
    paths = str(tests.parent), str(tests), os.environ.get('PYTHONPATH')
    return os.environ | own | dict(PYTHONPATH=os.pathsep.join(filter(None, paths)))

def wait_for(address, server, log):
    "Return when JupyterLab answers; fail when it ended, or after a minute."
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f'{address}/api', timeout=5)
            return
        except (urllib.error.URLError, OSError): time.sleep(0.1)
    raise TimeoutError('JupyterLab did not answer within a minute:\n' + log.read_text())

@contextmanager
def jupyterlab(home, sources):
    "Address of a JupyterLab server whose folder holds one notebook, page.ipynb."
    folder = home/'notebooks'
    folder.mkdir()
    (folder/'page.ipynb').write_text(json.dumps(notebook(sources)))
    for name, setting in SETTINGS.items():
        path = home/'settings'/f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(setting))
    port = free_port()
    address = f'http://127.0.0.1:{port}'
    with open(home/'lab.log', 'w') as log:
        command = [warm_python(), '-m', 'jupyterlab', *options(folder, port)]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment(home))
    try:
        wait_for(address, server, home/'lab.log')
        yield address
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

@contextmanager
def chromium(home, width=1300, height=1700):
    "A headless browser."
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for arg in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'disable-gpu', f'window-size={width},{height}',
                f'user-data-dir={home/"profile"}'): options.add_argument(f'--{arg}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try: yield driver
    finally: driver.quit()

IDLE = """const session = window.jupyterapp?.shell?.currentWidget?.sessionContext;
return !!session?.isReady && !session.hasNoKernel && session.session.kernel.status == 'idle'"""
RUN = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
DONE = """return [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].map(cell =>
    cell.querySelector('img.widget-image')?.naturalWidth > 0 || !!cell.querySelector('[data-mime-type*=".error"]'))"""

def run_page(page, address, patience=180):
    "Open page.ipynb and run all its cells; the output areas of all but the first, when each has its picture or error."
    wait = WebDriverWait(page, patience, 0.1)
    page.get(f'{address}/lab/tree/page.ipynb')
    wait.until(lambda _: page.execute_script(IDLE))
    page.execute_script(RUN)
    wait.until(lambda _: all(page.execute_script(DONE)[1:]))
    return page.find_elements(By.CSS_SELECTOR, '.jp-Notebook .jp-CodeCell .jp-Cell-outputArea')[1:]

LOOK = """const [area, done] = arguments, image = area.querySelector('img.widget-image');
const text = [...area.querySelectorAll('.widget-html-content')].map(e => e.innerText).join();
const words = bytes => btoa(String.fromCharCode(...new Uint8Array(bytes)));
fetch(image.src).then(answer => answer.arrayBuffer()).then(bytes => crypto.subtle.digest('SHA-256', bytes))
    .then(hash => done([words(hash), text]), () => done(null))"""
FLAWS = """const area = arguments[0], found = [], all = names => [...area.querySelectorAll(names)];
const context = document.createElement('canvas').getContext('2d');
for (const e of all('.widget-label, .widget-readout'))
    if (e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight) found.push(`cut: ${e.innerText}`);
for (const e of all('select')) {
    const style = getComputedStyle(e), arrow = e.multiple ? 0 : 20;
    context.font = `${style.fontSize} ${style.fontFamily}`;
    for (const o of e.options)
        if (context.measureText(o.text).width + arrow > e.clientWidth) found.push(`cut: ${o.text}`);
}
for (const e of [area, ...all('.widget-box, .jp-OutputArea-output')])
    if (e.scrollWidth > e.clientWidth) found.push(`scrolls from side to side: ${e.className}`);
for (const e of all('[data-mime-type*="error"], [data-mime-type*="stderr"]')) found.push(e.innerText);
const images = all('img'), [image] = images;
if (images.length != 1) found.push(`${images.length} pictures`);
else if (image.naturalWidth < 300 || image.clientWidth > image.naturalWidth)
    found.push(`${image.naturalWidth} pixels are shown on ${image.clientWidth}`);
return found"""
CONTROLS = ', '.join(f'.widget-vbox > .widget-{kind}' for kind in ('dropdown', 'select-multiple', 'slider'))

class Explorer:
    "An explorer on the page, as a user has it before the eyes and at hand."
    def __init__(self, page, area, patience=20):
        self.page, self.area, self.wait = page, area, WebDriverWait(page, patience, 0.05)
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)

    def look(self):
        "What the picture is, and the text below it."
        return self.wait.until(lambda _: self.page.execute_async_script(LOOK, self.area))

    def changed(self, before, message):
        "Wait until picture or text are others, and the kernel has sent both."
        self.wait.until(lambda _: self.look() != before and self.page.execute_script(IDLE), message)

    def flaws(self):
        "What is cut, wider than the page, said as an error, or there twice."
        return self.page.execute_script(FLAWS, self.area)

    def controls(self): return self.area.find_elements(By.CSS_SELECTOR, CONTROLS)

    def move(self, number, back=False):
        "Move one control by a step, as a hand does, and wait until picture or text are others."
        before, control = self.look(), self.controls()[number]
        name = control.find_element(By.CSS_SELECTOR, '.widget-label').text
        slider = control.find_elements(By.CSS_SELECTOR, '.noUi-handle')
        step = slide(slider[0], back) if slider else choose(control.find_element(By.TAG_NAME, 'select'), back)
        if not step: raise ValueError(f'{name!r} offers one thing alone')
        self.changed(before, f'{name!r} changes nothing')

    def photograph(self, path):
        "Controls, picture and text as they are on the page, as a PNG file."
        self.area.find_element(By.CSS_SELECTOR, '.widget-vbox').screenshot(str(path))

    def drag(self, number, pixels):
        "Move a slider by the mouse, and wait until picture or text are others."
        before, handle = self.look(), self.controls()[number].find_element(By.CSS_SELECTOR, '.noUi-handle')
        webdriver.ActionChains(self.page).drag_and_drop_by_offset(handle, pixels, 0).perform()
        self.changed(before, 'the mouse changes nothing')

def slide(handle, back):
    "One step by an arrow key, away from the end; False where there is no other place."
    low, high, now = (float(handle.get_attribute(f'aria-value{end}')) for end in ('min', 'max', 'now'))
    handle.send_keys(Keys.ARROW_LEFT if back or now == high else Keys.ARROW_RIGHT)
    return low < high

def choose(menu, back):
    "The next option of a menu, the last alone of a list; False where there is no other."
    select = Select(menu)
    if select.is_multiple: select.options[-1].click()
    else:
        now = select.options.index(select.first_selected_option)
        select.select_by_index((now + (-1 if back else 1)) % len(select.options))
    return len(select.options) > 1
