"Every preset against the tables of the papers and of the codes behind them, regularisation included."
from dataclasses import asdict
import pytest
from avcomp.settings import from_data, to_data
from avcomp.train.presets.table import presets

ADAM, SLOW = ((0.9, 0.999), 1e-8, 0.), ((0.9, 0.98), 1e-8, 0.)        # moments, epsilon, weight decay
STUDENT = dict(dropout=0.1, attention_dropout=0.1, input_dropout=0.1)  # everything else: no dropout, whole gradients
WRITER = dict(layerdrop=0.1, activation_dropout=0.1, decoder_dropout=0.1, decoder_activation_dropout=0.1)
LEARNER = STUDENT | dict(layerdrop=0.05, frontend_grad=0.1)
TUNED = dict(layerdrop=0.1, activation_dropout=0.1, frontend_grad=0.)
READER = dict.fromkeys(('dropout', 'attention_dropout', 'activation_dropout', 'input_dropout', 'final_dropout',
                        'decoder_dropout', 'decoder_attention_dropout', 'decoder_activation_dropout'), 0.1)

# updates, or epochs of lip readers, frames of a batch, batches, clip, rate, moments, schedule, warm-up, regularisation
AV_JOINT = (50_000, 4000, 4, 10., 2e-3, ADAM, 'linear', 15_000, STUDENT)
JOINT = (50_000, 4000, 4, 10., 2e-4, ADAM, 'linear', 15_000, STUDENT)
SECOND = (25_000, 4000, 4, 10., 1e-4, ADAM, 'linear', 5000, STUDENT)
DEEP = (140_000, 1500, 12, 10., 2e-4, ADAM, 'linear', 50_000, STUDENT)
FITS = {
    'dp_avhubert_base': {
        'pruning': AV_JOINT, 'merging': AV_JOINT, 'pruning+merging': AV_JOINT, 'distill': SECOND,
        'finetune': (60_000, 1000, 8, None, 1e-3, SLOW, 'tri_stage', 20_000, WRITER),
        'pretrain': (400_000, 1000, 32, 10., 5e-4, ((0.9, 0.98), 1e-6, 0.01), 'linear', 32_000, LEARNER)},
    'dphubert_base': {
        'pruning': JOINT, 'merging': JOINT, 'pruning+merging': JOINT, 'distill': SECOND,
        'distilhubert': (75_000, 4000, 4, 10., 2e-4, ADAM, 'linear', 5250, STUDENT),
        'finetune': (25_000, 5000, 8, None, 2e-5, SLOW, 'tri_stage', 8000, TUNED),
        'pretrain': (400_000, 2200, 32, 10., 5e-4, ((0.9, 0.98), 1e-6, 0.01), 'linear', 32_000, LEARNER)},
}
FITS['dpwavlm_base_plus'] = FITS['dpwav2vec2_base'] = FITS['dphubert_base']
FITS['dphubert_large'] = FITS['dphubert_base'] | {
    'pruning': DEEP, 'merging': DEEP, 'pruning+merging': DEEP,
    'distill': (70_000, 1500, 12, 10., 1e-4, ADAM, 'linear', 14_000, STUDENT),
    'distilhubert': (210_000, 1500, 12, 10., 2e-4, ADAM, 'linear', 14_700, STUDENT)}

DECAYED = ((0.9, 0.98), 1e-8, 0.03)
def lip_reader(lr, frames, gpus):
    "Fits of a lip reader by its size (SparseVSR, section 3; the settings of Auto-AVSR where that is silent)."
    def fit(epochs, lr=lr, schedule='cosine', warmup=5):
        return (epochs, frames, gpus, 5., lr, DECAYED, schedule, warmup, READER)
    return {'curriculum': fit(75, 2e-4), 'dense': fit(75), 'finetune': fit(10, 1e-5, 'constant', None),
            'round': fit(50), 'distill': fit(75)}
LIP_READERS = {'sparse_vsr_base_s': lip_reader(6e-4, 2400, 16), 'sparse_vsr_base_l': lip_reader(1e-3, 1800, 64)}
LIP_READERS |= {f'{name}_noisy': fits for name, fits in LIP_READERS.items()}
FITS |= LIP_READERS

THIN, KEPT = STUDENT | dict(activation_dropout=0.1, input_dropout=0.05), ((0.9, 0.98), 1e-6, 0.01)
def thin(updates, frames, batches, lr, schedule='linear'):
    "Fit of a thin student (ARMHuBERT's note, sections 1.1 to 1.3): decay of all but biases, a twentieth as warm-up."
    fit = (updates, frames, batches, None, lr, KEPT, schedule, round(0.05*updates), THIN)
    return {'distill': fit, 'layers': fit, 'finetune': FITS['dphubert_base']['finetune']}
STUDENTS = {'armhubert_960': thin(390_600, 5500, 8, 5e-3), 'armhubert_s_100': thin(158_533, 1900, 6, 5e-3),
            'armhubert_s_960': thin(195_300, 5500, 8, 5e-3), 'maskhubert_960': thin(390_600, 5500, 8, 5e-4),
            'starhubert_960': thin(585_916, 1230, 12, 1e-3, 'cosine')}
STUDENTS |= {f'armwavlm_s_{hours}': STUDENTS[f'armhubert_s_{hours}'] for hours in (100, 960)}
FITS |= STUDENTS

# sparsity, updates until it is asked for, rate of gates; updates between merges
AV_GATES, GATES, MERGE = (0.7, 10_000, 2e-2), (0.75, 5000, 2e-2), 2500
# weights of L1 and cosine, groups of layers
BASE_LAYERS, LARGE_LAYERS = ((0,), (4, 8, 12)), ((0,), (4, 8, 12, 16, 20, 24))
TERMS = {
    ('dp_avhubert_base', 'pruning'): (0.1, 1., BASE_LAYERS),
    ('dp_avhubert_base', 'pruning+merging'): (0.1, 1., BASE_LAYERS),
    ('dphubert_large', 'distilhubert'): (1., 1., ((8, 16, 24),)),
}

def rows(kinds, presets_of=FITS):
    "Preset, stage name and stage, of the presets that have published settings."
    found = [(name, which, stage) for name in presets_of for which, stage in presets()[name].items()]
    return [row for row in found if row[2].task.kind in kinds]

def test_no_preset_is_left_out():
    small = {name for name in presets() if '_tiny' in name or name.startswith('smoke')}
    assert small | set(FITS) == set(presets())
    assert all(set(FITS[name]) == set(presets()[name]) for name in FITS)

@pytest.mark.parametrize('name, which, stage', rows(('distill', 'finetune', 'pretrain')))
def test_fit_and_regularisation(name, which, stage):
    fit, adam = stage.fit, stage.fit.optimizer
    asked = asdict(stage.task.regularisation)
    neutral = dict.fromkeys(asked, 0.) | {'frontend_grad': 1.}
    moments = (adam.betas, adam.eps, adam.weight_decay)
    schedule = (fit.schedule.kind, asdict(fit.schedule).get('warmup'))
    found = (fit.updates, fit.max_frames, fit.batches, fit.clip_norm, adam.lr, moments, *schedule)
    assert found == FITS[name][which][:-1]
    assert adam.undecayed == (('bias',) if (name in STUDENTS and which != 'finetune') else ())
    whole = name in LIP_READERS or name == 'starhubert_960' and which != 'finetune'
    unit = 'epoch' if name in LIP_READERS else 'update'
    assert (fit.precision, fit.unit) == ('32-true' if whole else '16-mixed', unit)
    assert asked == neutral | FITS[name][which][-1]
    assert from_data(None, to_data(stage)) == stage

@pytest.mark.parametrize('name, which, stage', rows(('distill',), [name for name in FITS if name not in STUDENTS]))
def test_terms_and_methods(name, which, stage):
    term, = stage.task.terms
    assert (term.l2, term.weight) == (0., 1.)
    layers = LARGE_LAYERS if name == 'dphubert_large' else BASE_LAYERS
    single = (1., 1., ((4, 8, 12),)) if which == 'distilhubert' else (1., 1., layers)
    assert (term.l1, term.cos, term.groups) == TERMS.get((name, which), single)
    how = ('predlayer', 'log_sig') if which == 'distilhubert' else ('layer2layer', 'raw')
    assert (term.mode, term.cos_type) == how
    methods = {m.kind: m for m in stage.methods}
    assert set(methods) == {k for k, w in (('gates', 'pruning'), ('merge', 'merging')) if w in which}
    if gates := methods.get('gates'):
        assert gates.units == ('conv', 'head', 'ffn') and gates.multiples == ()
        assert (gates.target, gates.warmup, gates.lr) == (AV_GATES if name == 'dp_avhubert_base' else GATES)
    if merge := methods.get('merge'): assert (merge.projections, merge.step, merge.warmup) == ('QKV', MERGE, 0)

def test_views():
    "Noise at 0 dB on a quarter of the clips, and a crop, where there is a picture; nothing for DPHuBERT."
    lips = ['crop', 'time_mask']
    want = {'dp_avhubert_base': ['noise', 'crop'], 'sparse_vsr_base_s': lips, 'sparse_vsr_base_l': lips}
    for name, _, stage in rows(('distill', 'finetune')):
        views = {v.kind: v for v in stage.views}
        noisy = ['visual_noise'] if name.endswith('_noisy') else []
        assert list(views) == noisy + want.get(name.removesuffix('_noisy'), [])
        if 'noise' in views: assert (views['noise'].prob, views['noise'].snr_db) == (0.25, 0.)
        if 'crop' in views: assert (views['crop'].size, views['crop'].flip) == (88, 0.5)
        if 'time_mask' in views: assert (views['time_mask'].window, views['time_mask'].stride) == (10, 25)

    assert [v.kind for v in presets()['dp_avhubert_base']['pretrain'].views] == ['crop']
    assert presets()['dphubert_base']['pretrain'].views == ()

def test_losses():
    "Label smoothing, frozen updates, masks; a term counts once, without squares."
    av, audio = (presets()[name]['finetune'].task for name in ('dp_avhubert_base', 'dphubert_base'))
    assert (av.label_smoothing, av.freeze_updates, av.ctc_weight) == (0.1, 48_000, 0.)
    assert av.mask_time[0] == av.mask_channels[0] == 0.
    assert (audio.freeze_updates, audio.ctc_weight) == (10_000, 1.)
    assert (audio.mask_time, audio.mask_channels) == ((0.75, 10), (0.5, 64))
    assert {t.decoder_weight for t in (av, audio)} == {1.} and {t.terms for t in (av, audio)} == {()}
    masks = presets()['dp_avhubert_base']['pretrain'].task
    assert (masks.mask_audio, masks.mask_video, masks.modality_dropout) == ((0.8, 10), (0.3, 5), 0.5)

@pytest.mark.parametrize('name', LIP_READERS)
def test_lip_readers(name):
    "Losses 0.9 and 0.1, the mean of ten epochs, epochs to rewind to, short clips first, batch statistics of all GPUs."
    stages = presets()[name]
    for which, stage in stages.items():
        task, fit = stage.task, stage.fit
        assert (task.decoder_weight, task.ctc_weight, task.label_smoothing, task.freeze_updates) == (0.9, 0.1, 0.1, 0)
        assert fit.averaged == tuple(range(fit.updates - 9, fit.updates + 1)) and fit.sync_batchnorm
        assert fit.keep == ((0, 5, 10, 20, 40, 60, 75) if which == 'dense' else ())
        assert fit.longest == (100 if which == 'curriculum' else None) and stage.methods == ()
        if which != 'distill': assert task.terms == ()
    term, = stages['distill'].task.terms
    assert (term.kind, term.weight, term.decoder, term.ctc_head, term.temperature) == ('logits', 1., 1., 0., 1.)

@pytest.mark.parametrize('name', STUDENTS)
def test_thin_students(name):
    "Spans of 10 frames over 0.4 of 100 hours, 0.8 of 960; a tenth for each lower layer; relations of equal weight."
    other, = presets()[name]['layers'].task.terms
    assert other == presets()['dphubert_base']['distill'].task.terms[0]
    stage = presets()[name]['distill']
    term, = stage.task.terms
    assert stage.methods == stage.views == () and term.weight == 1. and term.layers == ()
    if name == 'starhubert_960':
        weights = (term.kind, term.layer_wise, term.intra_layer, term.attention, term.scale)
        assert weights == ('gram', 1., 1., 0., 'none')
    else:
        spans = term.spans
        assert (spans.prob, spans.length, spans.rule, spans.space) == (0.4 if '100' in name else 0.8, 10, 'apart', 1)
        assert (term.kind, term.lower, term.drawn, term.distance) == ('masked', 0.1, None, 'l2')
