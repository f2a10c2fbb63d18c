"Bad input ends in an error that names it, before anything is lost: the way from files on disk to a launched job."
import errno, json, shutil
from pathlib import Path
import lightning as L, numpy as np, pytest, soundfile as sf, torch
from lhotse import CutSet
from safetensors.torch import load_file, save_file
import avcomp.data.sound as sound
import avcomp.data.video as film
import avcomp.models.checkpoints as checkpoints
from avcomp.data.batches import ClipDataset, make_loader
from avcomp.data.clips import check_cuts, load_clip, load_cuts, save_cuts
from avcomp.data.sound import read_wav, resample, write_wav
from avcomp.data.synthetic import make_corpus
from avcomp.data.video import write_video
from avcomp.models.avhubert import AVHubert, avhubert_config
from avcomp.models.avhubert_s2s import AVHubertS2S, avhubert_s2s_config
from avcomp.models.checkpoints import load_model, save_model
from avcomp.models.hubert import Hubert, hubert_config
from avcomp.changes import change
from avcomp.train.engine import finished
from avcomp.train.launch import launch
from avcomp.train.presets.table import preset
from avcomp.train.progress import resume_point
from toy import AV, WAV, corpus, job, parts

@pytest.fixture
def bad(corpus, tmp_path):
    "A copy of the corpus to damage, and one of its training clips."
    shutil.copytree(corpus, tmp_path/'corpus')
    return tmp_path/'corpus', next(iter(load_cuts(tmp_path/'corpus', 'train')))

def rewrite(folder, change):
    "Change every training cut of a manifest."
    cuts = list(load_cuts(folder, 'train'))
    for c in cuts: change(c)
    save_cuts(cuts, folder, 'train')

# damage to one clip: what is done to it (video, sound, cut), what the error says in training and in `check_cuts`
DAMAGE = {
    'missing mp4': (lambda v, a, c: v.unlink(), 'missing file', 'missing video'),
    'missing wav': (lambda v, a, c: a.unlink(), 'missing file', 'missing sound'),
    'corrupt mp4': (lambda v, a, c: v.write_bytes(b'no film'*100),
                    'no readable video', 'no readable video file: plain text'),
    'cut-off mp4': (lambda v, a, c: v.write_bytes(v.read_bytes()[:len(v.read_bytes())//2]),
                    'damaged or cut short', r'an mp4 without its index \(moov\), damaged or cut short'),
    'short mp4': (lambda v, a, c: write_video(v, load_clip(c)[1][:-5]),
                  'the manifest says', 'another number of frames'),
    'corrupt wav': (lambda v, a, c: a.write_bytes(b'no sound'*100),
                    'no readable audio', 'no readable audio file: plain text'),
    'short wav': (lambda v, a, c: write_wav(a, read_wav(a)[:-9600]), 'but audio lasts', 'sound and video differ'),
}

@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_clip(bad, job, tmp_path, name):
    folder, cut = bad
    damage, in_training, in_check = DAMAGE[name]
    damage(Path(cut.custom['video']), Path(cut.recording.sources[0].source), cut)
    wrong = job('finetune', tmp_path/'out', {'fit.updates': 4}, dict(folder=str(folder)))
    with pytest.raises((ValueError, OSError), match=in_training) as e: launch(wrong)
    assert cut.id in str(e.value)                     # the clip, or its file, which bears its name
    assert finished(wrong) is None
    with pytest.raises(ValueError, match=in_check) as e: check_cuts(load_cuts(folder, 'train'))
    assert cut.id in str(e.value)

def test_empty_transcript(bad, job, tmp_path):
    folder, cut = bad
    def change(c):
        if c.id == cut.id: c.supervisions[0].text = ' '
    rewrite(folder, change)
    speaks = job('finetune', tmp_path/'a', data=dict(folder=str(folder)))
    with pytest.raises(ValueError, match=f'{cut.id}: empty transcript'): launch(speaks)
    assert not (tmp_path/'a').exists()
    silent = job('pruning', tmp_path/'b', {'fit.updates': 1}, dict(folder=str(folder)))
    assert launch(silent)['updates'] == 1   # distillation reads no text

@pytest.mark.parametrize('rate, channels', [(48000, 1), (16000, 2), (22050, 2)])
def test_other_rates_and_channels(bad, rate, channels):
    "Resampled and averaged: nearly the same features, and no error."
    folder, cut = bad
    def batch():
        one = [c for c in load_cuts(folder, 'train') if c.id == cut.id]
        return next(iter(make_loader(ClipDataset(one, modalities=('audio',)), 200)))['audio']
    before, path = batch(), cut.recording.sources[0].source
    wav = resample(read_wav(path), 16000, rate)
    sf.write(path, np.stack([wav*0.5, wav*1.5][:channels] if channels > 1 else [wav], 1), rate)
    after = batch()
    assert after.shape == before.shape
    assert (after - before).abs().mean() < 0.05 and check_cuts(load_cuts(folder, 'train'))

BAD_GATES = [
    ({'target': 0.9}, 'target sparsity 0.9 cannot be reached.*at most'),
    ({'target': -0.1}, r'in \[0, 1\), got -0.1'),
    ({'target': ((('video',), 0.99), (('encoder',), 0.2))}, "cannot be reached for .'video'"),
    ({'target': ((('vidoe',), 0.5),)}, "'vidoe'"),
    ({'units': ('experts',)}, "'experts'.*choose from"),
    ({'init_drop': (('heads', 0.1),)}, "'heads'"),
    ({'multiples': (('convs', 16),)}, "'convs'"),
]

@pytest.mark.parametrize('fields, told', BAD_GATES)
def test_units_and_targets_are_checked_before_training(job, tmp_path, fields, told):
    change = {f'methods.gates.{name}': value for name, value in fields.items()}
    with pytest.raises(ValueError, match=told): launch(job('pruning', tmp_path/'out', change))
    assert not (tmp_path/'out').exists()

def test_checkpoints_that_do_not_fit(job, parts, tmp_path):
    def copy(name): return Path(shutil.copytree(parts/'student', tmp_path/name))
    config = copy('family')/'config.json'
    config.write_text(config.read_text().replace('"avhubert"', '"parrot"'))
    file = copy('missing')/'model.safetensors'
    save_file({k: v for k, v in load_file(file).items() if 'fc1' not in k}, file)
    (copy('cut')/'model.safetensors').write_bytes(file.read_bytes()[:3000])
    one = job('pruning', tmp_path/'out')
    for name, told in (('family', "'parrot'"), ('missing', 'missing.*fc1'), ('cut', 'damaged or cut short')):
        for role in ('student', 'stage.task.teacher'):
            with pytest.raises(ValueError, match=told): launch(change(one, {role: str(tmp_path/name)}))
    s2s = avhubert_s2s_config('tiny', encoder=load_model(parts/'student').config, vocab_size=40)
    one = {'student': str(save_model(AVHubertS2S(s2s), tmp_path/'s2s'))}
    finetune = job('finetune', tmp_path/'out')
    predict = change(preset('smoke')['pretrain'], {'task.labels': str(parts)})
    with pytest.raises(ValueError, match="family 'avhubert_s2s'"): launch(change(finetune, one | {'stage': predict}))
    one |= {'stage.task.tokenizer': ''}
    with pytest.raises(ValueError, match='carries no tokenizer'): launch(change(finetune, one))
    assert not (tmp_path/'out').exists()

WRONG_FIELDS = [('num_layers', '2'), ('num_layers', 2.5), ('video_widths', 64), ('dropout', 'much'), ('norm_first', 1),
                ('fusion', 3), ('sizes', [1]), ('head_dim', -8), ('video_activation', 'gelu')]

@pytest.mark.parametrize('field, value', WRONG_FIELDS)
def test_config_with_wrong_types(parts, tmp_path, field, value):
    "A field of a wrong type in config.json is named, with what it holds."
    folder = Path(shutil.copytree(parts/'student', tmp_path/'wrong'))
    config = json.loads((folder/'config.json').read_text())
    (folder/'config.json').write_text(json.dumps(config | {field: value}))
    with pytest.raises(ValueError, match=field): load_model(folder)

def fill_disk(monkeypatch, owner, name, after=0):
    "Let `owner.name(.., path, ..)` write half a file and fail, from its call number `after` on."
    real, calls = getattr(owner, name), []
    def full(*args, **kwargs):
        calls.append(0)
        if len(calls) <= after: return real(*args, **kwargs)
        path = next(Path(a) for a in args if isinstance(a, (str, Path)))
        path.write_bytes(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(owner, name, full)

def content(folder):
    files = [p for p in sorted(folder.rglob('*')) if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}

def test_full_disk_while_saving_a_model(parts, job, tmp_path):
    one = job('finetune', tmp_path/'out', {'fit.updates': 1})
    launch(one)
    model, before = load_model(parts/'student'), content(tmp_path/'out'/'model')
    with pytest.MonkeyPatch.context() as m:
        fill_disk(m, checkpoints, 'save_file')
        with pytest.raises(OSError, match='No space'): save_model(model, tmp_path/'out'/'model')
        with pytest.raises(OSError, match='No space'): save_model(model, tmp_path/'new')
        again = job('finetune', tmp_path/'out', {'fit.updates': 2})
        with pytest.raises(OSError, match='No space'): launch(again)
    assert content(tmp_path/'out'/'model') == before and finished(again) is None and finished(one)
    assert [p.name for p in tmp_path.iterdir()] == ['out'] and not list((tmp_path/'out').glob('.*'))

def test_full_disk_while_saving_a_checkpoint(job, tmp_path):
    one, ckpt = job('finetune', tmp_path/'out', {'fit.updates': 3}, checkpoint_every=1), tmp_path/'out'/'last.ckpt'
    with pytest.MonkeyPatch.context() as m:
        fill_disk(m, L.Trainer, 'save_checkpoint', after=1)
        with pytest.raises(OSError, match='No space'): launch(one)
    assert resume_point(ckpt, one.id) == 1 and not list(ckpt.parent.glob('.*'))
    assert launch(one)['resumed']

class FullVideoWriter:
    "OpenCV tells nobody when frames do not reach the disk."
    def __init__(self, *args, real=film.cv2.VideoWriter, **kwargs): self.film, self.left = real(*args, **kwargs), 5
    def write(self, frame):
        if not self.left: return
        self.film.write(frame)
        self.left -= 1
    def release(self): self.film.release()

@pytest.mark.parametrize('what', ['sound', 'video', 'manifest'])
def test_full_disk_while_making_a_corpus(tmp_path, what):
    "What is written stays, nothing half-written is left, and the next call finishes the work."
    how = dict(clips=(2, 1, 1), noise_files=(1, 1, 1), num_workers=0)
    with pytest.MonkeyPatch.context() as m:
        if what == 'video': m.setattr(film.cv2, 'VideoWriter', FullVideoWriter)
        else: fill_disk(m, *{'sound': (sound.sf, 'write', 3), 'manifest': (CutSet, 'to_file', 1)}[what])
        with pytest.raises(OSError, match='No space|is the disk full'): make_corpus(tmp_path/'corpus', **how)
    files = [p for p in (tmp_path/'corpus').rglob('*') if p.is_file()]
    assert not [p for p in files if p.name.startswith('.') or p.read_bytes() == b'half']
    make_corpus(tmp_path/'corpus', **how)
    for split in ('train', 'valid', 'test'): check_cuts(load_cuts(tmp_path/'corpus', split))

# what is given to a model: (what the error says) for arguments that are wrong, by name
FBANK, FRAMES, SOUND = torch.zeros(2, 6, 104), torch.zeros(2, 6, 88, 88), torch.zeros(2, 1600)
WRONG_AV = [
    (dict(video=FRAMES.byte()), 'normalise_video'),
    (dict(video=FRAMES[..., :80, :80]), '88x88'),
    (dict(video=FRAMES[:, :0]), r'one frame; got \(2, 0, 88, 88\)'),
    (dict(audio=FBANK[:, :0]), r'one frame; got \(2, 0, 104\)'),
    (dict(audio=FBANK[..., :80]), r'\(2, 6, 80\)'),
    (dict(audio=FBANK.long()), 'torch.int64'),
    (dict(audio=torch.where(torch.arange(2)[:, None, None] == 1, torch.nan, FBANK)), r'clips \[1\].*filterbank'),
    (dict(video=torch.where(torch.arange(2)[:, None, None, None] == 0, torch.inf, FRAMES)), r'clips \[0\].*pixels'),
    (dict(audio=FBANK, video=FRAMES[:, :5]), 'cut or pad the audio'),
    (dict(audio=FBANK, padding_mask=torch.zeros(2, 5, dtype=torch.bool)), 'bool padding_mask'),
    (dict(audio=FBANK.tolist()), 'got a list'),
    ({}, 'got neither'),
]
WRONG_SOUND = [
    (dict(wav=SOUND[0]), r'\(1600,\).*wav\[None\]'),
    (dict(wav=SOUND.short()), 'divide 16-bit integers'),
    (dict(wav=SOUND[:, :0]), r'\[0, 0\] samples'),
    (dict(wav=SOUND*torch.nan), r'clips \[0, 1\]'),
    (dict(wav=SOUND, lengths=torch.tensor([1600, 1700])), r'clips \[1\]'),
    (dict(wav=SOUND, lengths=torch.tensor([1600., 1600.])), 'as integers'),
    (dict(wav=SOUND, mask=torch.ones(2, 3, dtype=torch.bool)), r'bool mask \(2, 4\)'),
]

@pytest.mark.parametrize('given, told', WRONG_AV)
def test_what_av_hubert_refuses(given, told):
    with pytest.raises(ValueError, match=told): AVHubert(avhubert_config('tiny', **AV))(**given)

@pytest.mark.parametrize('given, told', WRONG_SOUND)
def test_what_hubert_refuses(given, told):
    with pytest.raises(ValueError, match=told): Hubert(hubert_config('hubert_tiny', **WAV))(**given)

@pytest.mark.parametrize('kind', [np.float64, np.float32, np.float16])
@torch.no_grad()
def test_any_precision_is_right(kind):
    "NumPy arrays of any precision go in; what comes out is that of the same values in the model's own type."
    rng = np.random.default_rng(0)
    lips, voice = AVHubert(avhubert_config('tiny', **AV)).eval(), Hubert(hubert_config('hubert_tiny', **WAV)).eval()
    audio, video, wav = (rng.normal(size=t.shape).astype(kind) for t in (FBANK, FRAMES, SOUND))
    full, ends = torch.from_numpy, np.array([1600, 1200])
    torch.testing.assert_close(lips(audio, video).last, lips(full(audio).float(), full(video).float()).last)
    torch.testing.assert_close(voice(wav, ends).last, voice(full(wav).float(), torch.tensor(ends)).last)
    both = lips.double()(full(audio).double(), full(video).double()).last
    assert both.dtype == torch.float64

@torch.no_grad()
def test_half_precision_normalises_loud_sound():
    "Squares of ten loud seconds add up to more than half precision can hold."
    torch.manual_seed(0)
    model = Hubert(hubert_config('hubert_tiny', **WAV | dict(conv_norm='layer', normalize_wav=True))).eval()
    loud = torch.rand(1, 160_000)*2 - 1
    whole = model(loud*1.5).last
    half = model.bfloat16()(loud*1.5).last
    assert (half.float() - whole).norm() < 0.1*whole.norm()
    assert whole.std() > 0.1
