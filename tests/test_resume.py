"A training process that is killed at any moment and started again ends with the weights of one that ran through."
import os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from avcomp.distill.gram import Gram
from avcomp.distill.masked import Masked
from avcomp.distill.spans import Spans
from avcomp.train.engine import finished, run
from avcomp.train.progress import resume_point
from readme import root
from toy import corpus, job, parts, stopped_at, weights
from warm import Fork, train

def start(job):
    "A process that does a job; what it says is in a file."
    job.save(f'{job.out}.json')
    return Fork(train, f'{job.out}.json', log=f'{job.out}.txt')

def command(job):
    "The same by the command line, in an interpreter that has imported nothing yet."
    with open(f'{job.out}.txt', 'w') as f:
        return subprocess.Popen([sys.executable, '-m', 'avcomp.train.launch', f'{job.out}.json'], cwd=root, stdout=f,
                                stderr=f, env=os.environ | {'OMP_NUM_THREADS': '1'})

def told(job): return Path(f'{job.out}.txt').read_text()

def wait_for_change(path, old, process, job):
    "Time at which a file was replaced; that of now when the process came to its end first."
    while True:
        try: new = path.stat().st_mtime_ns
        except FileNotFoundError: new = old
        if new != old: return new
        if process.poll() is not None:
            assert process.poll() == 0, f'the process failed: {told(job)}'
            return time.time_ns()
        time.sleep(0.01)

def kill_after_two_checkpoints(job, reach):
    "Start a job and kill it some time after its second checkpoint; returns its exit code and what was done."
    ckpt, victim = Path(job.out)/'last.ckpt', start(job)
    first = wait_for_change(ckpt, None, victim, job)
    second = wait_for_change(ckpt, first, victim, job)
    time.sleep(delay := random.uniform(0, reach)*(second - first)/1e9)
    victim.kill()
    return victim.wait(), f'killed {delay:.2f} s after the second checkpoint'

NOISY = {'task.modality_dropout': 0.3, 'task.dubbing': 0.3, 'views.noise.prob': 0.5}
SOUND = {'views.noise.prob': 0.5}
HOLES = {'task.terms': (Masked(spans=Spans(0.5, 4), drawn=1), Gram(scale='dim'))}   # spans and layers are drawn

@pytest.mark.parametrize('name, changes, again', [   # how it is started again
    ('pruning', NOISY, command), ('finetune', NOISY, start), ('smoke_audio pruning', SOUND, start),
    ('smoke_audio finetune', SOUND, start), ('smoke_armhubert distill', SOUND | HOLES, start),
    ('smoke_sparse_vsr_tiny dense', {}, start)])
def test_killed_and_resumed(job, tmp_path, name, changes, again):
    settings = dict(stage=changes | {'fit.updates': 12, 'fit.max_frames': 90}, checkpoint_every=2, seed=1)
    whole, broken = (job(name, tmp_path/which, **settings) for which in ('whole', 'broken'))
    through, ckpt = start(whole), tmp_path/'broken'/'last.ckpt'
    for reach in (3, 1, 0.3, 0, 0):                # on a busy machine a run may end before it is killed: then earlier
        code, done = kill_after_two_checkpoints(broken, reach)
        if finished(broken) is None: break
        shutil.rmtree(tmp_path/'broken')
    assert code == -signal.SIGKILL, done
    assert finished(broken) is None and 4 <= resume_point(ckpt, broken.id) < 12, done
    assert again(broken).wait(300) == 0, told(broken)
    assert through.wait(300) == 0, told(whole)
    assert finished(broken)['resumed'] and not finished(whole)['resumed']
    a, b = weights(tmp_path/'broken'), weights(tmp_path/'whole')
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), done

def test_asked_to_stop(job, tmp_path):
    "SIGTERM, as batch systems send it, ends training after the update and never passes for done."
    four = {'fit.updates': 4}
    stopped, whole = (job('finetune', tmp_path/name, four, checkpoint_every=2) for name in ('stopped', 'whole'))
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with stopped_at(3): run(stopped)
    assert finished(stopped) is None and resume_point(tmp_path/'stopped'/'last.ckpt', stopped.id) == 2
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    run(stopped)
    run(whole)
    a, b = weights(tmp_path/'stopped'), weights(tmp_path/'whole')
    assert all(torch.equal(a[k], b[k]) for k in b)
