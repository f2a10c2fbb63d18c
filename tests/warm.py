"""Processes that have imported avcomp before they start.

The imports of training take longer than what most tests train. One server imports once for all processes of a test run
and does nothing else: each of them, those of pytest-xdist included, is forked from it, and so is as fresh, and as
easily killed, as one of the command line."""
import atexit, os, select, shlex, shutil, signal, socket, subprocess, sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from filelock import FileLock
from warm_server import SIZE, ask, receive

HERE = Path(__file__).parent
CLIENT = sys.executable, '-SE', str(HERE/'warm_python.py')

@cache
def server():
    "Socket of the server; it is started where nobody has, and finds modules where this process does."
    if path := os.environ.get('AVCOMP_FORKS'): return path
    folder = Path(mkdtemp())
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path := str(folder/'door'))
        door.listen(64)
        env = os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS='1')
        command = [sys.executable, str(HERE/'warm_server.py'), f'{door.fileno()}']
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=env, pass_fds=[door.fileno()])
    server.pid = process.pid
    (folder/'python').write_text(f'#!/bin/sh\nexec {shlex.join(CLIENT)} "$0" "$@"\n')
    (folder/'python').chmod(0o755)
    @atexit.register
    def stop():
        process.communicate()
        shutil.rmtree(folder)
    os.environ['AVCOMP_FORKS'] = path
    return path

def warm_python():
    "An interpreter, for `sys.executable`: what it runs is forked, and so is what that starts."
    return str(Path(server()).with_name('python'))

class Fork:
    "A process of the server, with the parts of `subprocess.Popen` that the tests and Jupyter use."
    stdin = stdout = stderr = code = None

    def __init__(self, call, *args, env={}, cwd=None, log=os.devnull):
        request = call, args, os.environ | env, str(cwd or os.getcwd()), sys.path
        with open(os.devnull) as nothing, open(log, 'ab') as said:
            files = [f.fileno() for f in (nothing, said, said)]
            self.pid, self.connection = ask(server(), request, files)

    def poll(self): return self.wait(0)

    def wait(self, timeout=None):
        if self.code is None and select.select([self.connection], [], [], timeout)[0]:
            self.code = int.from_bytes(receive(self.connection, SIZE), 'big', signed=True)
        return self.code

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)

    def terminate(self): self.send_signal(signal.SIGTERM)

def train(path):
    "What `python -m avcomp.train.launch path` does."
    import torch
    from avcomp.train.engine import run
    from avcomp.train.job import read_job
    torch.set_num_threads(1)
    run(read_job(path))

def kernel(argv):
    """What `python -m ipykernel_launcher argv` does, for models that have learned nothing: their texts would not end,
    and how long they take need not be known exactly. What it starts is forked, too."""
    from ipykernel.kernelapp import launch_new_instance
    from avcomp.evaluate import cost
    from avcomp.models.avhubert_s2s import AVHubertS2S
    AVHubertS2S.search = replace(AVHubertS2S.search, max_len=12)
    cost.TIMING = cost.TIMING | dict(repeats=2, warmup=1)
    sys.executable, sys.argv[1:] = warm_python(), argv
    launch_new_instance()

def launch_kernel(cmd, env={}, cwd=None, **_):
    "Jupyter's function of that name: a kernel, forked."
    return Fork(kernel, cmd[cmd.index('-f'):], env=env, cwd=cwd)

def free_port():
    "A port of this machine that nobody uses."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def once(tmp_path_factory, name, make):
    "A folder that `make(folder)` fills, once for all processes of a test run."
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if 'PYTEST_XDIST_WORKER' in os.environ else own)/name
    made = folder.with_suffix('.made')
    with FileLock(f'{folder}.lock'):
        if not made.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            made.touch()
    return folder
