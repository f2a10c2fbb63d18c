"""Processes that have imported avcomp before they start.

The imports of training take longer than what most tests train. A fork server imports once and does nothing else; each
process is forked from it, so it is as fresh, and as easily killed, as one of the command line."""
import multiprocessing, os, signal, socket, sys, time
from dataclasses import replace
from functools import cache
from multiprocessing import forkserver, get_context
from tempfile import TemporaryDirectory
from unittest.mock import patch
from filelock import FileLock

@cache
def forks():
    "The fork server, started; it finds modules where this process does."
    context = get_context('forkserver')
    context.set_forkserver_preload(['warm_imports'])
    path = os.pathsep.join(filter(None, sys.path))
    with patch.dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1'): forkserver.ensure_running()
    return context

class Fork:
    "A process of the fork server, with the parts of `subprocess.Popen` that the tests and Jupyter use."
    stdin = stdout = stderr = None

    def __init__(self, call, *args, env={}, cwd=None, log=os.devnull):
        self.process = forks().Process(target=begin, args=(call, args, dict(env), cwd or os.getcwd(), str(log)))
        self.process.start()
        self.pid = self.process.pid
        while self.process.is_alive() and os.getpgid(self.pid) != self.pid: time.sleep(0.001)   # its own group by now

    def poll(self): return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.poll()

    def send_signal(self, number):
        if self.poll() is None: os.kill(self.pid, number)

    def kill(self): self.send_signal(signal.SIGKILL)

    def terminate(self): self.send_signal(signal.SIGTERM)

def begin(call, args, env, cwd, log):
    "The first that a forked process does."
    os.setsid()
    with open(log, 'ab') as f:
        for stream in (1, 2): os.dup2(f.fileno(), stream)
    os.environ.update(env)
    os.chdir(cwd)
    multiprocessing.set_start_method(None, force=True)   # of its own processes: the platform's, not that of forks
    call(*args)

def train(path):
    "What `python -m avcomp.train.launch path` does."
    import torch
    from avcomp.train.engine import run
    from avcomp.train.job import read_job
    torch.set_num_threads(1)
    run(read_job(path))

def kernel(argv):
    """What `python -m ipykernel_launcher argv` does, for models that have learned nothing: their texts would not end,
    and how long they take need not be known exactly."""
    from ipykernel.kernelapp import launch_new_instance
    from avcomp.evaluate import cost
    from avcomp.models.avhubert_s2s import AVHubertS2S
    AVHubertS2S.search = replace(AVHubertS2S.search, max_len=12)
    cost.TIMING = cost.TIMING | dict(repeats=2, warmup=1)
    sys.argv[1:] = argv
    launch_new_instance()

class Command(Fork):
    "`subprocess.Popen` for the command of a training: what it says comes through a pipe."
    def __init__(self, command, env, **_):
        with TemporaryDirectory() as folder:
            os.mkfifo(log := f'{folder}/said')
            super().__init__(train, command[-1], env=env, log=log)
            self.stdout = open(log, 'rb')   # waits until the process has opened it, too

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
