"Two processes train as one does: `launch` through torchrun, on CPU with gloo."
from collections import Counter
import pytest, torch
from safetensors.torch import load_file
from avcomp.data.clips import load_cuts
from avcomp.models.checkpoints import load_model
from avcomp.train.launch import Data, launch
from readme import root
from toy import corpus, job, parts, weights

@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    "So that the processes find avcomp where it is not installed, and compute with one thread as this one does."
    monkeypatch.chdir(root)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)        # as in the processes: the order of sums is theirs
    yield
    torch.set_num_threads(threads)

def test_two_processes_equal_two_batches(corpus, parts, job, tmp_path):
    """An update of two processes sees the batches of an update of one process that accumulates two. With accumulation each
    batch is divided by its own count of frames, with processes by the mean count: equal if clips are equally long. Dropout of
    units and modalities and gates draw by process, so there are none. Running statistics of batch norm are those of process 0: not compared."""
    frames, n = Counter(c.custom['num_frames'] for c in load_cuts(corpus, 'train')).most_common(1)[0]
    assert n >= 4
    data, stage = Data(folder=str(corpus), min_frames=frames, max_frames=frames), dict(updates=4, max_frames=frames, noise_prob=0.5, modality_dropout=0.)
    two = launch(job('distill', tmp_path/'two', stage, data=data, devices=2))
    one = launch(job('distill', tmp_path/'one', stage | dict(accumulate=2), data=data))
    assert two['clips'] == one['clips'] and one['clips']['train']['kept'] == n
    a, b, start = weights(tmp_path/'two'), weights(tmp_path/'one'), load_file(parts/'student'/'model.safetensors')
    assert a.keys() == b.keys() == start.keys()
    trained = [k for k in b if 'running' not in k and 'num_batches' not in k]
    for k in trained: torch.testing.assert_close(a[k], b[k], rtol=0, atol=1e-5, msg=lambda m: f'{k}: {m}')
    assert max((b[k] - start[k]).abs().max() for k in trained) > 1e-3      # they have moved

def test_gates_in_two_processes(job, tmp_path, capfd):
    "Joint distillation and pruning; one process writes, the model is whole, and the job is skipped afterwards."
    two = job('joint', tmp_path/'two', dict(updates=4), devices=2, checkpoint_every=2)
    report = launch(two)
    assert sorted(p.name for p in (tmp_path/'two').iterdir()) == ['history.json', 'job.json', 'maps.safetensors', 'model', 'report.json', 'tensorboard']
    assert len(list((tmp_path/'two'/'tensorboard').glob('events*'))) == 1
    assert sum(p.numel() for p in load_model(tmp_path/'two'/'model').parameters()) == report['params'][1]
    assert '4/4' in capfd.readouterr().out                                  # the progress of the processes comes through
    assert launch(two) == report and 'skipped' in capfd.readouterr().out

def test_failure_in_a_process_is_told(job, tmp_path):
    with pytest.raises(RuntimeError, match='cannot be reached'): launch(job('joint', tmp_path/'two', dict(target_sparsity=0.95), devices=2))
    assert not (tmp_path/'two'/'report.json').exists()
