"A training process that is killed at any moment and started again ends with the weights of one that ran through."
import os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from avcomp.train.engine import finished, run
from avcomp.train.progress import Keeper, resume_point
from readme import root
from toy import corpus, job, parts, weights

def start(job):
    "The process of a job."
    job.save(f'{job.out}.json')
    command = [sys.executable, '-m', 'avcomp.train.launch', f'{job.out}.json']
    return subprocess.Popen(command, cwd=root, env=os.environ | {'OMP_NUM_THREADS': '1'},
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def finish(process):
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told

def wait_for_change(path, old, process):
    "Time at which a file was replaced; that of now when the process came to its end first."
    while True:
        try: new = path.stat().st_mtime_ns
        except FileNotFoundError: new = old
        if new != old: return new
        if process.poll() is not None:
            assert process.returncode == 0, f'the process failed: {process.stderr.read()}'
            return time.time_ns()
        time.sleep(0.01)

def kill_after_two_checkpoints(job, reach):
    "Start a job and kill it some time after its second checkpoint; returns its exit code and what was done."
    ckpt, victim = Path(job.out)/'last.ckpt', start(job)
    first = wait_for_change(ckpt, None, victim)
    second = wait_for_change(ckpt, first, victim)
    time.sleep(delay := random.uniform(0, reach)*(second - first)/1e9)
    victim.kill()
    victim.communicate()
    return victim.returncode, f'killed {delay:.2f} s after the second checkpoint'

NOISY = {'task.modality_dropout': 0.3, 'views.noise.prob': 0.5}
SOUND = {'views.noise.prob': 0.5}

@pytest.mark.parametrize('name, changes', [('pruning', NOISY), ('finetune', NOISY),
                                           ('smoke_audio pruning', SOUND), ('smoke_audio finetune', SOUND)])
def test_killed_and_resumed(job, tmp_path, name, changes):
    settings = dict(stage=changes | {'fit.updates': 18, 'fit.max_frames': 90}, checkpoint_every=3, seed=1)
    whole, broken = (job(name, tmp_path/which, **settings) for which in ('whole', 'broken'))
    through, ckpt = start(whole), tmp_path/'broken'/'last.ckpt'
    for reach in (3, 1, 0.3, 0, 0):                # on a busy machine a run may end before it is killed: then earlier
        code, told = kill_after_two_checkpoints(broken, reach)
        if finished(broken) is None: break
        shutil.rmtree(tmp_path/'broken')
    assert code == -signal.SIGKILL, told
    assert finished(broken) is None and 6 <= resume_point(ckpt, broken.id) < 18, told
    finish(start(broken))
    finish(through)
    assert finished(broken)['resumed'] and not finished(whole)['resumed']
    a, b = weights(tmp_path/'broken'), weights(tmp_path/'whole')
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), told

def test_asked_to_stop(job, tmp_path, monkeypatch):
    "SIGTERM, as batch systems send it, ends training after the update and never passes for done."
    record = Keeper.record
    def stop(self, n, *args):
        record(self, n, *args)
        if n == 3: os.kill(os.getpid(), signal.SIGTERM)
    four = {'fit.updates': 4}
    stopped, whole = (job('finetune', tmp_path/name, four, checkpoint_every=2) for name in ('stopped', 'whole'))
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Keeper, 'record', stop)
        run(stopped)
    assert finished(stopped) is None and resume_point(tmp_path/'stopped'/'last.ckpt', stopped.id) == 2
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    run(stopped)
    run(whole)
    a, b = weights(tmp_path/'stopped'), weights(tmp_path/'whole')
    assert all(torch.equal(a[k], b[k]) for k in b)
