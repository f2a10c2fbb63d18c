"Recipes that cannot fail late: parameters as they arrive, and every finding before the first stage."
import json
import shutil
from dataclasses import replace
from pathlib import Path

import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError
from papermill.cli import papermill as command
from click.testing import CliRunner

from avcomp.changes import change
from avcomp.compress.pruning import Gating
from avcomp.data.clips import load_cuts, save_cuts
from avcomp.data.shards import write_shar
from avcomp.data.synthetic import make_corpus
from avcomp.data.tokens import train_tokenizer
from avcomp.models.checkpoints import save_model
from avcomp.models.hubert import Hubert, hubert_config
from avcomp.train.check import Evaluation, check_jobs
from avcomp.train.job import Data, Job
from avcomp.train.presets import table
from avcomp.train.pretrain import Pretrain

PARAMETERS = """subset:str = ''
snrs:list = [0, 5]
clips:list = [1600, 100, 120]
seed:int = 0
target_sparsity:float = 0.7
cache:bool = True
slurm:dict = {}"""
READ = """import json
from avcomp.train.parameters import typed_parameters
globals().update(typed_parameters(globals()))
json.dump({n: globals()[n] for n in __annotations__}, open('found.json', 'w'))"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    "A notebook that reads its parameters and writes them down; returns a call of papermill's command line."
    monkeypatch.chdir(tmp_path)
    first = new_code_cell(PARAMETERS, metadata={'tags': ['parameters']})
    papermill.iorw.write_ipynb(new_notebook(cells=[first, new_code_cell(READ)], metadata={
        'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}}), 'recipe.ipynb')

    def call(*args):
        res = CliRunner().invoke(command, ['recipe.ipynb', 'out.ipynb', '--no-progress-bar', *args])
        if isinstance(res.exception, PapermillExecutionError): raise res.exception
        assert res.exit_code == 0, res.output
        return json.loads((tmp_path/'found.json').read_text())
    return call


def test_parameters_by_papermill(recipe):
    found = recipe('-p', 'subset', '960', '-r', 'seed', '3', '-p', 'target_sparsity', '1', '-r', 'cache', 'False',
                   '-p', 'clips', '[16, 4, 6]', '-y', '{snrs: [-5], slurm: {partition: gpu}}')
    assert found == dict(subset='960', seed=3, target_sparsity=1., cache=False, clips=[16, 4, 6], snrs=[-5],
                         slurm={'partition': 'gpu'})
    assert [type(found[n]) for n in ('seed', 'target_sparsity')] == [int, float]


@pytest.mark.parametrize('args, told', [
    (('-p', 'target_sparsty', '0.5'), "no parameter 'target_sparsty' (did you mean 'target_sparsity'?)"),
    (('-p', 'seed', '0.7'), "'seed' is of type int, got 0.7, of type float; pass it as in -p seed 3")])
def test_bad_parameters_by_papermill(recipe, args, told):
    with pytest.raises(PapermillExecutionError) as e: recipe(*args)
    assert told in str(e.value)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A corpus with noise, a toy HuBERT that writes and one that does not, and tokenizers."
    folder = tmp_path_factory.mktemp('checks')
    make_corpus(folder/'corpus', clips=(8, 2, 3), noise_files=(1, 1, 1), video=False, num_workers=0)
    texts = [c.supervisions[0].text for c in load_cuts(folder/'corpus', 'train')]
    for name, size in (('tokenizer', 40), ('other', 30)): train_tokenizer(texts, folder/f'{name}.model', size)
    small = dict(num_layers=4, embed_dim=32, ffn_dim=64, conv_dims=(8,)*7, pos_groups=4)
    save_model(Hubert(hubert_config('hubert_tiny', **small)), folder/'bare')
    writer = Hubert(hubert_config('hubert_tiny', **small, vocab_size=40))
    save_model(writer, folder/'unnamed')   # a head, and no tokenizer
    writer.tokenizer_proto = (folder/'tokenizer.model').read_bytes()
    save_model(writer, folder/'writer')
    return folder


@pytest.fixture
def plan(made, tmp_path):
    "The jobs of a recipe that begins with a teacher that does not write yet, and its evaluation."
    chain, out, corpus = table.stages('smoke_audio'), tmp_path/'out', tmp_path/'corpus'
    shutil.copytree(made/'corpus', corpus)
    data = Data(folder=str(corpus), modalities=('wav',))
    follow = {'task.teacher': str(made/'bare')}
    def job(stage, student, changes, out): return Job(change(chain[stage], changes), data, str(student), str(out))
    writes = {'task.head_from': str(out/'teacher'/'model')}
    jobs = {
        'teacher': job('finetune', made/'bare', {'task.tokenizer': str(made/'tokenizer.model')}, out/'teacher'),
        'joint': job('joint', made/'bare', follow, out/'joint'),
        'distill': job('distill', out/'joint'/'model', follow | {'task.maps': str(out/'joint'/'maps.safetensors')},
                       out/'distill'),
        'finetune': job('finetune', out/'distill'/'model', writes, out/'finetune'),
        'l1': job('finetune', out/'sliced', writes, out/'l1'),
    }
    evaluation = Evaluation(('teacher', 'finetune'), conditions=('clean', 'babble@0'), modalities=('a',),
                            max_frames=1000, others=('valid',))
    return jobs, {out/'sliced': str(made/'bare')}, evaluation, corpus


def test_plan_is_looked_at(plan, tmp_path):
    jobs, made, evaluation, corpus = plan
    checked = check_jobs(jobs, made, evaluation)
    assert checked.rows() == [['teacher, joint, distill, finetune, l1', 'train', 8, ''],
                              ['teacher, joint, distill, finetune, l1, evaluation', 'valid', 2, ''],
                              ['evaluation', 'test', 3, '']]
    assert checked.noises['test'] == dict.fromkeys(('babble', 'music', 'noise', 'speech'), 1)
    assert not (tmp_path/'out').exists()


def rewrite(corpus, split, f):
    "Change the clips of a manifest."
    save_cuts([f(c) for c in load_cuts(corpus, split)], corpus, split)


def speechless(cut):
    cut.supervisions[0].text = ' '
    return cut


def lose(corpus, split): Path(next(iter(load_cuts(corpus, split))).recording.sources[0].source).unlink()


def without(corpus, pattern):
    for path in corpus.glob(pattern): path.unlink()


# what is done to a corpus, or to jobs, and what is told
CORPORA = [
    ('no test', lambda c: without(c, 'test.jsonl.gz'), 'evaluation: the corpus .* has no test split, but train, valid'),
    ('no valid', lambda c: without(c, 'valid.jsonl.gz'), 'evaluation: the corpus .* has no valid split'),
    ('no train', lambda c: without(c, 'train.jsonl.gz'), 'joint: no clip to train on .*no list of the train'),
    ('no corpus', shutil.rmtree, 'data: expected train.jsonl.gz'),
    ('no words to train', lambda c: rewrite(c, 'train', speechless), 'teacher: 8 of 8 .*empty transcript'),
    ('no words to test', lambda c: rewrite(c, 'test', speechless), 'evaluation: 3 of 3 clips .*empty transcript'),
    ('lost sound', lambda c: lose(c, 'test'), 'evaluation: 1 of 3 clips .*missing file'),
    ('lost noise', lambda c: lose(c, 'noise_music_test'), 'evaluation: 1 of 4 recordings of noise'),
    ('no noise', lambda c: without(c, 'noise_*.jsonl.gz'), 'joint: clips are mixed with noise, but'),
    ('no test noise', lambda c: without(c, 'noise_*_test.jsonl.gz'), "evaluation: noise needs recordings of 'babble'"),
]
JOBS = [
    ('target', {'joint': {'stage.methods.gates.target': 0.999}}, 'joint: target sparsity 0.999 cannot be reached'),
    ('MACs', {'joint': {'stage.methods.gates.target': 0.99, 'stage.methods.gates.macs_frames': 50}}, 'be reached'),
    ('units', {'joint': {'stage.methods.gates.units': ('experts',)}}, "joint: units .'experts'. are not in this model"),
    ('warmup', {'joint': {'stage.methods.gates.warmup': 99}}, "joint: the method 'gates' counts .*but the stage has 3"),
    ('layers', {'distill': {'stage.task.terms.layers.groups': ((0,), (2, 12))}}, 'distill: the student has hidden'),
    ('maps', {'distill': {'stage.task.terms.layers.groups': ((0, 2, 4),)}}, 'distill: maps go on from an earlier'),
    ('teacher', {'distill': {'stage.task.teacher': 'nowhere/model.pt'}}, 'distill: .*no file or folder nowhere'),
    ('student', {'l1': {'stage.task.head_from': '', 'student': 'no/sliced/model'}}, 'l1: .*no file or folder no'),
    ('lengths', {'joint': {'data.min_frames': 400}}, "joint: no clip to train on .*'under 400 frames"),
    ('streams', {'joint': {'data.modalities': ('audio',)}}, "joint: .* reads .'wav',.*modalities .'audio'"),
    ('optimizer', {'teacher': {'stage.fit.optimizer.betas': (0.9, 2.)}}, 'teacher: Invalid beta'),
    ('labels', {'joint': {'stage.task': Pretrain(labels='nowhere')}}, 'joint: .*no such head'),
    ('slurm', {'joint': {'run.launcher': 'slurm', 'run.slurm': {'houres': 1}}}, "joint: slurm settings are .*'houres'"),
    ('no tokenizer', {'teacher': {'stage.task.tokenizer': ''}}, 'teacher: fine-tuning an encoder needs a tokenizer'),
    ('kept weights', {'teacher': {'stage.fit.keep': (3,), 'stage.methods': (Gating(),)}}, 'teacher: weights are kept'),
]


@pytest.mark.parametrize('damage, told', [row[1:] for row in CORPORA], ids=[row[0] for row in CORPORA])
def test_corpus_is_looked_at(plan, damage, told):
    jobs, made, evaluation, corpus = plan
    jobs = {name: jobs[name] for name in ('teacher', 'joint')}
    damage(corpus)
    with pytest.raises(ValueError, match=told): check_jobs(jobs, made, replace(evaluation, models=('teacher',)))


@pytest.mark.parametrize('changes, told', [row[1:] for row in JOBS], ids=[row[0] for row in JOBS])
def test_jobs_are_looked_at(plan, changes, told):
    jobs, made, _, _ = plan
    [(name, fields)] = changes.items()
    first = {'joint': jobs['joint']} if name == 'distill' else {}
    jobs = first | {name: change(jobs[name], fields)}
    with pytest.raises(ValueError, match=told): check_jobs(jobs, made)


def test_tokenizers_are_looked_at(plan, made):
    "A head goes with one tokenizer; a head that no tokenizer names is replaced where one is given, or refused."
    jobs, like, evaluation, _ = plan
    other = {'stage.task.tokenizer': str(made/'other.model')}
    told = 'l1: the head in .* writes by its own tokenizer of .* another one was given'
    few = {name: jobs[name] for name in ('teacher', 'l1')}
    with pytest.raises(ValueError, match=told): check_jobs(few | {'l1': change(jobs['l1'], other)}, like)
    unnamed = change(jobs['teacher'], {'student': str(made/'unnamed')})
    check_jobs(few | {'teacher': unnamed}, like, replace(evaluation, models=('teacher', 'l1')))
    lent = change(jobs['l1'], {'stage.task.head_from': str(made/'unnamed')})
    with pytest.raises(ValueError, match='l1: .* carries no tokenizer'): check_jobs({'l1': lent}, like)
    there = replace(evaluation, models=(str(made/'unnamed'), str(made/'bare')))
    with pytest.raises(ValueError, match='2 things(.|\n)*unnamed: .*carries no tokenizer(.|\n)*bare: .*without a head'):
        check_jobs({'teacher': jobs['teacher']}, like, there)


def silent(job): return change(job, {'stage': table.without_noise({'a': job.stage})['a']})


def test_evaluation_without_noise(plan):
    "Nothing is asked of noise where views and conditions have none."
    jobs, made, evaluation, corpus = plan
    without(corpus, 'noise_*.jsonl.gz')
    quiet = {'teacher': silent(jobs['teacher'])}
    checked = check_jobs(quiet, made, replace(evaluation, models=('teacher',), conditions=('clean',)))
    assert checked.noises == {} and checked.clips['evaluation']['test'] == {'kept': 3}


def test_shards_are_looked_at(plan, tmp_path):
    "A plan on shards: nothing is read but indices."
    jobs, made, evaluation, corpus = plan
    for split in ('train', 'valid', 'test'): write_shar(load_cuts(corpus, split), tmp_path/'shar', split, 4)
    data = Data('shar', str(tmp_path/'shar'), modalities=('wav',))
    quiet = {'teacher': change(silent(jobs['teacher']), {'data': data})}
    evaluation = replace(evaluation, models=('teacher',), conditions=('clean',))
    checked = check_jobs(quiet, made, evaluation)
    assert checked.clips['evaluation'] == {'test': {'kept': 3}, 'valid': {'kept': 2}}
    next((tmp_path/'shar'/'test').glob('recording*')).unlink()
    with pytest.raises(ValueError, match='evaluation: the shards in .*missing'):
        check_jobs(quiet, made, evaluation)
