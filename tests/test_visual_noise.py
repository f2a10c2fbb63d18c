"Visual noise against numbers of the reference, in evaluation beside acoustic noise, and in training."
import json
from pathlib import Path
import cv2, numpy as np, pytest, torch
from avcomp.changes import change
from avcomp.core import config_from_json, config_to_json
from avcomp.data.clips import load_cuts
from avcomp.data.corpora import open_corpus
from avcomp.data.corruptions import BLOCK, corrupt
from avcomp.data.tokens import Tokenizer
from avcomp.data.views import Crop, condition_views
from avcomp.data.visual_noise import VisualNoise
from avcomp.evaluate.robustness import robustness, transcribe_cuts, visual_conditions
from avcomp.models.avhubert_s2s import AVHubertS2S, avhubert_s2s_config
from avcomp.models.checkpoints import load_model
from avcomp.models.vsr import VSR, vsr_config
from avcomp.text import words_of
from avcomp.train.job import read_job
from avcomp.train.launch import launch
from toy import corpus, job, parts, weights

GOLDEN = Path(__file__).parent/'golden/visual_noise'

def seeded(seed=0): return torch.Generator().manual_seed(seed)
def gray(frames): return np.stack([cv2.cvtColor(f, cv2.COLOR_BGR2GRAY) for f in frames])

# numbers of the reference

EXACT = {'contrast': ('contrast-p', 0), 'gaussian_blur': ('blur-p', 1), 'pixelation': ('pixelate-p', 2)}   # counts off

@pytest.mark.parametrize('level', range(1, 6))
@pytest.mark.parametrize('name', EXACT)
def test_deterministic(name, level):
    kind, off = EXACT[name]
    arrays = np.load(GOLDEN/'deterministic/arrays.npz')
    for frames, wanted in ((arrays['frames_bgr'][:1], f'{name}.level{level}'),
                           (arrays['frames_gray'], f'gray.{name}.level{level}')):
        seen = corrupt(frames, kind, level).astype(int)
        assert seen.shape == arrays[wanted].shape and np.abs(seen - arrays[wanted]).max() <= off

STATISTICS = json.loads((GOLDEN/'random_statistics/expected.json').read_text())
DRAWS = 200

def mean_fits(seen, wanted, n):
    "A mean, within 4 standard errors of the difference or 2 %; the recorded one is of `n` pixels."
    assert wanted*n == pytest.approx(round(wanted*n), abs=1e-6)
    error = 4*seen.std()*(1/seen.size + 1/n)**0.5
    assert abs(seen.mean() - wanted) <= max(error, 0.02*abs(wanted)), (seen.mean(), wanted, error)

@pytest.mark.parametrize('level', range(1, 6))
def test_gaussian_noise(level):
    wanted = STATISTICS[f'gaussian_noise.level{level}']
    frame = np.load(GOLDEN/'random_statistics/arrays.npz')['frame_bgr']
    clip, middle = (np.repeat(f[None], DRAWS, 0) for f in (frame, np.full((96, 96), 128, np.uint8)))
    on_clip = gray(corrupt(clip, 'gaussian-p', level, seeded())).astype(float) - gray(clip[:1])
    mean_fits(on_clip, wanted['gray_diff_mean_on_clip'], clip[..., 0].size)
    assert on_clip.std() == pytest.approx(wanted['gray_diff_std_on_clip'], rel=0.02)
    bgr = corrupt(np.repeat(middle[..., None], 3, -1), 'gaussian-p', level, seeded(1)).astype(float) - 128
    for c in range(3):
        mean_fits(bgr[..., c], wanted['bgr_mean_shift_on_mid_gray'][c], 2**18)
        assert bgr[..., c].std() == pytest.approx(wanted['bgr_std_on_mid_gray'][c], rel=0.02)
    seen = corrupt(middle, 'gaussian-p', level, seeded(1)).astype(float) - 128      # a gray clip as it is
    mean_fits(seen, wanted['gray_mean_shift_on_mid_gray'], middle.size)
    assert seen.std() == pytest.approx(wanted['gray_std_on_mid_gray'], rel=0.02)
    assert (bgr != 0).any(-1).mean() == pytest.approx(wanted['fraction_of_pixels_changed'], rel=0.02)
    for a, b in ((seen[:, :, 1:], seen[:, :, :-1]), (seen[1:], seen[:-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01

@pytest.mark.parametrize('level', range(1, 6))
@pytest.mark.parametrize('size', ['96px_real_division', '256px', '512px'])
def test_blocks(level, size):
    wanted, side = STATISTICS[f'block_wise.level{level}.{size}'], int(size.split('px')[0])
    blank = np.zeros((DRAWS, side, side), np.uint8)
    covered = (corrupt(blank, 'block-p', level, seeded()) == 128).mean((1, 2))
    assert covered.mean() == pytest.approx(wanted['covered_area_fraction_mean'], rel=0.03)
    blocks = wanted.get('blocks', wanted.get('reference_block_count'))
    assert covered.max() <= blocks*BLOCK**2/side**2 + 1e-9
    assert covered.std() == pytest.approx(wanted['covered_area_fraction_std'], rel=0.25)   # 200 draws: 5 % is one sigma

# in evaluation

@pytest.fixture(scope='module')
def reader(parts):
    "A small AV-HuBERT that transcribes, untrained, and its tokenizer."
    torch.manual_seed(0)
    tokenizer = Tokenizer((parts/'tokenizer.model').read_bytes())
    encoder = load_model(parts/'student').config
    config = avhubert_s2s_config('tiny', encoder=encoder, num_layers=0, ctc=True, vocab_size=tokenizer.vocab_size)
    return AVHubertS2S(config).eval(), tokenizer

@pytest.fixture(scope='module')
def clips(corpus): return list(load_cuts(corpus, 'valid'))

def test_acoustic_and_visual_noise_add_up(reader, clips, corpus):
    model, tokenizer = reader
    noises, quiet = open_corpus('embedded', corpus).recordings('valid', ['babble']), dict(beam_size=1, progress=False)
    conditions = 'clean', 'babble@0', *visual_conditions(('blur', 'compress'), (5,)), 'babble@0+blur#5'
    found = robustness(model, clips, tokenizer, noises, conditions=conditions, **quiet)
    assert list(found.wer['av']) == list(conditions)
    assert list(found.wer['a']) == ['clean', 'babble@0', 'babble@0+blur#5']        # blur is silent
    assert list(found.wer['v']) == ['clean', 'blur#5', 'compress#5', 'babble@0+blur#5']
    for modality, by in found.hypotheses.items():
        for condition, texts in by.items():
            views = condition_views(condition)
            alone = transcribe_cuts(model, tokenizer, clips, modality, views, noises, **quiet)
            assert texts == {id: words_of(text).lower() for id, text in alone.items()}
    assert found.hypotheses['v']['babble@0+blur#5'] == found.hypotheses['v']['blur#5'] != found.hypotheses['v']['clean']
    assert found.hypotheses['a']['babble@0+blur#5'] == found.hypotheses['a']['babble@0']

def watch(model, monkeypatch):
    "A list of the frames that its front-end will see, batch by batch."
    seen, forward = [], model.bare.video.forward
    monkeypatch.setattr(model.bare.video, 'forward', lambda *args: seen.append(args[0].clone()) or forward(*args))
    return seen

def test_two_models_see_the_same(reader, clips, tmp_path, monkeypatch):
    "And an evaluation that goes on sees what it would have seen at once."
    model, tokenizer = reader
    torch.manual_seed(1)
    other = AVHubertS2S(config_from_json(config_to_json(model.config))).eval()
    seen, own = (watch(m, monkeypatch) for m in (model, other))
    ask = dict(modalities=('v',), beam_size=1, progress=False)
    for m in (model, other): robustness(m, clips, tokenizer, conditions=('motion#7', 'block#4'), **ask)
    assert len(own) == 2 and all(torch.equal(a, b) for a, b in zip(seen, own, strict=True))
    path = tmp_path/'eval.json'
    robustness(model, clips, tokenizer, conditions=('motion#7',), path=path, **ask)
    seen.clear()
    robustness(model, clips, tokenizer, conditions=('motion#7', 'block#4'), path=path, **ask)
    assert len(seen) == 1 and torch.equal(seen[0], own[1])                         # the blocks alone

def test_lip_reader(reader, clips, monkeypatch):
    "A model of the other family that sees."
    tokenizer, conditions, ask = reader[1], ('clean', 'blur#10', 'shift#10'), dict(beam_size=1, progress=False)
    torch.manual_seed(0)
    small = dict(embed_dim=32, ffn_dim=20, num_layers=1, conv_kernel=5, video_widths=(4, 6, 8, 10), decoder_layers=0)
    model = VSR(vsr_config('tiny', vocab_size=tokenizer.vocab_size, **small)).eval()
    frames = watch(model, monkeypatch)
    found = robustness(model, clips[:2], tokenizer, conditions=conditions, modalities=('v',), **ask).hypotheses['v']
    clean, blurred, shifted = frames
    assert not torch.equal(clean, blurred) and not torch.equal(clean, shifted)
    for c in conditions:
        assert found[c] == transcribe_cuts(model, tokenizer, clips[:2], 'v', condition_views(c), **ask)

@pytest.mark.parametrize('condition, told', [
    ('blur#11', 'got 11'), ('fog#3', "noise 'fog'"), ('blur-p#6', 'from 1 to 5')])
def test_conditions_that_there_are_not(reader, clips, tmp_path, condition, told):
    model, tokenizer = reader
    with pytest.raises(ValueError, match=told):
        robustness(model, clips, tokenizer, conditions=(condition,), path=tmp_path/'none.json', progress=False)
    assert not list(tmp_path.iterdir())

# in training

def test_training_with_visual_noise(job, tmp_path):
    "Read from its file and with two loaders, the same weights; without it, others."
    def made(out, *views): return job('finetune', tmp_path/out, {'fit.updates': 2, 'views': views})
    noisy, plain = made('noisy', VisualNoise(prob=1.), Crop()), made('plain', Crop())
    again = change(noisy, {'out': str(tmp_path/'again'), 'run.num_workers': 2})
    again.save(tmp_path/'again.json')
    for one in (noisy, read_job(tmp_path/'again.json'), plain): launch(one)
    assert noisy.id == again.id != plain.id
    a, b, c = (weights(tmp_path/name) for name in ('noisy', 'again', 'plain'))
    assert all(torch.equal(a[k], b[k]) for k in a) and any(not torch.equal(a[k], c[k]) for k in a)

def test_behind_a_crop_it_is_refused(job, tmp_path):
    with pytest.raises(ValueError, match='VisualNoise acts on whole pictures and stands behind a Crop; put it before'):
        launch(job('finetune', tmp_path/'out', {'fit.updates': 1, 'views': (Crop(), VisualNoise())}))
    assert not (tmp_path/'out').exists()
