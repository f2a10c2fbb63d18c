"Two processes train as one does, on one machine and on two: through torchrun, on CPU with gloo."
import signal, subprocess, sys, time
from collections import Counter
from dataclasses import replace
from pathlib import Path
import psutil, pytest, torch
from safetensors.torch import load_file
from submitit.local.local import LocalExecutor
from avcomp.data.clips import load_cuts
from avcomp.models.checkpoints import load_model
from avcomp.train.engine import finished
from avcomp.train.job import Run
from avcomp.train.launch import launch, submit, torchrun_command
from avcomp.train.progress import resume_point
from readme import root
from toy import corpus, job, parts, weights
from warm import CLIENT, Fork, free_port, train, warm_python

@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    "So that the processes find avcomp where it is not installed, and compute with one thread as this one does."
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, 'executable', warm_python())
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)        # as in the processes: the order of sums is theirs
    yield
    torch.set_num_threads(threads)

def start_together(job):
    "The processes of a job on this machine, as torchrun starts them, but forked."
    job.save(f'{job.out}/job.json')
    n, port = job.run.devices, str(free_port())
    env = dict(WORLD_SIZE=f'{n}', LOCAL_WORLD_SIZE=f'{n}', GROUP_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
               TORCHELASTIC_RUN_ID=job.id)
    return [Fork(train, f'{job.out}/job.json', env=env | {'RANK': f'{i}', 'LOCAL_RANK': f'{i}'}, log=f'{job.out}.txt')
            for i in range(n)]

def told(job): return Path(f'{job.out}.txt').read_text()

def launch_together(job):
    "What `launch` does with the processes of a job, without its interpreters: the report."
    assert [p.wait(300) for p in start_together(job)] == [0]*job.run.devices, told(job)
    return finished(job)

def equal_lengths(corpus):
    "Length that four clips or more have, and how many."
    frames, n = Counter(c.custom['num_frames'] for c in load_cuts(corpus, 'train')).most_common(1)[0]
    assert n >= 4
    return frames, n

def check_same(one, two, start):
    "The same weights, and moved. Running statistics of batch norm are those of process 0: not compared."
    assert one.keys() == two.keys() == start.keys()
    trained = [k for k in two if 'running' not in k and 'num_batches' not in k]
    for k in trained: torch.testing.assert_close(one[k], two[k], rtol=0, atol=1e-5, msg=lambda m, k=k: f'{k}: {m}')
    assert max((two[k] - start[k]).abs().max() for k in trained) > 1e-3      # they have moved

@pytest.fixture
def pair(corpus, parts, job):
    """Jobs whose updates take two batches. One process divides each batch by its own count of frames, several by the
    mean count: equal if clips are equally long. Batch norm sees a batch in either case."""
    frames, n = equal_lengths(corpus)
    stage = {'fit.updates': 4, 'fit.max_frames': frames, 'fit.batches': 2, 'task.modality_dropout': 0.}
    data = {'min_frames': frames, 'max_frames': frames}
    return n, lambda out, **run: job('distill', out, stage, data, **run)

def test_two_processes_equal_one(pair, parts, tmp_path):
    n, make = pair
    jobs = make(tmp_path/'one'), make(tmp_path/'two', devices=2)
    assert jobs[0].id == jobs[1].id                                          # how it runs is no part of what it is
    one, two = launch(jobs[0]), launch_together(jobs[1])
    assert two['clips'] == one['clips'] and one['clips']['train']['kept'] == n
    check_same(weights(tmp_path/'one'), weights(tmp_path/'two'), load_file(parts/'student'/'model.safetensors'))

def test_two_nodes_equal_one(pair, parts, tmp_path):
    "Two nodes of one process each, on loopback, started by the command that `launch` prints."
    _, make = pair
    endpoint = f'127.0.0.1:{free_port()}'
    two = make(tmp_path/'two', nodes=2, launcher='torchrun', endpoint=endpoint)
    two.save(tmp_path/'two'/'job.json')
    command = torchrun_command(two, endpoint)
    other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        report = launch(two)
        told, _ = other.communicate(timeout=120)
    finally: other.kill()
    assert other.returncode == 0, told
    assert report == finished(two)
    launch(make(tmp_path/'one'))
    check_same(weights(tmp_path/'one'), weights(tmp_path/'two'), load_file(parts/'student'/'model.safetensors'))

def test_gates_in_two_processes(job, tmp_path, capfd):
    "Joint distillation and pruning; one process writes, the model is whole, and the job is skipped afterwards."
    two = job('pruning', tmp_path/'two', {'fit.updates': 4, 'fit.batches': 2}, devices=2, checkpoint_every=2)
    report = launch(two)
    left = ['history.json', 'job.json', 'maps.safetensors', 'model', 'report.json', 'tensorboard']
    assert sorted(p.name for p in (tmp_path/'two').iterdir()) == left
    assert len(list((tmp_path/'two'/'tensorboard').glob('events*'))) == 1
    params = sum(p.numel() for p in load_model(tmp_path/'two'/'model').parameters())
    assert params == report['methods']['gates']['params'][1]
    assert 'two: 4 in ' in capfd.readouterr().err                         # the progress of the processes comes through
    assert launch(two) == report and 'skipped' in capfd.readouterr().out

def test_failure_in_a_process_is_told(job, tmp_path):
    out_of_reach = job('pruning', tmp_path/'two', {'methods.gates.target': 0.95, 'fit.batches': 2}, devices=2)
    assert 0 not in [p.wait(120) for p in start_together(out_of_reach)]
    assert 'cannot be reached' in told(out_of_reach) and not (tmp_path/'two'/'report.json').exists()

def test_batches_that_cannot_be_shared(job, tmp_path):
    with pytest.raises(ValueError, match='an update takes 3 batches, which 2 processes cannot share'):
        job('pruning', tmp_path/'two', {'fit.batches': 3}, devices=2)

def test_another_number_of_processes_goes_on(pair, parts, tmp_path):
    "A job of two processes that was killed goes on with one: the updates are those of the whole run."
    _, make = pair
    broken = make(tmp_path/'broken', devices=2, checkpoint_every=1)
    broken.save(tmp_path/'broken'/'job.json')
    victims = start_together(broken)
    while not (tmp_path/'broken'/'last.ckpt').exists():
        assert all(v.poll() is None for v in victims), told(broken)
        time.sleep(0.01)
    for v in victims: v.kill()
    for v in victims: v.wait()
    assert finished(broken) is None and 0 < resume_point(tmp_path/'broken'/'last.ckpt', broken.id) < 4
    assert launch(make(tmp_path/'broken'))['resumed']
    launch(make(tmp_path/'whole'))
    check_same(weights(tmp_path/'whole'), weights(tmp_path/'broken'), load_file(parts/'student'/'model.safetensors'))

def test_taken_off_by_a_batch_system(job, tmp_path, monkeypatch):
    """submitit's local executor stands in for Slurm. It wants its machine back: the job is submitted again, goes on,
    and ends with the weights of a training here."""
    stage = {'fit.updates': 12, 'fit.max_frames': 90}
    run = Run(launcher='slurm', slurm=dict(cluster='local', hours=1, gpus=0), checkpoint_every=1)
    taken, here = replace(job('distill', tmp_path/'taken', stage), run=run), job('distill', tmp_path/'here', stage)
    taken.save(tmp_path/'taken'/'job.json')
    task = property(lambda executor: f'{warm_python()} -u -m submitit.core._submit {executor.folder}')
    monkeypatch.setattr(LocalExecutor, '_submitit_command_str', task)
    monkeypatch.setattr(sys, 'executable', CLIENT[0])   # what starts the task is known by its number, and not forked
    submitted = submit(taken)
    while not (tmp_path/'taken'/'last.ckpt').exists():
        assert not submitted.done()
        time.sleep(0.01)
    for process in psutil.Process(submitted._process.pid).children(): process.send_signal(signal.SIGUSR2)
    submitted.results()
    assert finished(taken)['resumed'] and list((tmp_path/'taken'/'slurm').glob('*_log.out'))
    launch(here)
    a, b = weights(tmp_path/'taken'), weights(tmp_path/'here')
    assert all(torch.equal(a[k], b[k]) for k in b)
