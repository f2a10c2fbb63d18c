"The recipes run from data to report in their smallest setting, and again from what they left behind."
import json
from pathlib import Path
from unittest.mock import patch

import nbformat
import papermill
import pytest
from warm import launch_kernel, once

ROOT = Path(__file__).parent.parent
CORPUS = [16, 4, 6]
COMMON = {'config', 'data', 'versions', 'stages', 'seconds'}


def execute(name, folder, **parameters):
    "Run a recipe into a folder; returns its report."
    recipe, made = ROOT/'nbs'/'recipes'/f'{name}.ipynb', folder/f'{name}.ipynb'
    folder.mkdir(exist_ok=True)
    papermill.execute_notebook(str(recipe), str(made), parameters, cwd=str(ROOT), progress_bar=False)
    return json.loads((folder/'report.json').read_text())


def outputs(folder, name):
    "What the cells of an executed recipe show."
    cells = json.loads((folder/f'{name}.ipynb').read_text())['cells']
    return [o for c in cells for o in c.get('outputs', [])]


def pictures(folder, name): return sum('image/png' in o.get('data', {}) for o in outputs(folder, name))


def printed(folder, name): return ''.join(''.join(o['text']) for o in outputs(folder, name) if 'text' in o)


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    "A corpus and a teacher, made by the teacher's own recipe in a kernel of its own; the kernels after it are forked."
    work = once(tmp_path_factory, 'recipes', make_teacher)
    with patch('jupyter_client.provisioning.local_provisioner.launch_kernel', launch_kernel): yield work


def make_teacher(work):
    report = execute('pretrain_teacher', work/'teacher', preset='smoke', out=str(work/'teacher'), clips=CORPUS,
                     clusters=20, pretrain_updates=2, finetune_updates=2, polish_updates=[2, 2], vocab_size=60,
                     beam_size=1)
    assert report['stages']['pretrain']['updates'] == 2
    assert 0 < report['params'] and set(report['wer']) == {'av', 'a', 'v'}


def small(work, out):
    "Parameters of a short run of `dp_avhubert`."
    return dict(preset='smoke', out=str(out), data_folder=str(work/'teacher'/'corpus'), modalities=['av', 'v'],
                teacher=str(work/'teacher'/'model'), noises=['babble'], snrs=[0], beam_size=1, baselines=[])


def check_again(name, out, parameters, report):
    "Finished stages are found and skipped, and nothing changes."
    again = execute(name, out, **parameters)
    for key in ('stages', 'wer', 'sparsity_by_dim', 'data'): assert again[key] == report[key]


def without_noise(corpus, folder):
    "The same corpus without noise for training."
    folder.mkdir(parents=True)
    for p in corpus.iterdir():
        if not (p.name.startswith('noise_') and '_train.' in p.name): (folder/p.name).symlink_to(p)
    return folder


@pytest.mark.parametrize('experiment', ['pruning', 'merging', 'pruning+merging', 'distil-only'])
def test_dp_avhubert(work, experiment):
    out = work/experiment.replace('+', '_')
    parameters = small(work, out) | dict(experiment=experiment)
    if experiment == 'pruning': parameters['baselines'] = ['scratch', 'l1', 'l1+distil']
    if experiment == 'distil-only':
        parameters['data_folder'] = str(without_noise(work/'teacher'/'corpus', out/'corpus'))
    report = execute('dp_avhubert', out, **parameters)
    if 'pruning' in experiment: assert abs(report['sparsity'] - 0.7) < 0.01
    if experiment == 'merging': assert 0 < report['sparsity'] < 0.2
    if experiment == 'distil-only': assert report['sparsity'] == 0
    silent = 'no noise for training' in printed(out, 'dp_avhubert')   # told where it is so, and nowhere else
    views = {v['kind'] for stage in report['config']['stages'].values() for v in stage['views']}
    assert silent == (experiment == 'distil-only') and views == ({'crop'} if silent else {'noise', 'crop'})
    models = {'teacher', 'student'}
    if experiment == 'pruning': models |= {'from scratch', 'L1 pruning', 'L1 pruning, distilled'}
    assert set(report['wer']) == models == set(report['costs'])
    assert set(report['wer']['student']['av']) == {'clean', 'babble@0'} == set(report['wer_cost'])
    assert set(report) > COMMON and all(report['versions'].values()) and report['data'].startswith('embedded-')
    assert report['config']['seed'] == 0 and report['config']['stages']['finetune']['task']['kind'] == 'finetune'
    if experiment == 'pruning':
        assert pictures(out, 'dp_avhubert') == 9
        assert {d['unit'] for d in report['sparsity_by_dim'].values()} == {'conv', 'head', 'ffn'}
        check_again('dp_avhubert', out, parameters, report)


@pytest.fixture(scope='module')
def listeners(work, tmp_path_factory):
    "A teacher of waveforms, made by its own recipe on the same corpus."
    once(tmp_path_factory, 'listeners', lambda folder: make_listener(work))
    return work


def make_listener(work):
    out = work/'audio_teacher'
    report = execute('pretrain_audio_teacher', out, preset='smoke_audio', out=str(out), phone_updates=2, word_updates=2,
                     data_folder=str(work/'teacher'/'corpus'), finetune_updates=2, vocab_size=60, beam_size=1)
    assert report['stages']['finetune']['updates'] == 2 and set(report['wer']) == {'valid', 'test'}


def test_dphubert(listeners):
    out = listeners/'dphubert'
    parameters = dict(preset='smoke_audio', out=str(out), data_folder=str(listeners/'teacher'/'corpus'),
                      teacher=str(listeners/'audio_teacher'/'model'), noises=['babble'], snrs=[0], beam_size=1,
                      probe_clips=[12, 4, 6])
    report = execute('dphubert', out, **parameters)
    assert set(report) > COMMON and abs(report['sparsity']['params'] - 0.75) < 0.01
    models = {'teacher', 'student', 'DistilHuBERT'}
    assert models == set(report['wer']) == set(report['costs']) == set(report['phone_accuracy'])
    costs, stages = report['costs'], report['stages']   # a baseline of the same size, and the same updates
    assert abs(costs['DistilHuBERT']['params']/costs['student']['params'] - 1) < 0.02
    assert stages['distilhubert']['updates'] == stages['joint']['updates'] + stages['distill']['updates']
    assert set(report['wer_cost']['student']) == {'clean', 'babble@0'}
    assert len(report['similarity']['student']['cka']) == 5
    written = {p.name for p in (out/'s3prl').iterdir()}
    assert written >= {'hubconf.py', 'expert.py', 'config.json', 'model.safetensors'}
    assert pictures(out, 'dphubert') == 13
    check_again('dphubert', out, parameters, report)


TOY = """import json
from pathlib import Path
Path(out).mkdir(parents=True, exist_ok=True)
rates = {'clean': target_sparsity/10 + seed/100}
Path(f'{out}/report.json').write_text(json.dumps(dict(sparsity=target_sparsity, wer=dict(student=dict(av=rates)))))"""


def test_grid(tmp_path):
    "Two sparsities and two seeds; a second start runs nothing."
    recipe, out = tmp_path/'toy.ipynb', tmp_path/'grid'
    cells = [nbformat.v4.new_code_cell('out, target_sparsity, seed = "", 0., 0', metadata={'tags': ['parameters']}),
             nbformat.v4.new_code_cell(TOY)]
    metadata = {'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), recipe)
    axes = {'target_sparsity': [0.5, 0.7], 'seed': [0, 1]}
    grid = dict(recipe=str(recipe), out=str(out), axes=axes, parameters={}, at_once=2)
    rows = execute('grid', out, **grid)['rows']
    assert [(row['sparsity'], round(row['WER'], 3)) for row in rows] == [(.5, .05), (.5, .06), (.7, .07), (.7, .08)]
    assert all(row['WER, babble 0 dB'] is None for row in rows) and pictures(out, 'grid') == 1
    logs = {p: p.stat().st_mtime_ns for p in out.glob('*/log.txt')}
    assert len(logs) == 4 and execute('grid', out, **grid)['rows'] == rows
    assert logs == {p: p.stat().st_mtime_ns for p in out.glob('*/log.txt')}


def test_unknown_preset_is_refused(work, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="presets are"):
        execute('dp_avhubert', tmp_path, preset='huge', out=str(tmp_path), data_folder=str(work/'teacher'/'corpus'))
