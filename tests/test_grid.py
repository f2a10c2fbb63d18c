"A grid of recipe runs that is killed goes on: what is finished is not run again, what was at work is waited for."
import subprocess, sys, time
import nbformat, numpy as np, pytest
from avcomp.data.sound import write_wav
from avcomp.train.grid import corpus_ids, grid_table, run_grid
from readme import root
from warm import warm_python

@pytest.fixture(autouse=True)
def forked(monkeypatch): monkeypatch.setattr(sys, 'executable', warm_python())

def write_recipe(path, parameters, work):
    "A notebook of two cells; its path."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (parameters, work)])
    nb.cells[0].metadata.tags = ['parameters']
    nb.metadata.kernelspec = dict(name='python3', display_name='Python 3', language='python')
    nbformat.write(nb, path)
    return path

@pytest.fixture
def recipe(tmp_path):
    "A recipe that notes when it runs, takes its time, and writes a report."
    work = ("import json, pathlib, time\n"
            "folder = pathlib.Path(out)\n"
            "(folder/f'run-{time.time_ns()}').touch()\n"
            "time.sleep(pause)\n"
            "(folder/'report.json').write_text(json.dumps({'score': 10*a}))")
    return write_recipe(tmp_path/'recipe.ipynb', "a, out, pause = 0, '', 1", work)

def runs(folder):
    "How often each cell was run."
    return {p.name: len(list(p.glob('run-*'))) for p in sorted(folder.iterdir())}

def test_killed_and_resumed(recipe, tmp_path):
    out, axes = tmp_path/'grid', {'a': [1, 2, 3]}
    call = f'from avcomp.train.grid import run_grid; run_grid({str(recipe)!r}, {str(out)!r}, {axes!r}, dict(pause=4))'
    victim = subprocess.Popen([sys.executable, '-c', call], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list(out.glob('a=2/run-*')):              # the second cell is at work
        assert victim.poll() is None, victim.stdout.read()
        time.sleep(0.05)
    victim.kill()
    victim.communicate()
    first = (out/'a=1'/'report.json').stat().st_mtime_ns
    found = run_grid(recipe, out, axes, dict(pause=4), at_once=2)
    assert [report['score'] for _, report in found] == [10, 20, 30]
    assert (out/'a=1'/'report.json').stat().st_mtime_ns == first
    assert runs(out) == {'a=1': 1, 'a=2': 1, 'a=3': 1}  # the second was waited for, not started again
    assert [row['score'] for row in grid_table(found, {'score': 'score'})] == [10, 20, 30]

def test_an_edited_recipe_runs_again(recipe, tmp_path):
    out, axes = tmp_path/'grid', {'a': [1]}
    run_grid(recipe, out, axes, dict(pause=0))
    recipe.write_text(recipe.read_text().replace('10*a', '20*a'))
    assert [report['score'] for _, report in run_grid(recipe, out, axes, dict(pause=0))] == [20]
    assert runs(out) == {'a=1': 2}
    with pytest.raises(RuntimeError, match='1 of 1 cells failed'): run_grid(recipe, out, axes, dict(pause='soon'))

def test_bad_rows_that_a_cell_may_leave_out(tmp_path, monkeypatch):
    "`max_bad` reaches the corpus, where a cell gets its id and in the run that it starts."
    monkeypatch.setenv('AVCOMP_CACHE', str(tmp_path/'cache'))
    for name in 'abc': write_wav(tmp_path/f'corpus/train/{name}.wav', np.random.default_rng(0).normal(0, .1, 16000))
    (tmp_path/'corpus/train/d.wav').write_bytes(b'')
    work = ("import json, pathlib\nfrom avcomp.data.corpora import open_corpus\n"
            "clips = len(open_corpus(data_layout, data_folder, max_bad=max_bad).cuts['train'])\n"
            "(pathlib.Path(out)/'report.json').write_text(json.dumps({'clips': clips}))")
    recipe = write_recipe(tmp_path/'counts.ipynb', "out, data_layout, data_folder, max_bad = '', '', '', 0.", work)
    given = dict(data_layout='audio', data_folder=str(tmp_path/'corpus'))
    with pytest.raises(ValueError, match='1 of 4 .*d.wav'): corpus_ids(given | dict(max_bad=.2))
    found = run_grid(recipe, tmp_path/'grid', {'max_bad': [.3]}, given)
    assert [report['clips'] for _, report in found] == [3]
