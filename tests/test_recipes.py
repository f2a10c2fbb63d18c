"The recipes run from data to report in their smallest setting, and again from what they left behind."
import json, re
from html import escape
from pathlib import Path
from unittest.mock import patch

import nbformat
import numpy as np
import papermill
import pytest
import torch
from avcomp.data.clips import load_cuts
from avcomp.data.shards import write_shar
from avcomp.data.synthetic import make_corpus
from avcomp.data.synthetic.heads import draw_heads, place_heads, turn_about, write_film
from avcomp.data.synthetic.speakers import draw_clip, keyed_rng, make_speaker, speak_clip
from avcomp.data.tokens import train_tokenizer
from avcomp.data.units import train_units
from avcomp.evaluate.page import write_page
from avcomp.evaluate.report import read_report
from avcomp.evaluate.sparse_vsr import rows_of, sparsity_table
from avcomp.models.checkpoints import load_model, save_model
from avcomp.models.surgery import new_encoder
from avcomp.models.vsr import VSR, vsr_config
from warm import launch_kernel, once

ROOT = Path(__file__).parent.parent
CORPUS = [16, 2, 3]
KEYS = {'recipe', 'config', 'stages', 'data', 'jobs', 'seconds', 'versions', 'machine', 'costs', 'wer', 'differences',
        'compression', 'findings', 'measured'}   # of every report


def execute(name, folder, **parameters):
    "Run a recipe into a folder; returns its report, after a look at it and at the page."
    recipe, made = ROOT/'nbs'/'recipes'/f'{name}.ipynb', folder/f'{name}.ipynb'
    folder.mkdir(exist_ok=True)
    papermill.execute_notebook(str(recipe), str(made), parameters, cwd=str(ROOT), progress_bar=False)
    report = read_report(folder/'report.json')
    assert set(report) == KEYS and report['recipe'] == name and all(report['versions'].values())
    assert {k: report['config'][k] for k in parameters} == parameters
    check_page(folder, name, report)
    return report


def check_page(folder, name, report):
    "The answer comes before all headings; nothing that went to a log is on the page."
    page = write_page(folder/f'{name}.ipynb').read_text()
    top = page[page.index('<h1'):page.index('<h2')]
    assert '<table' in top and '<img' in top and 'Next:' in top and 'will stand here' not in top
    assert report['data'].get('id', '') in top
    logged = [line for o in outputs(folder, name) if 'name' in o for line in re.split(r'[\r\n]+', ''.join(o['text']))]
    assert not [line for line in logged if len(line) > 30 and (line in page or escape(line) in page)]


def outputs(folder, name):
    "What the cells of an executed recipe show."
    cells = json.loads((folder/f'{name}.ipynb').read_text())['cells']
    return [o for c in cells for o in c.get('outputs', [])]


def pictures(folder, name): return sum('image/png' in o.get('data', {}) for o in outputs(folder, name))


def printed(folder, name): return ''.join(''.join(o['text']) for o in outputs(folder, name) if 'text' in o)


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    "A corpus and a teacher, made by the teacher's own recipe."
    with patch('jupyter_client.provisioning.local_provisioner.launch_kernel', launch_kernel):
        yield once(tmp_path_factory, 'recipes', make_teacher)


def make_teacher(work):
    report = execute('pretrain_teacher', work/'teacher', preset='smoke', out=str(work/'teacher'), clips=CORPUS,
                     clusters=20, pretrain_updates=2, finetune_updates=2, polish_updates=[2, 2], vocab_size=60,
                     beam_size=1)
    assert {name: job['updates'] for name, job in report['jobs'].items()} == dict(pretrain=2, finetune=2, polish1=2,
                                                                                  polish2=2)
    assert 0 < report['costs']['teacher']['params'] and set(report['wer']['teacher']) == {'av', 'a', 'v'}
    assert len(list((work/'teacher'/'labels').glob('*/train.km'))) == 1   # in a folder that tells what they are of


def test_teacher_goes_on(work, tmp_path):
    "A further round starts from a finished teacher, and nothing before it is done again."
    report = execute('pretrain_teacher', tmp_path, preset='smoke', out=str(tmp_path), start=str(work/'teacher'/'model'),
                     data_folder=str(work/'teacher'/'corpus'), polish_updates=[2], beam_size=1, seed=3)
    assert list(report['jobs']) == list(report['stages']) == ['polish1'] and not (tmp_path/'labels').exists()
    one, other = (load_model(p/'model').state_dict() for p in (work/'teacher', tmp_path))
    assert one.keys() == other.keys() and any(not torch.equal(one[n], other[n]) for n in one)
    learned = dict(load_model(tmp_path/'model').named_parameters())
    assert max((one[n] - other[n]).abs().max() for n in learned) < 0.01   # it begins where the other ended
    with pytest.raises(papermill.PapermillExecutionError, match='polish_updates names none'):
        execute('pretrain_teacher', tmp_path/'none', start=str(work/'teacher'/'model'), polish_updates=[])


def small(work, out):
    "Parameters of a short run of `dp_avhubert`."
    return dict(preset='smoke', out=str(out), data_folder=str(work/'teacher'/'corpus'), modalities=['av', 'v'],
                teacher=str(work/'teacher'/'model'), noises=['babble'], snrs=[0], beam_size=1, baselines=[], at_once=1)


def check_again(name, out, parameters, report):
    "Finished stages are found and skipped, and nothing changes."
    again = execute(name, out, **parameters)
    for key in ('stages', 'wer', 'differences', 'data'): assert again[key] == report[key]
    for key in ('dims', 'kept'): assert again['compression'].get(key) == report['compression'].get(key)
    timed = 'of the time'   # is told anew
    assert [f for f in again['findings'] if timed not in f] == [f for f in report['findings'] if timed not in f]
    assert printed(out, name).count('skipped') == len(report['jobs'])
    return again


def without_noise(corpus, folder):
    "The same corpus without noise for training."
    folder.mkdir(parents=True)
    for p in corpus.iterdir():
        if not (p.name.startswith('noise_') and '_train.' in p.name): (folder/p.name).symlink_to(p)
    return folder


def same_size(report, name, key='params'):
    "Whether a baseline is as large as the student."
    costs = report['costs']
    return 0.98 < costs[name][key]/costs['student'][key] <= 1


def updates_of(report, *names): return sum(report['jobs'][n]['updates'] for n in names)


def clips_of(report): return {name: job['clips']['train']['kept'] for name, job in report['jobs'].items()}


@pytest.mark.parametrize('experiment', ['pruning', 'merging', 'distil-only'])   # both at once: tests/test_pairs.py
def test_dp_avhubert(work, experiment):
    out = work/experiment
    parameters = small(work, out) | dict(experiment=experiment)
    if experiment == 'pruning': parameters['baselines'] = ['scratch', 'l1', 'l1-macs', 'l1+distil']
    if experiment != 'pruning': parameters['modalities'] = ['av']
    if experiment == 'distil-only':
        parameters['data_folder'] = str(without_noise(work/'teacher'/'corpus', out/'corpus'))
    report = execute('dp_avhubert', out, **parameters)
    gone = report['compression']['encoder_params']
    if experiment == 'pruning': assert abs(gone - 0.7) < 0.01
    if experiment == 'merging': assert 0 < gone < 0.2
    if experiment == 'distil-only': assert gone == 0
    views = {v['kind'] for stage in report['stages'].values() for v in stage['views']}
    assert views == ({'crop'} if experiment == 'distil-only' else {'noise', 'crop'})   # noise where the corpus has any
    names = ['teacher', 'student']
    if experiment == 'pruning':
        names += ['from scratch', 'L1 pruning', 'L1 pruning, same MACs', 'L1 pruning, distilled']
    assert list(report['wer']) == names == list(report['costs'])
    assert set(report['differences']) == {*names} - {'student'}
    assert set(report['wer']['student']['av']) == {'clean', 'babble@0'}
    assert report['data']['id'].startswith('embedded-') and report['config']['seed'] == 0
    assert report['stages']['finetune']['task']['kind'] == 'finetune'
    clips = clips_of(report)   # distillation hears all, fine-tuning has a tenth of the transcripts
    assert {clips[n] for n in ('joint', 'distill') if n in clips} == {16} and clips['finetune'] == 2
    if experiment == 'pruning':
        assert pictures(out, 'dp_avhubert') == 12
        assert {d['unit'] for d in report['compression']['dims'].values()} == {'conv', 'head', 'ffn'}
        assert same_size(report, 'L1 pruning', 'params') and same_size(report, 'L1 pruning, same MACs', 'macs')
        assert report['costs']['from scratch']['params'] == report['costs']['student']['params']
        length = updates_of(report, 'joint', 'distill', 'finetune')
        assert {updates_of(report, n) for n in ('scratch', 'l1', 'l1_macs')} == {length}
        assert updates_of(report, 'l1_distill', 'l1_finetune') == length


@pytest.fixture(scope='module')
def listeners(work, tmp_path_factory):
    "A teacher of waveforms, made by its own recipe on the same corpus."
    once(tmp_path_factory, 'listeners', lambda folder: make_listener(work))
    return work


def film_person(folder):
    "A film of a drawn head, named by what is said."
    folder.mkdir()
    speaker, rng = make_speaker('test', 1, 0), keyed_rng(0, 'film')
    wav, phones = speak_clip('bin blue at f two now', speaker, rng)
    heads, mask = draw_heads(draw_clip(phones, 30, speaker, rng), speaker.face)
    wall = np.full((30, 240, 320), 90, np.uint8)
    write_film(folder/'bbaf2n.mp4', place_heads(wall, heads, mask, turn_about(0.8, 0, (150, 150))), wav[:30*640])
    return folder


def make_listener(work):
    out = work/'audio_teacher'
    report = execute('pretrain_audio_teacher', out, preset='smoke_audio', out=str(out), phone_updates=2, word_updates=2,
                     data_folder=str(work/'teacher'/'corpus'), finetune_updates=2, vocab_size=60, beam_size=1,
                     variety='life', real_clips=str(film_person(work/'people')))
    assert set(report['measured']['real']['teacher']) == {'a'}
    assert [v['kind'] for v in report['stages']['finetune']['views']] == ['noise', 'hearing']
    assert updates_of(report, 'finetune') == 2 and set(report['wer']['teacher']) == {'a'}
    assert set(report['measured']['wer_valid']['teacher']['a']) == set(report['wer']['teacher']['a'])


PROBES = dict(probe_clips=[12, 2, 3], probe_updates=20)   # small ones


def listen(work, out, **kwargs):
    "Parameters of a short run of `dphubert`."
    return dict(preset='smoke_audio', out=str(out), data_folder=str(work/'teacher'/'corpus'), noises=['babble'],
                teacher=str(work/'audio_teacher'/'model'), snrs=[0], beam_size=1, at_once=1) | kwargs


def test_dphubert(listeners):
    out = listeners/'dphubert'
    every = ['distilhubert', 'scratch', 'l1', 'l1-macs']
    parameters = listen(listeners, out, baselines=every, **PROBES)
    report = execute('dphubert', out, **parameters)
    assert abs(report['compression']['encoder_params'] - 0.75) < 0.01
    names = ['teacher', 'student', 'DistilHuBERT', 'from scratch', 'L1 pruning', 'L1 pruning, same MACs']
    assert names == list(report['wer']) == list(report['costs']) == list(report['measured']['phone_accuracy'])
    assert all(same_size(report, n) for n in ('DistilHuBERT', 'from scratch', 'L1 pruning'))
    assert same_size(report, 'L1 pruning, same MACs', 'macs')
    length = updates_of(report, 'joint', 'distill', 'finetune')
    assert updates_of(report, 'distilhubert', 'distilhubert_finetune') == length
    assert {updates_of(report, n) for n in ('scratch', 'l1', 'l1_macs')} == {length}
    assert {n for n, clips in clips_of(report).items() if clips == 16} == {'joint', 'distill', 'distilhubert'}
    assert set(report['differences']['teacher']['a']) == {'clean', 'babble@0'}
    assert list(report['measured']['similarity']) == names[1:]
    assert len(report['measured']['similarity']['student']['cka']) == 5
    written = {p.name for p in (out/'s3prl').iterdir()}
    assert written >= {'hubconf.py', 'expert.py', 'config.json', 'model.safetensors'}
    assert pictures(out, 'dphubert') == 19


ROWS = {'attention', 'layer_wise', 'intra_layer'}   # of what is measured of relations


def looked_inside(report, names):
    "What a recipe of thin students measures layer by layer: four numbers for each way and model."
    found = report['measured']
    assert list(found['similarity']) == list(found['relations']) == ['as distilled', *names]
    for ways in found['relations'].values():
        assert set(ways) == ROWS and {len(layers) for layers in ways.values()} == {4}


def test_armhubert(listeners):
    "Maps are reused, holes guessed, heads taken off before texts are learned."
    out = listeners/'armhubert'
    parameters = listen(listeners, out, preset='smoke_armhubert', hidden=0.5, baselines=['own-maps'], probe_clips=[])
    report = execute('armhubert', out, **parameters)
    names, costs = ['teacher', 'student', 'own maps'], report['costs']
    assert names == list(report['wer']) == list(costs)
    assert costs['student']['params'] < costs['own maps']['params'] < costs['teacher']['params']
    assert report['compression']['map_sources'] == [1, 1, 3, 3]
    assert report['stages']['distill']['task']['terms'][0]['spans']['prob'] == 0.5
    looked_inside(report, names[1:])
    assert {k: len(layers) for k, layers in report['measured']['holes'].items()} == dict(hidden=4, seen=4, teacher=4)
    assert [load_model(out/p).projection_dim for p in ('s3prl', 'finetune/model')] == [128, 0]
    assert {n for n, clips in clips_of(report).items() if clips == 16} == {'distill', 'own_maps_distill'}
    assert pictures(out, 'armhubert') == 19


def test_starhubert(listeners):
    "A teacher that cannot write yet; one kind of relations, and what a student is compared with."
    out = listeners/'starhubert'
    torch.manual_seed(0)
    save_model(new_encoder('hubert_tiny', head='none'), out/'teacher')
    parameters = listen(listeners, out, preset='smoke_starhubert', relations=['intra_layer'], scale='cosine',
                        teacher=str(out/'teacher'), tokenizer=str(listeners/'teacher'/'tokenizer.model'),
                        baselines=['layers', 'scratch'], probe_clips=[])
    report = execute('starhubert', out, **parameters)
    names = ['teacher', 'student', 'L1 and cosine', 'from scratch']
    assert names == list(report['wer']) == list(report['costs'])
    assert len({report['costs'][n]['params'] for n in names[1:]}) == 1
    term, = report['stages']['distill']['task']['terms']
    asked = {k: term[k] for k in ('layer_wise', 'intra_layer', 'attention', 'scale')}
    assert asked == dict(layer_wise=0., intra_layer=1., attention=0., scale='cosine')
    looked_inside(report, names[1:])
    assert updates_of(report, 'scratch') == updates_of(report, 'distill', 'finetune')
    assert 'teacher_finetune' in report['jobs'] and pictures(out, 'starhubert') == 19


def packed(corpus, folder, *splits):
    "Splits of a corpus as shards, without any noise."
    for split in splits: write_shar(load_cuts(corpus, split), folder, split, 4)
    return str(folder)


def test_dphubert_on_shards(listeners):
    "Another layout, no noise, and no baselines."
    out = listeners/'shards'
    folder = packed(listeners/'teacher'/'corpus', out/'shar', 'train', 'valid', 'test')
    parameters = listen(listeners, out, data_layout='shar', data_folder=folder, baselines=[], **PROBES)
    report = execute('dphubert', out, **parameters)
    assert list(report['wer']) == ['teacher', 'student'] and set(report['wer']['student']['a']) == {'clean'}
    assert [v for stage in report['stages'].values() for v in stage['views']] == []
    assert report['data']['noises'] == {} and set(report['jobs']) == {'joint', 'distill', 'finetune'}
    assert list(report['measured']['phone_accuracy']) == ['teacher', 'student']   # shards know what is said when


def test_no_test_split_is_refused(listeners):
    "Before anything is trained."
    out = listeners/'no_test'
    folder = packed(listeners/'teacher'/'corpus', out/'shar', 'train', 'valid')
    with pytest.raises(papermill.PapermillExecutionError, match='evaluation: the corpus shar-.* has no test split'):
        execute('dphubert', out, **listen(listeners, out, data_layout='shar', data_folder=folder))
    assert not (out/'joint').exists()


AUDIO = str(ROOT/'avcomp'/'assets'/'audio_teacher_tiny')


def measured_in_noise(work, out):
    "Parameters of a short run of `robustness`: a model that sees and hears, one that reads lips, one that listens."
    corpus = work/'teacher'/'corpus'
    units = train_units((c.supervisions[0].text for c in load_cuts(corpus, 'train')), out/'units.model', 60)
    small = dict(num_layers=1, decoder_layers=1, embed_dim=32, ffn_dim=64, video_widths=(4, 4, 8, 8))
    save_model(VSR(vsr_config('tiny', **small, vocab_size=units.vocab_size)), out/'lips')
    models = {'both': str(work/'teacher'/'model'), 'lips': str(out/'lips'), 'ears': AUDIO}
    return dict(models=models, tokenizers={'lips': str(out/'units.model')}, out=str(out), data_folder=str(corpus),
                noises=['babble'], snrs=[0], kinds=['blur', 'block'], levels=[2, 9], sums=['blur#2+babble@0'],
                beam_size=1, at_once=1)


def test_robustness(work):
    out = work/'robustness'
    parameters = measured_in_noise(work, out)
    report = execute('robustness', out, **parameters)
    blurred, means = {'blur#2', 'blur#9', 'block#2', 'block#9'}, {'mean#2', 'mean#9'}
    everything = {'clean', 'babble@0', 'blur#2+babble@0', *blurred, *means}
    assert {m: set(c) for m, c in report['wer']['both'].items()} == {
        'av': everything, 'a': {'clean', 'babble@0', 'blur#2+babble@0'}, 'v': everything - {'babble@0'}}
    heard = {name: list(by) for name, by in report['wer'].items()}
    assert heard == {'both': ['av', 'a', 'v'], 'lips': ['v'], 'ears': ['a']}
    assert report['wer']['ears']['a']['clean']['value'] < 0.5
    assert {name: list(by) for name, by in report['differences'].items()} == {'lips': ['v'], 'ears': ['a']}
    losses = report['measured']['losses']['ears']['a']
    assert set(losses) == {'babble@0', 'blur#2+babble@0'} and losses['babble@0'] == losses['blur#2+babble@0']
    assert report['measured']['families'] == {'both': 'avhubert_s2s', 'lips': 'vsr', 'ears': 'hubert'}
    assert report['jobs'] == report['stages'] == {} and len(report['findings']) == 4 and len(report['costs']) == 3
    found = {p: p.stat().st_mtime_ns for p in (out/'eval').iterdir()}
    again = execute('robustness', out, **parameters | dict(snrs=[], sums=[], kinds=['blur'], reference='ears'))
    assert found == {p: p.stat().st_mtime_ns for p in (out/'eval').iterdir()}   # nothing was measured again
    assert again['wer']['lips']['v'] == {c: report['wer']['lips']['v'][c] for c in ('clean', 'blur#2', 'blur#9')}
    assert list(again['differences']) == ['both'] and list(again['wer']['ears']['a']) == ['clean']


def test_robustness_is_refused(work, tmp_path):
    "All that is wrong is one error, before anything is measured."
    parameters = measured_in_noise(work, tmp_path) | dict(noises=['babble', 'rain'], sums=['fog#3'], snrs=[0, 5])
    train_tokenizer(['red green blue']*4, tmp_path/'other.model', 20)
    save_model(VSR(vsr_config('tiny', num_layers=1, decoder_layers=0, vocab_size=0)), tmp_path/'mute')
    parameters['models'] |= {'gone': 'no/such/model', 'mute': str(tmp_path/'mute')}
    parameters['tokenizers'] = {'lips': str(tmp_path/'other.model')}
    with pytest.raises(papermill.PapermillExecutionError, match='5 things to mend') as e:
        execute('robustness', tmp_path, **parameters)
    for told in ("recordings of 'rain'", "noise 'fog'", 'no file or folder no/such/model', 'without a head',
                 'but its tokenizer'): assert told in str(e.value), told
    assert not (tmp_path/'eval').exists()


@pytest.fixture(scope='module')
def lips(work, tmp_path_factory):
    "A lip reader that has learned nothing."
    def make(folder):
        shape = dict(num_layers=1, embed_dim=32, ffn_dim=64, num_heads=2, decoder_layers=1, decoder_ffn_dim=64,
                     decoder_heads=2, video_widths=(4, 4, 8, 8), video_stride=8)
        torch.manual_seed(0)
        save_model(VSR(vsr_config('tiny', **shape)), folder/'model')
    return once(tmp_path_factory, 'lips', make)/'model'


def prune(work, lips, out, **kwargs):
    "Parameters of a short run of `sparse_vsr`."
    return dict(preset='smoke_sparse_vsr_tiny', student=str(lips), out=str(out), beam_size=1, at_once=1,
                data_folder=str(work/'teacher'/'corpus'), sparsities=[0.5], kinds=['blur', 'contrast'], levels=[10],
                noisy_sparsities=[0.5]) | kwargs


def test_sparse_vsr(work, lips):
    "Methods, a pattern, another point to go back to, and a model trained in noise; each is as sparse as it says."
    out = work/'sparse_vsr'
    parameters = prune(work, lips, out, methods=['naive', 'lth'], rewind_epochs=[40], patterns=['2:4'])
    report = execute('sparse_vsr', out, **parameters)
    models, jobs = {m['model']: m for m in report['measured']['models']}, report['jobs']
    sparse = ['naive 50 %', 'LTH 50 %', 'LTH, back to 40 50 %', 'iterative LRR 50 %, in noise']
    assert list(models) == list(report['wer']) == ['dense', *sparse[:3], 'LRR, 2:4 50 %', 'dense, in noise', sparse[3]]
    assert {n: j['updates'] for n, j in jobs.items() if n != 'noisy_iterative_lrr_50'} == {
        'dense': 3, 'naive_50': 0, 'lth_50': 3, 'lth_from_40_50': 3, 'lrr_2of4_50': 3,
        'noisy_dense': 3}
    ranked = sum(report['compression']['weights'].values())
    for name in sparse:
        assert models['dense']['params'] - models[name]['params'] == round(ranked/2)
        assert sum(report['compression']['kept'][name]) == ranked - round(ranked/2)
    assert all(m['bytes'] < m['dense_bytes'] for name, m in models.items() if 'dense' not in name)
    in_noise = [name for name, by in report['wer'].items() if set(by['v']) == {'clean', 'blur#10', 'contrast#10'}]
    assert in_noise == ['dense', 'dense, in noise', 'iterative LRR 50 %, in noise'] == list(report['measured']['noise'])
    claims = report['measured']['claims']
    assert list(claims['In noise, sparse models beat the dense one']['points']) == ['50 %']
    assert [len([f for f in report['findings'] if f.startswith(f'{c}: ')]) for c in claims] == [1]*len(claims)
    costs = report['costs']
    assert list(costs) == ['dense', 'LTH 50 %', 'LRR, 2:4 50 %', 'LTH 50 %, emptied channels cut']
    assert costs['LTH 50 %']['macs'] == costs['dense']['macs'] >= costs['LTH 50 %, emptied channels cut']['macs']
    assert pictures(out, 'sparse_vsr') == 10
    again = check_again('sparse_vsr', out, parameters, report)
    table = sparsity_table(rows_of([report, again])).splitlines()
    assert table[0] == '| removed | naive | LTH | LTH, back to 40 | LRR, 2:4 |'
    assert [row[:6] for row in table[2:]] == ['| 0 % ', '| 50 %']


REFUSALS = {   # what is wrong -> parameters, and what is told
    'method': (dict(methods=['magic']), "no choice 'magic'"),
    'point': (dict(rewind_epochs=[4]), "parameter 'rewind_epochs' has no choice 4"),
    'falling': (dict(sparsities=[0.8, 0.5]), 'rising shares'),
    'no pictures': (dict(data_folder='silent'), 'no video'),
    'level': (dict(levels=[11]), '11'),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_sparse_vsr_is_refused(case, work, lips, tmp_path):
    "Before anything is trained."
    changes, told = REFUSALS[case]
    if 'data_folder' in changes:
        corpus = make_corpus(tmp_path/'silent', clips=(2, 1, 1), noise_files=(1, 1, 1), num_workers=0, video=False)
        changes = dict(data_folder=str(corpus))
    out = tmp_path/'run'
    with pytest.raises(papermill.PapermillExecutionError, match=told):
        execute('sparse_vsr', out, **prune(work, lips, out, **changes))
    assert [p.name for p in out.iterdir() if p.is_dir()] == []


def beside(work, out, **kwargs):
    "Parameters of a short run of `compare`."
    return dict(preset='smoke_audio', teacher=str(work/'audio_teacher'/'model'), out=str(out), updates=6, snrs=[0],
                data_folder=str(work/'teacher'/'corpus'), beam_size=1, at_once=1, families=[]) | kwargs


def test_compare(listeners):
    "Sizes are what was asked for, budgets are equal, and another run's report joins in."
    out = listeners/'compare'
    parameters = beside(listeners, out, methods=['gates', 'arm', 'gates+int8', 'scratch'],
                        families=['hubert_tiny'])
    report = execute('compare', out, **parameters)
    names = ['gates 75 %, seed 0', 'ARM 75 %, seed 0', 'gates, int8 75 %, seed 0', 'from scratch 75 %, seed 0']
    names = ['teacher', *names]
    assert list(report['wer']) == list(report['costs']) == names == [m['name'] for m in report['measured']['models']]
    assert all(abs(report['compression']['params'][name] - 0.75) < 0.01 for name in names[1:])
    lengths = {n: job['updates'] for n, job in report['jobs'].items()}
    for m in ('gates', 'arm', 'scratch'): assert sum(u for n, u in lengths.items() if n.startswith(f'seed0/{m}_')) == 6
    assert {n for n, clips in clips_of(report).items() if clips == 16} == {
        'seed0/gates_75/pruning', 'seed0/gates_75/distill', 'seed0/arm_75/masked'}
    points = {p['model']: p for p in report['measured']['points']}
    assert points['gates, int8 75 %']['bytes'] < points['gates 75 %']['bytes'] < points['teacher']['bytes']
    assert all(set(p['wer']) == {'clean', 'babble@0', 'noise'} for p in points.values())
    fewest = min(report['measured']['models'], key=lambda m: m['bytes'])['model']
    assert report['measured']['fronts']['bytes']['clean'][0] == fewest
    claims = report['measured']['claims']
    judged = ['gates', 'ARM', 'gates, int8']
    assert {c: list(found) for c, found in claims.items()} == dict(clean=judged, noise=judged)
    assert list(claims['clean']['ARM']['points']) == ['75 %, seed 0'] and len(report['findings']) == 6
    tried = report['measured']['pairs']['hubert_tiny']   # tests/test_pairs.py tries them on all
    assert len(tried) == 20 and all(pair['refused'] or all(pair['checks'].values()) for pair in tried)
    assert pictures(out, 'compare') == 6
    before = (out/'report.json').rename(out/'before.json')
    more = beside(listeners, out, methods=['gates', 'int8'], reports=[str(before)])
    joined = execute('compare', out, **more)
    assert printed(out, 'compare').count('skipped') == len(joined['jobs']) == 3
    assert list(joined['wer']) == ['teacher', 'gates 75 %, seed 0', 'int8'] and joined['measured']['claims'] == {}
    assert joined['wer']['teacher'] == report['wer']['teacher']
    assert {p['model'] for p in joined['measured']['points']} == {*points, 'int8'}


def test_compare_of_sight_and_sound(work):
    "A teacher that sees and hears; students of as many products."
    out = work/'compare'
    parameters = beside(work, out, preset='smoke', teacher=str(work/'teacher'/'model'), methods=['star', 'int8'],
                        counted=['macs'], sparsities=[0.5])
    report = execute('compare', out, **parameters)
    assert list(report['wer']) == ['teacher', 'STaR 50 % of MACs, seed 0', 'int8']
    assert report['measured']['modality'] == 'av' and {m for by in report['wer'].values() for m in by} == {'av'}
    costs = report['costs']
    assert 0.45 < costs['STaR 50 % of MACs, seed 0']['macs']/costs['teacher']['macs'] < 0.55
    assert costs['int8']['macs'] == costs['teacher']['macs']


def test_compare_is_refused(listeners, tmp_path):
    "Sizes that no student can have, before anything is trained."
    with pytest.raises(papermill.PapermillExecutionError, match='thinnest network'):
        execute('compare', tmp_path, **beside(listeners, tmp_path, methods=['scratch'], sparsities=[0.999]))
    assert not (tmp_path/'seed0').exists()


TOY = """import json
from pathlib import Path
Path(out).mkdir(parents=True, exist_ok=True)
rates = {'clean': {'value': target_sparsity/10 + seed/100}}
found = dict(compression=dict(encoder_params=target_sparsity), wer=dict(student=dict(av=rates)))
Path(f'{out}/report.json').write_text(json.dumps(found))"""


def test_grid(tmp_path):
    "Two sparsities and two seeds; a second start runs nothing."
    recipe, out = tmp_path/'toy.ipynb', tmp_path/'grid'
    cells = [nbformat.v4.new_code_cell('out, target_sparsity, seed = "", 0., 0', metadata={'tags': ['parameters']}),
             nbformat.v4.new_code_cell(TOY)]
    metadata = {'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), recipe)
    axes = {'target_sparsity': [0.5, 0.7], 'seed': [0, 1]}
    grid = dict(recipe=str(recipe), out=str(out), axes=axes, parameters={}, at_once=2)
    found = execute('grid', out, **grid)['measured']
    rows, means = found['rows'], found['over_seeds']
    assert [(row['sparsity'], round(row['WER'], 3)) for row in rows] == [(.5, .05), (.5, .06), (.7, .07), (.7, .08)]
    assert all(row['WER, babble 0 dB'] is None for row in rows + means) and pictures(out, 'grid') == 1
    assert [(row['runs'], *(round(n, 4) for n in row['WER'])) for row in means] == [(2, .055, .0071), (2, .075, .0071)]
    assert '0.055 ± 0.0071' in (out/'grid.html').read_text()
    logs = {p: p.stat().st_mtime_ns for p in out.glob('*/log.txt')}
    assert len(logs) == 4 and execute('grid', out, **grid)['measured'] == found
    assert logs == {p: p.stat().st_mtime_ns for p in out.glob('*/log.txt')}


def test_unknown_preset_is_refused(work, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="no choice 'huge'"):
        execute('dp_avhubert', tmp_path, preset='huge', out=str(tmp_path), data_folder=str(work/'teacher'/'corpus'))


@pytest.mark.parametrize('name', ['dp_avhubert', 'dphubert', 'armhubert'])
def test_readme_gives_the_same_command(name):
    "The command for the real corpus stands in the recipe and in README.md, and its parameters are the recipe's."
    nb = nbformat.read(ROOT/'nbs'/'recipes'/f'{name}.ipynb', as_version=4)
    command = re.search(r'```sh\n((?:.*\n)*?)```', nb.cells[-1].source)[1]
    assert command in (ROOT/'README.md').read_text(encoding='utf-8')
    stated = next(c.source for c in nb.cells if 'parameters' in c.metadata.get('tags', []))
    known = set(re.findall(r'^(\w+):', stated, re.M))
    asked = re.findall(r'-p (\w+) ', command)
    assert len(asked) > 8 and set(asked) <= known and {'transcribed', 'at_once'} <= set(asked)
