"AV-HuBERT checkpoints, states, log-probabilities and beam search against recorded numbers (tests/golden/avhubert)."
import json, zlib
from pathlib import Path
import numpy as np, pytest, torch
from safetensors.torch import load_file
from avcomp.data.tokens import Tokenizer, check_symbols
from avcomp.models import checkpoints
from avcomp.models.checkpoints import load_model, save_model
from avcomp.models.formats.pickles import plain, read_pickle

GOLDEN = Path(__file__).parent/'golden/avhubert'
CASES = 'pretrain_concat_prenorm', 'pretrain_add_postnorm', 'loading_variants'
FILES = {case: sorted(p.name for p in (GOLDEN/case).glob('checkpoint*.pt')) for case in CASES}
INPUTS = {'av': ('audio', 'video'), 'a': ('audio',), 'v': ('video',)}
CLOSE = dict(rtol=1e-4, atol=2e-5)

def read(case):
    "Recorded tensors, with clips in our layout: audio (B, T, 104), video (B, T, 88, 88), padding_mask bool."
    io = load_file(GOLDEN/case/'io.safetensors')
    audio, video = io['audio'].transpose(1, 2), io['video'][:, 0].float()
    return io, dict(audio=audio, video=video, padding_mask=io['padding_mask'].bool())

def pick(clips, modalities, rows=slice(None), frames=None):
    return {k: v[rows, :frames] for k, v in clips.items() if k in INPUTS[modalities] or k == 'padding_mask'}

def valid_close(got, want, mask, **tol): torch.testing.assert_close(got[~mask], want[~mask], **(tol or CLOSE))

@pytest.mark.parametrize('case, file', [(case, file) for case, files in FILES.items() for file in files])
@torch.no_grad()
def test_pretrained(case, file):
    (io, clips), meta = read(case), json.loads((GOLDEN/case/'meta.json').read_text())
    model = load_model(GOLDEN/case/file)
    mask, config = clips['padding_mask'], model.config
    assert not model.training
    assert config.video_widths == tuple(meta['frontend_widths']) and config.num_classes == meta['num_classes']
    for modalities in INPUTS:
        out = model(**pick(clips, modalities))
        assert len(out.hidden_states) == config.num_layers+1
        for k, state in enumerate(out.hidden_states): valid_close(state, io[f'{modalities}.state_{k}'], mask)
        valid_close(out.last, io[f'{modalities}.final'], mask)
        if modalities == 'av': valid_close(model.cluster_logits(out.last), io['av.pretrain_logits'], mask)
    valid_close(model.audio(clips['audio']), io['frontend.audio'].transpose(1, 2), mask)
    valid_close(model.video(clips['video'], mask), io['frontend.video'].transpose(1, 2), mask)
    pooled = io['frontend.resnet'].transpose(1, 2)[~mask]
    torch.testing.assert_close(model.video.pooled(clips['video'], mask), pooled, **CLOSE)
    T = meta['lengths'][1]
    alone = model(audio=clips['audio'][1:, :T], video=clips['video'][1:, :T]).last
    torch.testing.assert_close(alone, io['av_single.final'], **CLOSE)

def test_variants_hold_the_same_model():
    models = [load_model(GOLDEN/'loading_variants'/file) for file in FILES['loading_variants']]
    assert len(models) == 4
    for other in models[1:]:
        assert other.config == models[0].config
        for k, v in models[0].state_dict().items(): torch.testing.assert_close(other.state_dict()[k], v, rtol=0, atol=0)

@pytest.fixture(scope='module')
def s2s(): return load_model(GOLDEN/'seq2seq/checkpoint.pt')

@pytest.fixture(scope='module')
def expected(): return json.loads((GOLDEN/'seq2seq/expected.json').read_text())

@pytest.mark.parametrize('modalities', INPUTS)
@torch.no_grad()
def test_teacher_forcing(s2s, expected, modalities):
    io, clips = read('seq2seq')
    out = s2s.encode(**pick(clips, modalities))
    valid_close(out.last, io[f'{modalities}.encoder_out'], clips['padding_mask'])
    logp, target = s2s.decode_logits(out, io['prev_output_tokens']).log_softmax(-1), io['target']
    valid_close(logp, io[f'{modalities}.log_probs'], target == 1)
    nll = -logp.gather(-1, target[..., None])[..., 0][target != 1].sum().item()
    assert nll == pytest.approx(expected['losses'][modalities]['nll_sum'], rel=1e-5)

SEARCHES = {   # limits and inputs as recorded: video counts the frames of the padded batch, audio allows 104 tokens
    'av': dict(modalities='av', max_len=104),
    'a': dict(modalities='a', max_len=104),
    'v': dict(modalities='v', max_len=9),
    'v_lenpen0.5': dict(modalities='v', max_len=9, len_penalty=0.5),
    'v_beam1': dict(modalities='v', max_len=9, beam_size=1),
    'v_single_clip1': dict(modalities='v', rows=slice(1, 2), frames=6),
    'v_first3frames_clip0': dict(modalities='v', rows=slice(0, 1), frames=3),
}
@pytest.mark.parametrize('name', SEARCHES)
def test_beam_search(s2s, expected, name):
    how = {'beam_size': 5, **SEARCHES[name]}
    _, clips = read('seq2seq')
    clips = pick(clips, *(how.pop(k, d) for k, d in (('modalities', None), ('rows', slice(None)), ('frames', None))))
    found = s2s.transcribe(**clips, **how, nbest=how['beam_size'])
    assert len(found) == len(expected['nbest'][name])
    for hyps, wants in zip(found, expected['nbest'][name]):
        assert [list(h.tokens) for h in hyps] == [w['tokens'] for w in wants]
        for h, w in zip(hyps, wants):
            assert h.score == pytest.approx(w['score'], abs=1e-4)
            assert h.positional_scores == pytest.approx(w['positional_scores'], abs=1e-4)

def test_tokenizer_travels(expected, tmp_path, monkeypatch):
    "The tokenizer comes out of a fairseq file, goes into a folder and back."
    objects = read_pickle(GOLDEN/'seq2seq/task_state_objects.pt')['task_state']
    assert plain(objects['target_dictionary'])['symbols'] == expected['dictionary']
    monkeypatch.setattr(checkpoints, 'read_pickle', lambda path: read_pickle(path) | {'task_state': objects})
    model = load_model(GOLDEN/'seq2seq/checkpoint.pt')
    assert model.tokenizer_proto == (GOLDEN/'seq2seq/tokenizer.model').read_bytes()
    tokenizer = Tokenizer(load_model(save_model(model, tmp_path/'model')).tokenizer_proto)
    check_symbols(tokenizer, expected['dictionary'])
    for pair in expected['tokenizer_pairs']: assert [*tokenizer.encode(pair['text']), 2] == pair['ids']

def make_weights(shapes, seed):
    "The recipe of meta.json: weights that follow from their names."
    for key, shape in shapes.items():
        rng, parent, last = np.random.RandomState(zlib.crc32(key.encode()) ^ seed), *key.rpartition('.')[::2]
        norm = any(s in parent for s in ('norm', 'bn', 'frontend3D.1', 'downsample.1'))
        if last == 'running_mean': w = 0.1*rng.standard_normal(shape)
        elif last == 'running_var': w = rng.uniform(0.8, 1.2, shape)
        elif last == 'num_batches_tracked': w = np.int64(1)
        elif last == 'weight_g': w = rng.uniform(0.5, 1.5, shape)
        elif last == 'weight_v': w = 0.02*rng.standard_normal(shape)
        elif last in ('bias', 'pos_bias_u', 'pos_bias_v'): w = 0.1*rng.standard_normal(shape)
        elif last == 'weight' and len(shape) == 1: w = rng.uniform(*(0.6, 1.4) if norm else (0.1, 0.4), shape)
        elif len(shape) >= 2:
            w = rng.standard_normal(shape)/np.sqrt(np.prod(shape[1:]))*(1.4 if len(shape) >= 4 else 1.)
        else: w = 0.1*rng.standard_normal(shape)
        yield key, torch.tensor(w) if last == 'num_batches_tracked' else torch.from_numpy(np.asarray(w)).float()

@torch.no_grad()
def test_base_full_size(tmp_path):
    case = GOLDEN/'base_full_size_recipe'
    meta, expected = (json.loads((case/f'{name}.json').read_text()) for name in ('meta', 'expected'))
    io = load_file(case/'io.safetensors')
    weights = dict(make_weights(expected['key_shapes'], meta['seed']))
    assert len(weights) == expected['entries'] == 346
    torch.save({'cfg': {'model': {'_name': 'av_hubert', **meta['config']}}, 'model': weights}, tmp_path/'base.pt')
    model = load_model(tmp_path/'base.pt')
    assert sum(p.numel() for p in model.parameters()) == expected['param_count'] == 103_330_280
    rng = np.random.RandomState(meta['seed'])
    video, audio = (torch.from_numpy(rng.standard_normal(s)).float() for s in ((1, 1, 6, 88, 88), (1, 104, 6)))
    torch.testing.assert_close(video.flatten()[:8], io['video_check'])
    torch.testing.assert_close(audio.flatten()[:8], io['audio_check'])
    audio, video, tol = audio.transpose(1, 2), video[:, 0], dict(rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(model.video.pooled(video), io['frontend.resnet'][0].T, **tol)
    out = model(audio=audio, video=video)
    for k in (0, 1, 6, 12): torch.testing.assert_close(out.hidden_states[k], io[f'state_{k}'], **tol)
    torch.testing.assert_close(out.last, io['final'], **tol)
