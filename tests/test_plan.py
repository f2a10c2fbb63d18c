"Trainings of a plan side by side: the weights of one after the other; one that fails stops the others."
import sys
import pytest, torch
from avcomp.models.checkpoints import load_model, save_model
from avcomp.train.engine import finished
from avcomp.train.launch import RUNNING
from avcomp.train.plan import Plan
from toy import corpus, job, parts, weights
from warm import warm_python

@pytest.fixture
def plan(job, parts, tmp_path, monkeypatch):
    "Maker of plans: a chain of two, and beside it a model that is made and trained."
    monkeypatch.setattr(sys, 'executable', warm_python())
    def make(out, **changes):
        some = {name: job(name, out, changes) for name in ('pruning', 'distill')}
        made = Plan(out, some['distill'].data)
        student = parts/'student'
        slim = made.train('joint', some['pruning'].stage, student)
        made.train('distill', some['distill'].stage, slim)
        copy = made.make('copied', lambda path: save_model(load_model(student), path), like=student)
        made.train('scratch', some['distill'].stage, copy, random=True)
        return made
    return make

def test_side_by_side(plan, tmp_path, capfd, monkeypatch):
    "Each has one thread here and there, so the weights are the same; given again, nothing runs."
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    torch.set_num_threads(1)
    def short(name): return plan(tmp_path/name, **{'fit.updates': 4})
    alone, together = short('alone').reports(), short('together').reports(at_once=2)
    assert list(alone) == list(together) == ['joint', 'distill', 'scratch']
    for name in alone:
        a, b = (weights(tmp_path/which/name) for which in ('alone', 'together'))
        assert all(torch.equal(a[k], b[k]) for k in a)
    told = capfd.readouterr().err
    assert all(f'{name}: 4 in ' in told for name in alone)                # one line each, here and from processes
    assert short('together').reports(at_once=2) == together and capfd.readouterr().out.count('skipped') == 3

def test_failure_stops_the_others(plan, tmp_path):
    broken = plan(tmp_path, **{'fit.updates': 10_000})
    broken.train('impossible', broken.jobs['distill'].stage, tmp_path/'nowhere')
    with pytest.raises(RuntimeError, match='nowhere'): broken.reports(at_once=3)
    assert not RUNNING and not any(map(finished, broken.jobs.values()))
    with pytest.raises(ValueError, match="has a step 'joint' already"):
        broken.train('joint', broken.jobs['joint'].stage, tmp_path/'nowhere')
