"A method, a term and a view of one's own, each in a few lines: trained, killed, resumed, reported, read back."
import json, signal, time
from dataclasses import dataclass
import pytest, torch
from avcomp.compress.method import Method, Running
from avcomp.data.views import View
from avcomp.distill.terms import Term
from avcomp.changes import change
from avcomp.settings import KINDS, from_data, kind, to_data
from avcomp.train.engine import finished, run
from avcomp.train.job import modules_of, read_job
from avcomp.train.progress import resume_point
from avcomp.viz.widgets import record_explorer, training_explorer
from toy import corpus, job, parts, weights
from warm import Fork, train

@kind('toy_mask')
@dataclass(frozen=True)
class Mask(Method):
    "Hold a random share of the first layer's neurons at zero."
    share:float=0.5
    def attach(self, model, seed, others=()): return HeldAtZero(model, self.share, seed)

class HeldAtZero(Running):
    def __init__(self, model, share, seed):
        super().__init__(model)
        drawn = torch.rand(model.transformer.layers[0].fc1.out_features, generator=torch.Generator().manual_seed(seed))
        self.register_buffer('mask', (drawn >= share).float())
    def after(self, update):
        with torch.no_grad(): self.model.transformer.layers[0].fc1.weight.mul_(self.mask[:, None])
    def record(self): return {'kept': {'layers.0.fc1': self.mask.tolist()}}
    def finish(self): return {'density': self.mask.mean().item()}

@kind('toy_energy')
@dataclass(frozen=True)
class Energy(Term):
    "The student's last layer is as loud as the teacher's."
    def __call__(self, passes, maps, norm=None):
        a, b = (out.last[out.valid].square().mean() for out in (passes.student, passes.teacher))
        return {'total': (a - b).abs(), 'loudness': a.detach()}

@kind('toy_gain')
@dataclass(frozen=True)
class Gain(View):
    "Sound at a random loudness."
    least:float=0.5
    stream = 'wav'
    def __call__(self, item, generator):
        return item | {'wav': item['wav']*(self.least + (1 - self.least)*torch.rand((), generator=generator))}

@pytest.fixture(autouse=True)
def one_thread():
    "So that sums are taken in the order of the other process."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

@pytest.fixture
def toys(job):
    "A distillation with all three."
    def make(out, **settings):
        plain = job('distill', out, {'fit.updates': 12, 'fit.max_frames': 90}, checkpoint_every=2, seed=2)
        task, views = plain.stage.task, plain.stage.views
        terms = (*task.terms, Energy(weight=0.1))
        changes = {'stage.methods': (Mask(0.25),), 'stage.task.terms': terms, 'stage.views': (Gain(), *views)}
        return change(plain, changes | settings)
    return make

def test_read_back_from_json(toys, tmp_path):
    made = toys(tmp_path/'out')
    assert from_data(None, json.loads(json.dumps(to_data(made)))) == made
    made.save(tmp_path/'job.json')
    assert read_job(tmp_path/'job.json') == made and 'test_toys' in modules_of(made)

def test_they_count(toys, tmp_path):
    made = toys(tmp_path/'out')
    fields = {'methods.toy_mask.share': 0.5, 'task.terms.toy_energy.weight': 1., 'views.toy_gain.least': 0.1}
    for field, value in fields.items():
        assert change(made, {f'stage.{field}': value}).id != made.id
    assert change(made, {'stage.methods.toy_mask.share': 0.25}).id == made.id

def test_trained_killed_and_resumed(toys, tmp_path):
    "Another process, which finds the kinds by the modules that the job names, is killed; this one goes on."
    whole, broken = toys(tmp_path/'whole'), toys(tmp_path/'broken')
    report = run(whole)
    broken.save(tmp_path/'broken.json')
    victim = Fork(train, str(tmp_path/'broken.json'), log=tmp_path/'broken.txt')
    while not (tmp_path/'broken'/'last.ckpt').exists():
        assert victim.poll() is None, (tmp_path/'broken.txt').read_text()
        time.sleep(0.01)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL and finished(broken) is None
    assert 2 <= resume_point(tmp_path/'broken'/'last.ckpt', broken.id) < 12
    assert run(broken)['resumed']
    a, b = weights(tmp_path/'broken'), weights(tmp_path/'whole')
    assert all(torch.equal(a[k], b[k]) for k in b)
    silent = (b['encoder.layers.0.fc1.weight'] == 0).all(1).float().mean().item()
    assert silent == 1 - report['methods']['toy_mask']['density']

def test_in_report_and_explorer(toys, tmp_path):
    report = run(toys(tmp_path/'out'))
    assert 0.5 < report['methods']['toy_mask']['density'] < 1
    history = json.loads((tmp_path/'out'/'history.json').read_text())
    assert len(history['curves']['loudness']) == 12
    assert list(history['records']['kept']['rows']) == ['layers.0.fc1']
    assert record_explorer(history['records']) and training_explorer(history['curves'])

def test_a_default_field_changes_no_id(toys, tmp_path, monkeypatch):
    "The same method, later, with a field more: the id of a job with it is what it was; a raised version is another id."
    before = toys(tmp_path/'out').id
    def later(version):
        monkeypatch.delitem(KINDS, 'toy_mask')
        @kind('toy_mask', version)
        @dataclass(frozen=True)
        class MaskWithMore(Method):
            share:float=0.5
            per_layer:bool=False
        return toys(tmp_path/'out', **{'stage.methods': (MaskWithMore(0.25),)}).id
    assert later(1) == before != later(2)
