"The recipes run from data to report in their smallest setting, and again from what they left behind."
import json
from pathlib import Path

import papermill
import pytest

ROOT = Path(__file__).parent.parent
CORPUS = [16, 4, 6]


def execute(name, folder, **parameters):
    papermill.execute_notebook(str(ROOT/'nbs'/'recipes'/f'{name}.ipynb'), str(folder/f'{name}.ipynb'), parameters, cwd=str(ROOT), progress_bar=False)
    return json.loads((folder/'report.json').read_text())


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    "A corpus and a teacher, made by the teacher's own recipe."
    work = tmp_path_factory.mktemp('recipes')
    (work/'teacher').mkdir()
    report = execute('pretrain_teacher', work/'teacher', preset='smoke', out=str(work/'teacher'), clips=CORPUS, clusters=20, pretrain_updates=2, finetune_updates=2, polish_updates=[2, 2], vocab_size=60, beam_size=1)
    assert report['stages']['pretrain']['updates'] == 2 and 0 < report['params'] and set(report['wer']) == {'av', 'a', 'v'}
    return work


@pytest.mark.parametrize('experiment', ['pruning', 'merging', 'pruning+merging', 'distil-only'])
def test_dp_avhubert(work, experiment):
    out = work/experiment.replace('+', '_')
    out.mkdir()
    parameters = dict(preset='smoke', experiment=experiment, out=str(out), data_folder=str(work/'teacher'/'corpus'), teacher=str(work/'teacher'/'model'),
                      noises=['babble'], snrs=[0], modalities=['av', 'v'], beam_size=1, baselines=['scratch', 'l1', 'l1+distil'] if experiment == 'pruning' else [])
    report = execute('dp_avhubert', out, **parameters)
    if 'pruning' in experiment: assert abs(report['sparsity'] - 0.7) < 0.01
    if experiment == 'merging': assert 0 < report['sparsity'] < 0.2
    if experiment == 'distil-only': assert report['sparsity'] == 0
    models = {'teacher', 'student'} | ({'from scratch', 'L1 pruning', 'L1 pruning, distilled'} if experiment == 'pruning' else set())
    assert set(report['wer']) == models == set(report['costs'])
    assert set(report['wer']['student']['av']) == {'clean', 'babble@0'}
    assert all(report['versions'].values()) and report['data'].startswith('embedded-') and report['config']['seed'] == 0
    if experiment == 'pruning':   # finished stages are found and skipped, and nothing changes
        again = execute('dp_avhubert', out, **parameters)
        assert again['stages'] == report['stages'] and again['wer'] == report['wer'] and again['sparsity_by_dim'] == report['sparsity_by_dim']


@pytest.fixture(scope='module')
def listeners(work):
    "A teacher of waveforms, made by its own recipe on the same corpus."
    out = work/'audio_teacher'
    out.mkdir()
    report = execute('pretrain_audio_teacher', out, preset='smoke_audio', out=str(out), data_folder=str(work/'teacher'/'corpus'), phone_updates=2, word_updates=2, finetune_updates=2, vocab_size=60, beam_size=1)
    assert report['stages']['finetune']['updates'] == 2 and set(report['wer']) == {'valid', 'test'}
    return work


def test_dphubert(listeners):
    out = listeners/'dphubert'
    out.mkdir()
    parameters = dict(preset='smoke_audio', out=str(out), data_folder=str(listeners/'teacher'/'corpus'), teacher=str(listeners/'audio_teacher'/'model'), noises=['babble'], snrs=[0], beam_size=1, probe_clips=[12, 4, 6])
    report = execute('dphubert', out, **parameters)
    assert abs(report['sparsity']['params'] - 0.75) < 0.01
    models = {'teacher', 'student', 'DistilHuBERT'}
    assert models == set(report['wer']) == set(report['costs']) == set(report['phone_accuracy'])
    assert abs(report['costs']['DistilHuBERT']['params']/report['costs']['student']['params'] - 1) < 0.02          # a baseline of the same size
    assert report['stages']['distilhubert']['updates'] == report['stages']['joint']['updates'] + report['stages']['distill']['updates']   # and the same updates
    assert set(report['wer_cost']['student']) == {'clean', 'babble@0'} and len(report['similarity']['student']['cka']) == 5
    assert {p.name for p in (out/'s3prl').iterdir()} >= {'hubconf.py', 'expert.py', 'config.json', 'model.safetensors'}
    again = execute('dphubert', out, **parameters)   # finished stages are found and skipped, and nothing changes
    assert again['stages'] == report['stages'] and again['wer'] == report['wer'] and again['sparsity_by_dim'] == report['sparsity_by_dim']


def test_unknown_preset_is_refused(work, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="presets are"):
        execute('dp_avhubert', tmp_path, preset='huge', out=str(tmp_path), data_folder=str(work/'teacher'/'corpus'))
