"A lip reader from nothing to a sparse one, with a smaller one that follows it; and what is refused before it starts."
import pytest, torch
from dataclasses import replace
from pathlib import Path
from avcomp.changes import change
from avcomp.compress.magnitude import prunable_weights
from avcomp.compress.sparse_training import Magnitude
from avcomp.data.clips import load_cuts
from avcomp.data.synthetic import make_corpus
from avcomp.data.units import train_units
from avcomp.models.checkpoints import load_model, save_model
from avcomp.models.vsr import VSR, vsr_config
from avcomp.train.check import Evaluation, check_jobs
from avcomp.train.engine import run
from avcomp.train.progress import kept_model
from toy import LIPS, corpus, job, parts

LINE = 'smoke_sparse_vsr_tiny'

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A lip reader that is half as wide."
    torch.manual_seed(3)
    config = vsr_config('tiny', **LIPS | dict(embed_dim=16, num_heads=2, decoder_heads=2))
    return save_model(VSR(config), tmp_path_factory.mktemp('small')/'model')

@pytest.fixture
def line(job, small, tmp_path):
    "Jobs by name: dense, a pruned round after it, and a small one that follows it."
    dense = job(f'{LINE} dense', tmp_path/'dense')
    model = str(tmp_path/'dense'/'model')
    keeps = {'stage.fit.keep': (), 'student': model}
    sparse = change(dense, keeps | {'stage.methods': (Magnitude(0.5, model),), 'out': str(tmp_path/'sparse')})
    follow = job(f'{LINE} distill', tmp_path/'small', {'task.teacher': model})
    return {'dense': dense, 'sparse': sparse, 'small': replace(follow, student=str(small))}

def zeros(model):
    weights = prunable_weights(model).values()
    return sum(int((w == 0).sum()) for w in weights)/sum(w.numel() for w in weights)

def test_from_nothing_to_sparse(line, parts, tmp_path):
    reports = {name: run(job) for name, job in line.items()}
    models = {name: load_model(tmp_path/name/'model') for name in line}
    for model in models.values():
        assert model.family == 'vsr' and model.tokenizer_proto == (parts/'units.model').read_bytes()
        assert model.config.vocab_size == models['dense'].config.vocab_size
        assert list(model.heads) == ['ctc_head', 'decoder']
    assert models['small'].config.embed_dim == 16
    # the mean of all three points, and the last of them beside it
    fit = line['dense'].stage.fit
    assert fit.averaged == (2, 4, 6) and fit.keep[0] == 0 and fit.keep[-1] == 6
    last = load_model(kept_model(line['dense'].out, line['dense'].id, 6))
    moved = models['dense'].encoder.layers[0].ffn.part.fc1.weight - last.encoder.layers[0].ffn.part.fc1.weight
    assert moved.abs().max() > 0
    # a mean as sparse as its points: exactly
    assert reports['sparse']['methods']['magnitude']['sparsity'] == pytest.approx(0.5, abs=1e-5)
    assert zeros(models['sparse']) == reports['sparse']['methods']['magnitude']['sparsity']
    assert zeros(models['dense']) < 1e-3

def test_plan_is_looked_at(line, tmp_path):
    "Before the dense model is there, all that follows it can be looked at."
    jobs = {name: line[name] for name in ('dense', 'small')}
    checked = check_jobs(jobs, evaluation=Evaluation(('dense', 'small'), split='valid', modalities=('v',)))
    assert checked.rows() == [['dense, small', 'train', 16, ''], ['dense, small, evaluation', 'valid', 4, '']]
    assert not (tmp_path/'dense').exists()

WRONG = {   # what is changed of the dense job, and what is told
    'no tokenizer': ({'stage.task.tokenizer': ''}, 'carries no tokenizer, so nobody knows what its head writes'),
    'ids of another family': ({'stage.task.tokenizer': 'tokenizer.model'}, "made for models of family 'vsr'"),
    'sound': ({'data.modalities': ('audio', 'video')}, "but the data has modalities"),
    'a teacher and nothing asked': ({'stage.task.teacher': 'reader'}, 'go together'),
    'a front-end of another shape': ({'stage.task.frontend_from': 'teacher', 'random': True}, 'a front-end fits'),
    'nothing to learn': ({'stage.task.ctc_weight': 0., 'stage.task.decoder_weight': 0.}, 'has nothing to learn'),
    'no short clips': ({'stage.fit.longest': 3}, 'no clip to train on'),
}

@pytest.mark.parametrize('changes, told', WRONG.values(), ids=WRONG)
def test_refused(line, parts, changes, told):
    names = 'stage.task.tokenizer', 'stage.task.teacher', 'stage.task.frontend_from'
    there = {k: str(parts/v) if k in names and v else v for k, v in changes.items()}
    with pytest.raises(ValueError, match=told): check_jobs({'dense': change(line['dense'], there)})

def test_teacher_with_other_tokens(line, parts, tmp_path):
    "Student and teacher have to write alike."
    torch.manual_seed(0)
    teacher = VSR(vsr_config('tiny', **LIPS, vocab_size=8))
    teacher.tokenizer_proto = train_units(['bin a', 'set b'], None, kind='word').proto
    save_model(teacher, tmp_path/'teacher')
    job = change(line['small'], {'stage.task.teacher': str(tmp_path/'teacher')})
    with pytest.raises(ValueError, match='different tokenizers'): check_jobs({'small': job})

def test_corpus_of_sounds(line, tmp_path):
    "Nothing to see: told before the first stage."
    folder = make_corpus(tmp_path/'sounds', clips=(2, 1, 1), noise_files=(1, 1, 1), video=False, num_workers=0)
    assert not any(c.custom['video'] for c in load_cuts(folder, 'train'))
    with pytest.raises(ValueError, match='no video'):
        check_jobs({'dense': change(line['dense'], {'data.folder': str(folder)})})
    assert not Path(line['dense'].out).exists()
